"""What a ZODB client may rely on, one function each: `features.py NAME ADDRESS [ARGUMENTS]`.

Each makes what it needs and asserts what it finds. They pass against ZEO's own server as well (those
that say otherwise excepted), which is how they were checked.
"""
import os
import subprocess
import sys
import tempfile
import threading
import time

import transaction
import ZODB
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZEO.Exceptions import ClientDisconnected, ServerException
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import (
    ConflictError, POSError, POSKeyError, ReadConflictError, ReadOnlyError, StorageTransactionError,
)
from ZODB.utils import load_current, maxtid, p64, u64, z64

import common
from common import client, connection, database, tuples

FEATURES = {}


def feature(function):
    FEATURES[function.__name__] = function
    return function


def raises(kind, action, *args, **kw):
    try:
        action(*args, **kw)
    except kind as error:
        return error
    raise AssertionError(f"{action} did not raise {kind}")


def fill(db, count, note="fill"):
    """Commits one object again and again; returns its oid and the TIDs, oldest first."""
    with connection(db) as conn:
        tids = []
        thing = conn.root()["thing"] = PersistentMapping(value=0)
        for value in range(count):
            thing["value"] = value
            conn.transaction_manager.get().note(f"{note} {value}")
            conn.transaction_manager.commit()
            tids.append(thing._p_serial)
        return thing._p_oid, tids


def store(storage, oid, serial, data, note="raw"):
    """One record, without a database."""
    txn = TransactionMetaData(user="raw", description=note)
    storage.tpc_begin(txn)
    try:
        storage.store(oid, serial, data, "", txn)
        storage.tpc_vote(txn)
        return storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise


@feature
def history(address):
    with database(address) as db:
        oid, tids = fill(db, 5)
        entries = db.storage.history(oid, 3)
        assert [entry["tid"] for entry in entries] == tids[:-4:-1], entries
        assert [common.text(entry["description"]) for entry in entries] == ["fill 4", "fill 3", "fill 2"]
        for entry in entries:
            assert entry["size"] > 10 and abs(entry["time"] - time.time()) < 3600, entry
            assert entry["user_name"] in (b"", ""), entry
        assert len(db.storage.history(oid, 100)) == 5
        raises(POSKeyError, db.storage.history, p64(1 << 40))
        # Through a connection, as Zope's history tab does it.
        assert len(db.history(oid, size=2)) == 2


@feature
def iteration(address):
    with database(address) as db:
        oid, tids = fill(db, 30)
        storage = db.storage
        everything = list(common.transactions(storage))
        assert [int(txn["tid"], 16) for txn in everything][-30:] == [u64(tid) for tid in tids]
        assert everything[-1]["description"] == "fill 29"
        some = list(common.transactions(storage, tids[3], tids[7]))
        assert [int(txn["tid"], 16) for txn in some] == [u64(tid) for tid in tids[3:8]]
        assert [txn["records"] for txn in some] == [txn["records"] for txn in everything[-27:-22]]
        assert list(storage.iterator(p64(u64(tids[-1]) + 1))) == []
        # Two at a time, and one that is left half-way.
        one, other = storage.iterator(), storage.iterator()
        assert [next(one).tid, next(one).tid] == [next(other).tid, next(other).tid]
        record = next(iter(next(one)))
        assert record.data and record.tid
        del one, other
        assert len(list(storage.iterator())) == len(everything)


@feature
def record_iternext(address):
    with database(address) as db:
        with connection(db) as conn:
            for number in range(50):
                conn.root()[str(number)] = PersistentMapping(number=number)
            conn.transaction_manager.commit()
        seen, cookie = {}, None
        while True:
            oid, tid, data, cookie = db.storage.record_iternext(cookie)
            seen[oid] = (data, tid)
            if cookie is None:
                break
        assert len(seen) == 51, len(seen)
        assert list(seen) == sorted(seen)
        for oid, (data, tid) in seen.items():
            assert load_current(db.storage, oid) == (data, tid)


