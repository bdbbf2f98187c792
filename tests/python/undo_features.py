"""Undo, packing and what else copies and keeps a database: `undo_features.py NAME ADDRESS [ARGUMENTS]`."""
import base64
import re
import sys
import time

import transaction
from persistent.mapping import PersistentMapping
from ZEO.Exceptions import ServerException
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import IExternalGC
from ZODB.POSException import ConflictError, MultipleUndoErrors, POSKeyError, ReadConflictError, UndoError
from ZODB.utils import load_current, p64, u64, z64

from blob_features import blob_clients, caught_up, note, read
from common import connection, database, text
from features import FEATURES, feature, fill, raises, until


@feature
def undo(address):
    """Undo as ZODB's users know it: of changes, of undos, of a creation; and what cannot be undone."""
    with database(address) as db, connection(db) as conn:
        manager, root = conn.transaction_manager, conn.root()
        assert db.supportsUndo()
        thing = root["thing"] = PersistentMapping(value="created")
        other = root["other"] = PersistentMapping(value="created")
        note(manager, "create")
        for value in ("first", "second"):
            thing["value"] = value
            note(manager, value)
        conn.sync()

        def undone(description):
            """Undoes the newest transaction of this description."""
            ids = [line["id"] for line in db.undoInfo(0, 100) if text(line["description"]) == description]
            db.undo(ids[0], manager.get())
            note(manager, f"undo {description}")
            conn.sync()

        undone("second")
        assert thing["value"] == "first"
        undone("undo second")
        assert thing["value"] == "second"
        # Not the last change of the object.
        error = raises(UndoError, undone, "first")
        assert isinstance(error, MultipleUndoErrors), repr(error)
        assert [oid for oid, reason in error._errs] == [thing._p_oid], error._errs
        manager.abort()
        conn.sync()
        assert thing["value"] == "second"
        # What was created is gone, and comes back.
        created = root["created"] = PersistentMapping(value="soon gone")
        note(manager, "a creation")
        oid, serial = created._p_oid, created._p_serial
        undone("a creation")
        assert "created" not in root
        raises(POSKeyError, load_current, db.storage, oid)
        assert db.storage.loadSerial(oid, serial)
        undone("undo a creation")
        assert root["created"]["value"] == "soon gone"
        # Two in one transaction, of different objects.
        thing["value"] = "third"
        note(manager, "third")
        other["value"] = "changed"
        note(manager, "other")
        ids = {text(line["description"]): line["id"] for line in db.undoInfo(0, 100)}
        db.undoMultiple([ids["other"], ids["third"]], manager.get())
        note(manager, "undo both")
        conn.sync()
        assert (thing["value"], other["value"]) == ("second", "created")
        # Ids that name nothing: an error of the vote, and the connection lives on.
        for wrong in (b"AAAAAAAAAAE=", b"nonsense"):
            raises((UndoError, ServerException), undo_raw, db.storage, wrong)
        assert db.storage._connection_generation == 1


def undone_together(db, manager, *descriptions):
    """Undoes the newest transactions of these descriptions, in one."""
    ids = {}
    for line in db.undoInfo(0, 100):
        ids.setdefault(text(line["description"]), line["id"])
    db.undoMultiple([ids[description] for description in descriptions], manager.get())
    note(manager, "undo " + ", ".join(descriptions))


@feature
def undo_chains(address):
    """Undos of undos, and several of one object in one transaction: its record is there twice then, and
    what points back to it means the last."""
    with database(address) as db, connection(db) as conn:
        manager, root = conn.transaction_manager, conn.root()
        thing = root["chained"] = PersistentMapping(value=0)
        note(manager, "start")
        for value in (1, 2, 3):
            thing["value"] = value
            note(manager, f"{value}")
        for descriptions, expected in (
            (("3", "2"), 1),
            (("undo 3, 2",), 3),
            (("undo undo 3, 2",), 1),
            (("undo undo undo 3, 2",), 3),
            (("undo undo undo undo 3, 2", "undo undo undo 3, 2"), 3),
            (("undo undo undo undo undo 3, 2, undo undo undo 3, 2",), 3),
            (("undo undo 3, 2",), 1),
        ):
            undone_together(db, manager, *descriptions)
            conn.sync()
            assert thing["value"] == expected, (descriptions, thing["value"])
        thing["value"] = 4
        note(manager, "4")
        undone_together(db, manager, "4")
        undo_chains_check(address)


