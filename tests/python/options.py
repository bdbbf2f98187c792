"""What is said of a server and its storages, one function each: `options.py NAME ADDRESS`."""
import socket
import ssl
import sys
import time

import transaction
import ZODB.config
from persistent.mapping import PersistentMapping
from ZEO.Exceptions import ClientDisconnected, ServerException
from ZODB.POSException import POSKeyError, ReadOnlyError
from ZODB.utils import load_current, p64, z64

import common
from common import client, connection, database, parse_address, secured_by
from features import FEATURES, feature, fill, raises, store, until


@feature
def refused(address):
    """No connection comes about."""
    raises(ClientDisconnected, client, address, wait_timeout=3)


@feature
def ssl_section(address):
    """The same by ZODB's configuration, with ZEO's `<ssl>` section, which is strict about certificates."""
    files, address = common.secured_by(address)
    text = f"""
        %import ZEO
        <zodb main>
          <clientstorage>
            server {address.removeprefix("unix:")}
            storage main
            wait-timeout 60
            <ssl>
              certificate {files["certificate"]}
              key {files["key"]}
              authenticate {files["authenticate"]}
              server-hostname {files["name"]}
            </ssl>
          </clientstorage>
        </zodb>
    """
    db = ZODB.config.databaseFromString(text)
    with connection(db) as conn:
        conn.root()["ssl"] = PersistentMapping(data="x" * 3_000_000)
        conn.transaction_manager.commit()
        conn.cacheMinimize()
        assert len(conn.root()["ssl"]["data"]) == 3_000_000
    db.close()


def note(conn, text):
    conn.transaction_manager.get().note(text)
    conn.transaction_manager.commit()


@feature
def two_arrays(address):
    """What is done to one array is done to it alone."""
    with database(address, storage="one") as one, database(address, storage="two") as two, \
            database(address, storage="first") as alias:
        heard = []
        invalidate = two.storage._db.invalidate
        two.storage._db.invalidate = lambda tid, oids, *rest: heard.append(tid) or invalidate(tid, oids, *rest)
        with connection(one) as in_one, connection(two) as in_two:
            for number, conn in enumerate((in_one, in_two)):
                conn.root()["name"] = PersistentMapping(number=number)
                conn.root()["gone"] = PersistentMapping(data="x" * 1000)
                note(conn, f"number {number}")
            oids = [conn.root()["name"]._p_oid for conn in (in_one, in_two)]
            assert oids[0] == oids[1], "both count from the beginning"
            last_two = two.storage.lastTransaction()
            heard.clear()
            for value in range(5):
                in_one.root()["name"]["value"] = value
                note(in_one, f"value {value}")
            gone = in_one.root()["gone"]._p_oid
            assert gone == in_two.root()["gone"]._p_oid
            in_one.sync(), in_two.sync()
            assert in_one.root()["name"]["number"] == 0 and in_two.root()["name"]["number"] == 1
            assert "value" not in in_two.root()["name"]
            until(lambda: alias.storage.lastTransaction() == one.storage.lastTransaction())
            two.storage.sync()
            assert two.storage.lastTransaction() == last_two and not heard
            # Each holds its own commit lock.
            txn = transaction.TransactionManager().get()
            one.storage.tpc_begin(txn)
            one.storage.store(oids[0], in_one.root()["name"]._p_serial, b"held", "", txn)
            one.storage.tpc_vote(txn)
            in_two.root()["name"]["while"] = "the other votes"
            note(in_two, "while the other votes")
            one.storage.tpc_abort(txn)
            for conn in (in_one, in_two):
                del conn.root()["gone"]
                note(conn, "gone")
        for db in (one, two):
            db.storage.pack(time.time() + 1, None, wait=True)
        # One keeps garbage, the other keeps the old file.
        load_current(one.storage, gone)
        two.storage._cache.clear()
        raises(POSKeyError, load_current, two.storage, gone)
    raises((ValueError, ServerException, ClientDisconnected), client, address, storage="three", wait_timeout=3)


@feature
def one_is_read_only(address):
    """Of two arrays: of one nobody may write or pack, the other is as ever."""
    raises((ClientDisconnected, ReadOnlyError), client, address, storage="one", wait_timeout=3)
    reader = client(address, storage="one", read_only=True)
    fallback = client(address, storage="1", read_only_fallback=True)
    for storage in (reader, fallback):
        assert storage.isReadOnly()
        load_current(storage, z64)
        raises(ReadOnlyError, store, storage, z64, z64, b"x")
        raises(ReadOnlyError, storage.new_oid)
        raises(ReadOnlyError, storage.pack, time.time(), None, wait=True)
        storage.close()
    with database(address, storage="two") as db:
        assert not db.storage.isReadOnly()
        fill(db, 3)
        db.storage.pack(time.time() + 1, None, wait=True)


@feature
def fallback(addresses):
    """One of the servers is writable, then it is gone, then it is back."""
    storage = client(addresses, read_only_fallback=True)
    until(lambda: not storage.isReadOnly(), 60)
    store(storage, z64, z64, b"first")
    print("written", flush=True)
    until(storage.isReadOnly, 60)
    until(lambda: reads(storage), 60)
    assert load_current(storage, z64)[0] == b"first"
    raises(ReadOnlyError, store, storage, p64(1), z64, b"refused")
    print("reading", flush=True)
    until(lambda: not storage.isReadOnly(), 60)
    _, serial = load_current(storage, z64)
    store(storage, z64, serial, b"second")
    assert load_current(storage, z64)[0] == b"second"
    print("written again", flush=True)
    storage.close()


@feature
def resized(address):
    """Whoever packs, clients hear how much is left."""
    with database(address) as db, connection(db) as conn:
        for number in range(3):
            conn.root()["text"] = str(number) * 100_000
            conn.transaction_manager.commit()
        before = db.storage.getSize()
        print("stored", flush=True)
        until(lambda: db.storage.getSize() < before - 150_000, 60)


@feature
def silent_after_tls(address):
    """TLS is there, and the client chooses no encoding."""
    files, address = secured_by(address)
    context = ssl.create_default_context(cafile=files["authenticate"])
    context.load_cert_chain(files["certificate"], files["key"])
    with socket.create_connection(parse_address(address), 20) as plain:
        with context.wrap_socket(plain, server_hostname=files["name"]) as stream:
            assert stream.recv(6) == b"\0\0\0\x02Z5"
            print("the server speaks", flush=True)
            assert stream.recv(1) == b""
            print("it hung up")


def reads(storage):
    """Whether a server answers: between two of them there is none."""
    try:
        storage._cache.clear()
        load_current(storage, z64)
        return True
    except ClientDisconnected:
        return False


if __name__ == "__main__":
    FEATURES[sys.argv[1]](*sys.argv[2:])