@feature
def revisions(address):
    """loadSerial, loadBefore, getTid, and a database as it was."""
    with database(address) as db:
        oid, tids = fill(db, 6)
        storage = db.storage
        datas = [storage.loadSerial(oid, tid) for tid in tids]
        assert len(set(datas)) == 6
        for index, tid in enumerate(tids):
            before = storage.loadBefore(oid, tid)
            if index == 0:
                assert before is None, before
            else:
                assert before == (datas[index - 1], tids[index - 1], tid)
        assert storage.loadBefore(oid, maxtid) == (datas[-1], tids[-1], None)
        assert storage.getTid(oid) == tids[-1]
        raises(POSKeyError, storage.loadSerial, oid, p64(u64(tids[0]) + 1))
        raises(POSKeyError, storage.loadBefore, p64(1 << 40), maxtid)
        raises(POSKeyError, storage.getTid, p64(1 << 40))
        past = db.open(transaction.TransactionManager(), at=tids[2])
        assert past.root()["thing"]["value"] == 2
        past.close()


@feature
def cache_verified(address, changes="3", dropped="no"):
    """A client with a cache on disk comes back and is told what it missed."""
    with tempfile.TemporaryDirectory() as folder:
        cache = os.path.join(folder, "cache.zec")
        with database(address) as writer:
            with connection(writer) as conn:
                for name in ("stays", "goes"):
                    conn.root()[name] = PersistentMapping(value="old")
                conn.transaction_manager.commit()
                stays, goes = (conn.root()[name]._p_oid for name in ("stays", "goes"))
            reader = client(address, cache=cache)
            for oid in (stays, goes):
                load_current(reader, oid)
            last = reader.lastTransaction()
            reader.close()
            with connection(writer) as conn:
                for change in range(int(changes)):
                    conn.root()["goes"]["value"] = f"new {change}"
                    conn.transaction_manager.commit()
                written = conn.root()["goes"]._p_serial

            reader = client(address, cache=cache)
            assert reader.lastTransaction() == written > last
            in_cache = reader._cache.load(stays)
            if dropped == "yes":
                assert in_cache is None, "the queue did not reach back: the cache must be dropped"
            else:
                assert in_cache is not None, "what did not change stays in the cache"
            assert reader._cache.load(goes) is None, "what changed must go from the cache"
            assert load_current(reader, goes)[1] == written
            assert load_current(reader, stays)[1] <= last
            reader.close()


@feature
def read_only(address):
    """A client that asks for read-only is not let write, and sees what others write."""
    with database(address) as writer, database(address, read_only=True) as reader:
        oid, tids = fill(writer, 3)
        until(lambda: reader.storage.lastTransaction() == tids[-1])
        with connection(reader) as conn:
            assert conn.root()["thing"]["value"] == 2
            conn.root()["thing"]["value"] = "mine"
            raises(ReadOnlyError, conn.transaction_manager.commit)
        raises(ReadOnlyError, reader.storage.new_oid)
        # The server itself refuses, not only the polite client.
        storage = reader.storage
        storage._is_read_only = False
        try:
            raises((ReadOnlyError, ClientDisconnected, ServerException), store, storage, oid, tids[-1], b"x")
        finally:
            storage._is_read_only = True
        with connection(writer) as conn:
            assert conn.root()["thing"]["value"] == 2


@feature
def read_only_server(address):
    """The configuration says read_only: who wants to write is refused, who can do without is served."""
    reader = client(address, read_only=True)
    assert reader.isReadOnly()
    load_current(reader, z64)
    reader.close()
    fallback = client(address, read_only_fallback=True)
    assert fallback.isReadOnly()
    load_current(fallback, z64)
    raises(ReadOnlyError, store, fallback, z64, z64, b"x")
    fallback.close()
    raises((ClientDisconnected, ReadOnlyError), client, address, wait_timeout=3)