@feature
def undo_chains_check(address):
    """What the other has left, and that undoing goes on from there."""
    with database(address) as db, connection(db) as conn:
        thing = conn.root()["chained"]
        for expected in (1, 4, 1):
            assert thing["value"] == expected, thing["value"]
            newest = text(db.undoInfo(0, 1)[0]["description"])
            undone_together(db, conn.transaction_manager, newest)
            conn.sync()
        assert thing["value"] == 4
        undone_together(db, conn.transaction_manager, text(db.undoInfo(0, 1)[0]["description"]))
        # Every revision, from wherever it is read.
        values = []
        for tid in sorted({entry["tid"] for entry in db.storage.history(thing._p_oid, 100)}):
            past = db.open(transaction.TransactionManager(), at=tid)
            values.append(past.root()["chained"]["value"])
            past.close()
        assert values[:13] == [0, 1, 2, 3, 1, 3, 1, 3, 3, 3, 1, 4, 1], values


@feature
def undo_conflicts(address):
    """An undo is judged when it is voted on: what others did since it was asked for is in its way."""
    with database(address) as db, database(address) as db2, connection(db) as one, connection(db2) as two:
        manager = one.transaction_manager
        one.root()["thing"], one.root()["other"] = PersistentMapping(value=0), PersistentMapping(value=0)
        note(manager, "start")
        one.root()["thing"]["value"] = 1
        note(manager, "first")
        one.root()["other"]["value"] = 1
        note(manager, "other")
        thing = one.root()["thing"]._p_oid

        def newest(description):
            lines = db.undoInfo(0, 100)
            return next(line["id"] for line in lines if text(line["description"]) == description)

        def begun(storage, description):
            txn = TransactionMetaData(description=f"undo {description}")
            storage.tpc_begin(txn)
            storage.undo(newest(description), txn)
            return txn

        # Somebody changes it between.
        txn = begun(db.storage, "first")
        caught_up(db2, db)
        two.sync()
        two.root()["thing"]["value"] = 2
        note(two.transaction_manager, "second")
        error = raises(UndoError, db.storage.tpc_vote, txn)
        assert isinstance(error, MultipleUndoErrors), repr(error)
        assert [oid for oid, reason in error._errs] == [thing], error._errs
        db.storage.tpc_abort(txn)
        # Two undo the same: whoever is later has nothing to undo any more.
        caught_up(db, db2)
        txn, txn2 = begun(db.storage, "second"), begun(db2.storage, "second")
        assert list(db.storage.tpc_vote(txn) or ()) == [thing]
        db.storage.tpc_finish(txn)
        error = raises(UndoError, db2.storage.tpc_vote, txn2)
        assert [oid for oid, reason in error._errs] == [thing], error._errs
        db2.storage.tpc_abort(txn2)
        # What is undone is a conflict for whoever has read it before.
        caught_up(db2, db)
        two.sync()
        assert two.root()["thing"]["value"] == 1
        two.root()["thing"]["value"] = 3
        one.sync()
        db.undo(newest("first"), manager.get())
        note(manager, "undo first")
        error = raises(ConflictError, two.transaction_manager.commit)
        assert error.oid == thing, vars(error)
        two.transaction_manager.abort()
        # And for whoever relies on it.
        caught_up(db2, db)
        two.sync()
        assert two.root()["thing"]["value"] == 0
        two.readCurrent(two.root()["thing"])
        two.root()["other"]["value"] = 5
        one.sync()
        db.undo(newest("undo first"), manager.get())
        note(manager, "undo undo first")
        error = raises(ConflictError, two.transaction_manager.commit)
        assert isinstance(error, ReadConflictError) and error.oid == thing, repr(error)
        two.transaction_manager.abort()
        caught_up(db2, db)
        two.sync()
        assert (two.root()["thing"]["value"], two.root()["other"]["value"]) == (1, 1)
        assert db.storage._connection_generation == db2.storage._connection_generation == 1


