"""Blobs, as ZODB clients use them: `blob_features.py NAME ADDRESS [SHARED DIRECTORY]`."""
import contextlib
import random
import sys
import tempfile
import threading
import time

from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import IBlobStorage
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError
from ZODB.utils import load_current, p64

from common import connection, database
from features import FEATURES, feature, raises, relies, until


@contextlib.contextmanager
def blob_clients(address, shared=None):
    """Two clients that can blobs: each with a cache of its own, or both with the server's directory."""
    with contextlib.ExitStack() as stack:
        dbs = []
        for _ in range(2):
            if shared:
                options = {"blob_dir": shared, "shared_blob_dir": True}
            else:
                options = {"blob_dir": stack.enter_context(tempfile.TemporaryDirectory())}
            dbs.append(stack.enter_context(database(address, **options)))
            assert IBlobStorage.providedBy(dbs[-1].storage)
        yield dbs


def content(name, size):
    """Bytes that are the same each time, and differ everywhere."""
    return random.Random(name).randbytes(size)


def read(blob):
    with blob.open() as file:
        return file.read()


def revision(blob):
    # After a commit it is a ghost, which has no serial.
    blob._p_activate()
    return blob._p_oid, blob._p_serial


def caught_up(db, with_db):
    until(lambda: db.storage.lastTransaction() >= with_db.storage.lastTransaction())


def note(manager, description):
    manager.get().note(description)
    manager.commit()


@feature
def blobs(address, *options):
    """Blobs of all sizes come back as they were stored, to other clients too, and old revisions as well."""
    sizes = {"empty": 0, "small": 5, "chunk": 59000, "more": 59001, "large": 20_000_000}
    with blob_clients(address, *options) as (db, db2), connection(db) as conn:
        for name, size in sizes.items():
            conn.root()[name] = Blob(content(name, size))
        conn.root()["many"] = PersistentMapping(
            {number: Blob(b"%d" % number) for number in range(100)})
        conn.transaction_manager.commit()
        caught_up(db2, db)
        with connection(db2) as other:
            for name, size in sizes.items():
                assert read(other.root()[name]) == content(name, size), name
            for number, blob in other.root()["many"].items():
                assert read(blob) == b"%d" % number
            # Changed by the other, and read by the first; the old revision is still there.
            first = revision(other.root()["small"])
            with other.root()["small"].open("w") as file:
                file.write(b"changed")
            other.transaction_manager.commit()
            second = revision(other.root()["small"])
        caught_up(db, db2)
        conn.sync()
        assert read(conn.root()["small"]) == b"changed"
        for db_ in (db, db2):
            for serial, expected in ((first, content("small", 5)), (second, b"changed")):
                with open(db_.storage.loadBlob(*serial), "rb") as file:
                    assert file.read() == expected, (serial, expected)
        # Appended to, and a savepoint before.
        with conn.root()["small"].open("a") as file:
            file.write(b" again")
        conn.transaction_manager.savepoint()
        with conn.root()["small"].open("a") as file:
            file.write(b" and again")
        conn.transaction_manager.commit()
        assert read(conn.root()["small"]) == b"changed again and again"
        raises(POSKeyError, db.storage.loadBlob, p64(1 << 40), second[1])
        assert db.storage._connection_generation == db2.storage._connection_generation == 1


@feature
def many_blobs(address, count="1000"):
    """Far more blobs in one transaction than files may be open."""
    numbers = range(int(count))
    with blob_clients(address) as (db, db2), connection(db) as conn:
        blobs = {number: Blob(b"%d" % number) for number in numbers}
        conn.root()["many"] = PersistentMapping(blobs)
        conn.transaction_manager.commit()
        caught_up(db2, db)
        with connection(db2) as other:
            for number in random.sample(numbers, 50):
                assert read(other.root()["many"][number]) == b"%d" % number


@feature
def blob_aborts(address, *options):
    """An aborted blob leaves nothing behind, in conflict or not; who leaves half-way does no harm."""
    with blob_clients(address, *options) as (db, db2), connection(db) as one:
        one.root()["blob"] = Blob(b"first")
        one.transaction_manager.commit()
        caught_up(db2, db)
        with one.root()["blob"].open("w") as file:
            file.write(b"never")
        one.transaction_manager.abort()
        assert read(one.root()["blob"]) == b"first"
        # A blob conflict cannot be resolved by the client: it is a ConflictError, and the next try works.
        with connection(db2) as two:
            for conn, text in ((one, b"one"), (two, b"two")):
                with conn.root()["blob"].open("w") as file:
                    file.write(text)
            one.transaction_manager.commit()
            error = raises(ConflictError, two.transaction_manager.commit)
            assert error.oid == two.root()["blob"]._p_oid, error
            two.transaction_manager.abort()
            caught_up(db2, db)
            two.sync()
            assert read(two.root()["blob"]) == b"one"
            with two.root()["blob"].open("w") as file:
                file.write(b"two")
            two.transaction_manager.commit()
        caught_up(db, db2)
        one.sync()
        assert read(one.root()["blob"]) == b"two"
        assert db.storage._connection_generation == db2.storage._connection_generation == 1