@feature
def read_current(address):
    """`readCurrent` fails where what was relied on has changed, and only there."""
    with database(address) as db, connection(db) as one, connection(db) as other:
        root = one.root()
        root["relied on"] = PersistentMapping(value=1)
        root["written"] = PersistentMapping(value=1)
        one.transaction_manager.commit()
        other.sync()

        one.root()["written"]["value"] = 2
        one.readCurrent(one.root()["relied on"])
        one.transaction_manager.commit()
        other.sync()

        one.root()["written"]["value"] = 3
        one.readCurrent(one.root()["relied on"])
        other.root()["relied on"]["value"] = 2
        other.transaction_manager.commit()
        error = raises(ReadConflictError, one.transaction_manager.commit)
        assert error.oid == one.root()["relied on"]._p_oid, error
        one.transaction_manager.abort()
        assert one.root()["written"]["value"] == 2


def relies(conn, name):
    # A ghost has no serial, and relying on it means nothing.
    conn.root()[name]._p_activate()
    conn.readCurrent(conn.root()[name])


@feature
def read_current_beside_conflicts(address):
    """What is relied on counts also where everything that is written can be resolved; and it is the server that
    says so, though the client has heard nothing."""
    with database(address) as db, database(address) as db2:
        with connection(db) as one:
            root = one.root()
            root["count"], root["relied on"] = Length(), PersistentMapping(value=0)
            one.transaction_manager.commit()
            until(lambda: db2.storage.lastTransaction() == db.storage.lastTransaction())
            with connection(db2) as two:
                for turn in range(1, 4):
                    two.sync()
                    two.root()["count"]()
                    relies(two, "relied on")
                    two.root()["count"].change(1)
                    # Resolved, since only the count has changed meanwhile.
                    one.root()["count"].change(10)
                    one.transaction_manager.commit()
                    two.transaction_manager.commit()
                    until(lambda: (one.sync(), one.root()["count"]() == 11 * turn)[1])

                    until(lambda: (two.sync(), two.root()["count"]() == 11 * turn)[1])
                    relies(two, "relied on")
                    two.root()["count"].change(1)
                    read = two.root()["relied on"]._p_serial
                    one.root()["count"].change(0)
                    one.root()["relied on"]["value"] = turn
                    one.transaction_manager.commit()
                    error = raises(ReadConflictError, two.transaction_manager.commit)
                    assert error.oid == two.root()["relied on"]._p_oid, vars(error)
                    assert error.serials == (one.root()["relied on"]._p_serial, read), vars(error)
                    two.transaction_manager.abort()
                    until(lambda: (two.sync(), two.root()["relied on"]["value"] == turn)[1])
                    assert two.root()["count"]() == 11 * turn
        assert db.storage._connection_generation == db2.storage._connection_generation == 1


@feature
def conflicts(address):
    """What can be resolved is, by the client; what cannot is a ConflictError with all that it says."""
    with database(address) as db, database(address) as db2:
        with connection(db) as one:
            one.root()["tree"] = OOBTree()
            one.root()["plain"] = PersistentMapping(value=0)
            one.transaction_manager.commit()
            until(lambda: db2.storage.lastTransaction() == db.storage.lastTransaction())
            with connection(db2) as two:
                two.sync()
                assert len(two.root()["tree"]) == 0
                one.root()["tree"]["a"] = 1
                two.root()["tree"]["b"] = 2
                one.transaction_manager.commit()
                two.transaction_manager.commit()
                two.sync()
                assert dict(two.root()["tree"]) == {"a": 1, "b": 2}

                one.sync()
                until(lambda: (one.sync(), "b" in one.root()["tree"])[1])
                read = two.root()["plain"]["value"], two.root()["plain"]._p_serial
                one.root()["plain"]["value"] = 1
                one.transaction_manager.commit()
                two.root()["plain"]["value"] = 2
                error = raises(ConflictError, two.transaction_manager.commit)
                assert error.oid == two.root()["plain"]._p_oid, vars(error)
                committed, old = error.serials
                assert old == read[1] and committed == one.root()["plain"]._p_serial, vars(error)
                two.transaction_manager.abort()
                two.sync()
                assert two.root()["plain"]["value"] == 1