def undo_raw(storage, trans_id):
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    try:
        storage.undo(trans_id, txn)
        storage.tpc_vote(txn)
    finally:
        storage.tpc_abort(txn)


@feature
def undo_log(address):
    """undoLog and undoInfo: pages, filters, and everything that a line says."""
    with database(address) as db, connection(db) as conn:
        manager = conn.transaction_manager
        for number in range(25):
            conn.root()["number"] = number
            txn = manager.get()
            txn.setUser("even" if number % 2 == 0 else "odd", "/path")
            txn.setExtendedInfo("request_type", f"type {number % 3}")
            note(manager, f"number {number}")
        storage = db.storage
        log = storage.undoLog(0, 10)
        assert [text(line["description"]) for line in log] == [f"number {24 - i}" for i in range(10)]
        line = log[0]
        assert set(line) == {"id", "time", "user_name", "size", "description", "request_type"}, line
        assert line["user_name"] == b"/path even" and line["request_type"] == "type 0", line
        assert abs(line["time"] - time.time()) < 3600 and line["size"] > 50, line
        assert base64.decodebytes(line["id"] + b"\n") == storage.lastTransaction(), line

        def found(*args):
            return [text(line["description"]).removeprefix("number ") for line in storage.undoInfo(*args)]

        assert len(storage.undoLog()) == len(storage.undoInfo()) == 20
        assert found(3, 6) == ["21", "20", "19"]
        assert found(3, -2) == ["21", "20"]
        assert found(0, 4, {"user_name": b"/path odd"}) == ["23", "21", "19", "17"]
        assert found(1, 3, {"user_name": b"/path odd"}) == ["21", "19"]
        assert found(0, -2, {"user_name": b"/path odd", "request_type": "type 1"}) == ["19", "13"]
        assert found(0, 100, {"user_name": b"nobody"}) == found(5, 5) == []
        assert found(0, 3, {}) == found(0, 3, None) == ["24", "23", "22"]
        # As Zope asks for it, through a connection's database.
        assert len(db.undoInfo(0, 5)) == 5


@feature
def pack(address, *options):
    """A pack removes old revisions and what cannot be reached, and every client hears of the size."""
    with blob_clients(address, *options) as (db, db2), connection(db) as conn:
        manager = conn.transaction_manager
        conn.root()["blob"] = Blob(b"first")
        gone = conn.root()["gone"] = PersistentMapping(data="x" * 100000)
        thing = conn.root()["thing"] = PersistentMapping(value=0)
        manager.commit()
        first = gone._p_serial
        with conn.root()["blob"].open("w") as file:
            file.write(b"second")
        for value in range(20):
            thing["value"] = value
            thing["data"] = "y" * 10000
            manager.commit()
        old = thing._p_serial
        del conn.root()["gone"]
        manager.commit()
        caught_up(db2, db)
        size = db.storage.getSize()
        db.storage.pack(time.time() + 1, None, wait=True)
        assert db.storage.getSize() < size - 200000, (size, db.storage.getSize())
        until(lambda: db2.storage.getSize() == db.storage.getSize())
        raises(POSKeyError, load_current, db2.storage, gone._p_oid)
        raises(POSKeyError, db2.storage.loadSerial, thing._p_oid, first)
        assert db2.storage.loadSerial(thing._p_oid, old)
        assert len(db2.storage.history(thing._p_oid, 100)) == 1
        assert list(db2.storage.undoLog(0, 100)) == []
        with connection(db2) as other:
            assert other.root()["thing"]["value"] == 19
            assert read(other.root()["blob"]) == b"second"
            # Packed and committed at the same time, without waiting.
            storage = db2.storage
            for value in range(50):
                other.root()["thing"]["value"] = value
                other.transaction_manager.commit()
                if value in (5, 25):
                    storage.pack(time.time() - 1, None, wait=False)
        caught_up(db, db2)
        conn.sync()
        assert thing["value"] == 49
        assert db.storage._connection_generation == db2.storage._connection_generation == 1