@feature
def blob_conflicts(address, *options):
    """Blobs beside what can be resolved: a blob that nobody else changed goes with it, one that somebody changed
    is a ConflictError, and so is one that was relied on; what was uploaded for nothing is forgotten."""
    with blob_clients(address, *options) as (db, db2), connection(db) as one:
        one.root()["blob"], one.root()["count"] = Blob(b"first"), Length()
        one.root()["other"] = Blob(b"other")
        one.transaction_manager.commit()
        caught_up(db2, db)
        with connection(db2) as two:
            total = 0
            for size in (10, 59_001, 1_000_000):
                for ending in ("resolved", "conflict", "relied on"):
                    written = content(ending, size)
                    two.sync()
                    assert two.root()["count"]() == total
                    before = revision(two.root()["blob"]), read(two.root()["blob"])
                    with two.root()["blob"].open("w") as file:
                        file.write(written)
                    two.root()["count"].change(1)
                    if ending == "relied on":
                        relies(two, "other")

                    one.sync()
                    one.root()["count"].change(10)
                    if ending == "conflict":
                        with one.root()["blob"].open("w") as file:
                            file.write(b"in the way")
                    elif ending == "relied on":
                        with one.root()["other"].open("w") as file:
                            file.write(b"changed %d" % size)
                    one.transaction_manager.commit()
                    total += 10
                    if ending == "resolved":
                        two.transaction_manager.commit()
                        total += 1
                        expected = written
                    else:
                        kind, name = (ReadConflictError, "other") if ending == "relied on" else (ConflictError, "blob")
                        error = raises(kind, two.transaction_manager.commit)
                        assert error.oid == two.root()[name]._p_oid, (ending, vars(error))
                        two.transaction_manager.abort()
                        expected = b"in the way" if ending == "conflict" else before[1]
                    caught_up(db, db2)
                    caught_up(db2, db)
                    for conn in (one, two):
                        conn.sync()
                        assert read(conn.root()["blob"]) == expected, (ending, size)
                        assert conn.root()["count"]() == total, (ending, size)
                    # Whatever came of it, the revision before it is what it was.
                    with open(db.storage.loadBlob(*before[0]), "rb") as file:
                        assert file.read() == before[1], (ending, size)
        assert db.storage._connection_generation == db2.storage._connection_generation == 1


@feature
def half_uploads(address):
    """An upload that is not ended goes with its transaction. (ZEO's own server hangs up over it.)"""
    with blob_clients(address) as (db, db2), connection(db) as conn:
        conn.root()["blob"] = Blob(b"first")
        conn.transaction_manager.commit()
        storage, (oid, serial) = db.storage, revision(conn.root()["blob"])
        data = storage.loadSerial(oid, serial)
        for ending in ("abort", "refused", "abort"):
            txn = TransactionMetaData()
            storage.tpc_begin(txn)
            storage._async("storeBlobStart")
            for _ in range(100):
                storage._async("storeBlobChunk", b"x" * 50000)
            if ending == "refused":
                storage._async("storeBlobEnd", oid, p64(1), data, id(txn))
                raises(ConflictError, storage.tpc_vote, txn)
            storage.tpc_abort(txn)
        with conn.root()["blob"].open("w") as file:
            file.write(b"good")
        conn.transaction_manager.commit()
        assert read(conn.root()["blob"]) == b"good"
        assert storage._connection_generation == 1


@feature
def blobs_beside_loads(address):
    """While blobs are fetched by several threads, other calls of the same client are answered."""
    big = content("big", 30_000_000)
    with blob_clients(address) as (db, db2), connection(db) as conn:
        for number in range(6):
            conn.root()[number] = Blob(big[number:])
        thing = conn.root()["thing"] = PersistentMapping()
        conn.transaction_manager.commit()
        oids = [revision(conn.root()[number]) for number in range(6)]
        caught_up(db2, db)
        storage, got = db2.storage, {}

        def fetch(number):
            with open(storage.loadBlob(*oids[number]), "rb") as file:
                got[number] = file.read() == big[number:]

        threads = [threading.Thread(target=fetch, args=(number,)) for number in (0, 1, 2, 3, 4, 5, 0, 1)]
        for thread in threads:
            thread.start()
        pings, slowest = 0, 0
        while any(thread.is_alive() for thread in threads):
            start = time.time()
            storage.ping()
            load_current(storage, thing._p_oid)
            slowest = max(slowest, time.time() - start)
            pings += 1
        assert got == {number: True for number in range(6)}, got
        assert pings > 1
        print("pings", pings, "slowest", slowest)


@feature
def blob_undo(address, *options):
    """Undo brings back the file of a blob, and takes it away."""
    with blob_clients(address, *options) as (db, db2), connection(db) as conn:
        manager = conn.transaction_manager
        conn.root()["blob"] = Blob(b"first")
        note(manager, "first")
        with conn.root()["blob"].open("w") as file:
            file.write(b"second")
        note(manager, "second")
        for expected in (b"first", b"second", b"first"):
            db.undo(db.undoInfo(0, 1)[0]["id"], manager.get())
            note(manager, "undo")
            conn.sync()
            assert read(conn.root()["blob"]) == expected
            caught_up(db2, db)
            with connection(db2) as other:
                assert read(other.root()["blob"]) == expected


if __name__ == "__main__":
    FEATURES[sys.argv[1]](*sys.argv[2:])