@feature
def order(address, observers="3", rounds="150"):
    """One process writes first here, then there; others must never see there before here."""
    with database(address) as db, connection(db) as conn:
        root = conn.root()
        root["first"], root["then"] = PersistentMapping(value=0), PersistentMapping(value=0)
        conn.transaction_manager.commit()
        watching = [
            subprocess.Popen([sys.executable, __file__, "observe", address, rounds], stdout=subprocess.PIPE)
            for _ in range(int(observers))
        ]
        for each in watching:
            assert each.stdout.readline() == b"ready\n"
        for value in range(1, int(rounds) + 1):
            for name in ("first", "then"):
                root[name]["value"] = value
                conn.transaction_manager.commit()
        for each in watching:
            assert each.wait(120) == 0
            print(each.stdout.read().decode().strip())


@feature
def observe(address, rounds):
    seen = -1
    with database(address, cache_size=200_000) as db, connection(db) as conn:
        print("ready", flush=True)
        end, looks, steps = time.time() + 100, 0, 0
        while seen < int(rounds):
            assert time.time() < end, f"saw only {seen}"
            conn.sync()
            if looks % 10 == 0:
                conn.cacheMinimize()  # from the client's cache or the server again
            first, then = conn.root()["first"]["value"], conn.root()["then"]["value"]
            assert first - 1 <= then <= first, (first, then)
            assert then >= seen, f"went back from {seen} to {then}"
            steps += then > seen
            seen = then
            looks += 1
        print(f"{looks} looks, {steps} steps")


@feature
def large(address):
    """Records and transactions larger than any buffer."""
    with database(address, cache_size=1 << 20) as db, connection(db) as conn:
        data = os.urandom(1 << 20) * 24
        conn.root()["large"] = PersistentMapping(data=data)
        conn.transaction_manager.commit()
        for number in range(3000):
            conn.root()[str(number)] = PersistentMapping(data="y" * 9000)
        conn.transaction_manager.commit()
        conn.cacheMinimize()
        with database(address) as fresh, connection(fresh) as other:
            assert other.root()["large"]["data"] == data
            assert all(len(other.root()[str(number)]["data"]) == 9000 for number in range(3000))


@feature
def metadata(address):
    """User, description and extension come back as they were given, up to the largest."""
    with database(address) as db, connection(db) as conn:
        for user, description, extension in (
            ("", "", {}),
            ("Zoë /plone", "ümläute 漢字 \U0001f40d", {"a": [1, 2.5, None], "b": {"c": (1, b"d")}}),
            ("u" * 65535, "d" * 65535, {"bulk": "e" * 65000}),
        ):
            conn.root()["last"] = description
            txn = conn.transaction_manager.get()
            txn.user, txn.description = user, description
            txn.extension.update(extension)
            conn.transaction_manager.commit()
            *_, last = db.storage.iterator()
            assert common.text(last.user) == user
            assert common.text(last.description) == description
            assert tuples(last.extension) == tuples(extension), last.extension
        # Longer than the file's format can say: an error, not a cut text, and not the end.
        conn.root()["last"] = "too long"
        conn.transaction_manager.get().description = "d" * 65536
        error = raises(Exception, conn.transaction_manager.commit)
        print(type(error).__name__, str(error)[:200])
        conn.transaction_manager.abort()
        conn.root()["last"] = "short"
        conn.transaction_manager.commit()