@feature
def delete_object(address):
    """External garbage collection: what is deleted is gone, and its old revision stays until a pack."""
    with database(address) as db, connection(db) as conn:
        storage = db.storage
        assert IExternalGC.providedBy(storage)
        gone = conn.root()["gone"] = PersistentMapping()
        conn.transaction_manager.commit()
        oid, serial = gone._p_oid, gone._p_serial
        for wrong in (p64(u64(serial) - 1), z64):
            raises(ConflictError, delete, storage, oid, wrong)
        delete(storage, oid, serial)
        raises(POSKeyError, load_current, storage, oid)
        assert storage.loadSerial(oid, serial)
        raises(POSKeyError, delete, storage, p64(1 << 40), serial)
        assert storage._connection_generation == 1


def delete(storage, oid, serial):
    txn = TransactionMetaData(description="deleted")
    storage.tpc_begin(txn)
    try:
        storage.deleteObject(oid, serial, txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise


@feature
def given_tids(address):
    """`tpc_begin` with a TID and a status, and `restore`: what copying between storages does."""
    with database(address) as db:
        oid, tids = fill(db, 3)
        storage = db.storage
        data = storage.loadSerial(oid, tids[0])
        last = u64(tids[-1])
        for step, previous in ((1 << 32, None), (2 << 32, tids[0])):
            tid = p64(last + step)
            txn = TransactionMetaData("user", "restored", {"a": 1})
            storage.tpc_begin(txn, tid, " ")
            storage.restore(oid, tid, data, "", previous, txn)
            storage.tpc_vote(txn)
            assert storage.tpc_finish(txn) == tid
            assert storage.lastTransaction() == tid
            # Whoever restores does not hear of it, and keeps what it has in its cache.
            assert storage.loadSerial(oid, tid) == data
            with database(address) as other:
                assert load_current(other.storage, oid) == (data, tid)
        for txn in storage.iterator(tid):
            assert (txn.tid, txn.status, txn.extension) == (tid, " ", {"a": 1})
            assert [(record.oid, record.data_txn) for record in txn] == [(oid, tids[0])]


@feature
def raid_methods(address, allowed="no", first="copy1", second="copy2"):
    """The original's extension methods, and who may use which."""
    with database(address) as db:
        fill(db, 3)
        call = db.storage._call
        assert call("raid_status") == "optimal"
        details = call("raid_details")
        assert details == {first: "optimal", second: "optimal"}, details
        if allowed == "no":
            for method, args in (("raid_recover", (second,)), ("raid_disable", (second,)), ("raid_reload", ())):
                error = raises(ServerException, call, method, *args)
                assert "zeo_admin" in str(error), error
            return
        assert call("raid_disable", second) == f"disabled '{second}'"
        assert call("raid_status") == "degraded"
        details = call("raid_details")
        assert details[first] == "optimal" and details[second].startswith("failed: disabled"), details
        raises(ServerException, call, "raid_disable", first)
        raises(ServerException, call, "raid_recover", "nobody")
        # More than is copied at once with the `recovery_rate` of this test.
        oid, tids = fill(db, 40)
        assert call("raid_recover", second) == f"recovering '{second}'"
        seen = set()
        until(lambda: (seen.add(call("raid_details")[second]), call("raid_status") == "optimal")[1], 60)
        reached = set()
        for line in seen - {"optimal"}:
            recovering = re.fullmatch(r"recovering: ([a-z-]+) transaction 0x([0-9a-f]{16})", line)
            assert line.startswith("failed: ") or recovering, line
            if recovering and recovering[1] == "copy":
                reached.add(bytes.fromhex(recovering[2]))
        assert reached & set(tids), f"it was never seen how far the copy has come: {seen}"
        assert call("raid_reload") is None
        assert call("raid_status") == "optimal"
        assert db.storage._connection_generation == 1


if __name__ == "__main__":
    FEATURES[sys.argv[1]](*sys.argv[2:])