@feature
def transaction_timeout(address):
    """Who votes and then hangs loses its connection; who waits for it goes on."""
    hanging = client(address)
    txn = TransactionMetaData()
    hanging.tpc_begin(txn)
    hanging.store(hanging.new_oid(), z64, b"never", "", txn)
    hanging.tpc_vote(txn)
    started = time.time()
    with database(address) as db:
        fill(db, 2)
    waited = time.time() - started
    assert 0.3 < waited < 30, waited
    raises((ClientDisconnected, StorageTransactionError, POSError), hanging.tpc_finish, txn)
    hanging.close()


@feature
def vote_then_leave(address):
    """Who disconnects between vote and finish has aborted, and the lock is free at once."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import features, os\n"
        "s = features.client(sys.argv[2]); t = features.TransactionMetaData(description='left')\n"
        "s.tpc_begin(t); s.store(s.new_oid(), features.z64, b'left', '', t); s.tpc_vote(t)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__), address], check=True)
    with database(address) as db:
        fill(db, 2)
        assert not [txn for txn in db.storage.iterator() if txn.description == b"left"]


@feature
def vote_and_hold(address):
    """Votes, and never finishes: until its standard input ends."""
    storage = client(address)
    txn = TransactionMetaData(description="held")
    storage.tpc_begin(txn)
    storage.store(storage.new_oid(), z64, b"held", "", txn)
    storage.tpc_vote(txn)
    print("voted", flush=True)
    sys.stdin.read()


@feature
def waiting_client_is_served(address):
    """A client that waits for the commit lock loads meanwhile, and abort frees the lock."""
    with database(address) as db:
        fill(db, 1)
    one, other = client(address), client(address)
    txn, txn2 = TransactionMetaData(), TransactionMetaData()
    one.tpc_begin(txn)
    one.store(one.new_oid(), z64, b"one", "", txn)
    one.tpc_vote(txn)
    other.tpc_begin(txn2)
    oid = other.new_oid()
    other.store(oid, z64, b"other", "", txn2)
    voted = threading.Event()
    thread = threading.Thread(target=lambda: (other.tpc_vote(txn2), voted.set()), daemon=True)
    thread.start()
    assert other.server_status()["connections"] >= 2
    other.history(z64)
    assert not voted.is_set()
    one.tpc_abort(txn)
    assert voted.wait(20)
    thread.join()
    other.tpc_finish(txn2)
    assert load_current(other, oid)[0] == b"other"
    one.close()
    other.close()


@feature
def new_oids(address):
    """No oid is given twice, also to clients that come after a restart."""
    storages = [client(address) for _ in range(3)]
    oids = [storage.new_oid() for _ in range(250) for storage in storages]
    assert len(set(oids)) == len(oids)
    for storage in storages:
        storage.close()
    print(max(oids).hex())


@feature
def small_talk(address):
    """ping, server_status, the label, the size, and Nagios' plugin with `ruok`."""
    with database(address, client_label="a label") as db:
        fill(db, 3)
        storage = db.storage
        storage.ping()
        status = storage.server_status()
        assert status["connections"] >= 1 and status["stores"] >= 3, status
        until(lambda: len(storage) >= 2 and storage.getSize() > 100)
        assert storage.getName()
        done = subprocess.run(
            [os.path.join(os.path.dirname(sys.executable), "zeo-nagios"), address.removeprefix("unix:")],
            capture_output=True, text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout.strip())


@feature
def hammer_reads(address):
    """Loads from many threads while others commit: every answer is of one moment."""
    with database(address) as db:
        with connection(db) as conn:
            for number in range(10):
                conn.root()[str(number)] = PersistentMapping(value=0)
            conn.transaction_manager.commit()
        stop, problems = threading.Event(), []

        def read():
            with database(address, cache_size=4000) as mine:
                while not stop.is_set():
                    with connection(mine) as conn:
                        conn.cacheMinimize()
                        values = {conn.root()[str(number)]["value"] for number in range(10)}
                        if len(values) != 1:
                            problems.append(values)
                            stop.set()

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        with connection(db) as conn:
            for value in range(1, 120):
                for number in range(10):
                    conn.root()[str(number)]["value"] = value
                conn.transaction_manager.commit()
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems, problems


@feature
def stored_oid(address):
    """Stores an object and prints its oid; none may be above it."""
    with database(address) as db, connection(db) as conn:
        thing = conn.root()["thing"] = PersistentMapping()
        conn.transaction_manager.commit()
        oids = [oid.hex() for txn in db.storage.iterator() for oid in {r.oid for r in txn}]
        assert max(oids) == thing._p_oid.hex(), (max(oids), thing._p_oid.hex())
        print(thing._p_oid.hex())


@feature
def cache_fill(address, cache):
    """First of three: a client with a cache on disk loads two objects and leaves."""
    with database(address) as db, connection(db) as conn:
        for name in ("stays", "goes"):
            conn.root()[name] = PersistentMapping(value="old")
        conn.transaction_manager.commit()
    with database(address, cache=cache) as db, connection(db) as conn:
        assert conn.root()["stays"]["value"] == conn.root()["goes"]["value"] == "old"


@feature
def cache_change(address, changes="1"):
    with database(address) as db, connection(db) as conn:
        for change in range(int(changes)):
            conn.root()["goes"]["value"] = "new"
            conn.root()["goes"]["change"] = change
            conn.transaction_manager.commit()


@feature
def cache_check(address, cache, dropped="no"):
    """Last of three: what was changed meanwhile is new, what was not comes from the cache, unless that had
    to be dropped."""
    storage = client(address, cache=cache)
    loaded = []
    ask = storage._server.load_before
    storage._server.load_before = lambda oid, tid: loaded.append(oid) or ask(oid, tid)
    db = ZODB.DB(storage)
    with connection(db) as conn:
        assert conn.root()["goes"]["value"] == "new"
        assert conn.root()["stays"]["value"] == "old"
        assert conn.root()["goes"]._p_oid in loaded
        if dropped == "yes":
            assert conn.root()["stays"]._p_oid in loaded, "nobody could know that this is still true"
        else:
            assert conn.root()["stays"]._p_oid not in loaded, "the cache was dropped without need"
    db.close()


@feature
def idle(address):
    """Looks when its standard input is closed: what others wrote meanwhile must be seen."""
    with database(address) as db, connection(db) as conn:
        before = conn.root()["counter"]()
        print("ready", flush=True)
        sys.stdin.read()
        until(lambda: (conn.sync(), conn.root()["counter"]() > before)[1])


@feature
def bulk(address, count="60", size="200000"):
    """Commits that weigh something, for what must take a while."""
    with database(address) as db, connection(db) as conn:
        thing = conn.root()["bulk"] = PersistentMapping()
        for number in range(int(count)):
            thing["data"] = os.urandom(1000) * (int(size) // 1000)
            conn.transaction_manager.get().note(f"bulk {number}")
            conn.transaction_manager.commit()


@feature
def plain_visit(address):
    """The least that a client does. Prints how often it was done."""
    with database(address) as db, connection(db) as conn:
        conn.root()["visits"] = conn.root().get("visits", 0) + 1
        conn.transaction_manager.commit()
        print("visits", conn.root()["visits"])


@feature
def idle_visits(address):
    """The same, by a client that has been there for a while: when its standard input is closed."""
    with database(address) as db, connection(db) as conn:
        print("ready", flush=True)
        sys.stdin.read()
        conn.sync()
        conn.root()["visits"] = conn.root().get("visits", 0) + 1
        conn.transaction_manager.commit()


@feature
def visited(address):
    """Prints how often `plain_visit` was done, and changes nothing."""
    with database(address) as db, connection(db) as conn:
        print("visits", conn.root()["visits"])


def until(holds, seconds=20):
    end = time.time() + seconds
    while not holds():
        assert time.time() < end, "waited in vain"
        time.sleep(0.01)


if __name__ == "__main__":
    FEATURES[sys.argv[1]](*sys.argv[2:])
