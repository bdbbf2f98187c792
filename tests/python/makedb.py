"""Writes a Data.fs as a site that has lived would have it: `makedb.py PATH [OBJECTS]`.

A hundred thousand objects in BTrees, metadata of every length up to the largest, undone and redone
transactions (records that point back instead of holding data), an undone creation (a record without
either), a pack, then more of all that; and a revision of an object that a later pack will remove.
"""
import sys
import time

import transaction
import ZODB
from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf

import common

LONGEST = 65535  # two bytes of length in the transaction's header


def main(path, objects=100_000):
    storage = FileStorage(path)
    db = ZODB.DB(storage, large_record_size=1 << 26)
    manager = transaction.TransactionManager()
    conn = db.open(transaction_manager=manager)
    root = conn.root()

    def commit(note, user="site", /, **extension):
        root["page"]["last"] = note
        txn = manager.get()
        txn.user = user
        txn.description = note
        txn.extension.update(extension)
        manager.commit()
        return storage.lastTransaction()

    root["counter"] = Length()
    root["tree"] = IOBTree()
    root["page"] = PersistentMapping(title="first")
    commit("the beginning")

    batch = 2000
    for start in range(0, objects, batch):
        for number in range(start, min(start + batch, objects)):
            root["tree"][number] = PersistentMapping(number=number)
        root["counter"].change(batch)
        commit(f"objects from {start}")
        conn.cacheMinimize()

    wear(db, conn, root, commit, "before")
    # What is undone and no longer referred to goes; what is left points back into the packed part.
    storage.pack(time.time(), referencesf)
    wear(db, conn, root, commit, "after")
    commit("", "")
    commit("d" * LONGEST, "u" * LONGEST, bulk=b"e" * (LONGEST - 200))
    commit("ümläute und 漢字 \U0001f40d", "Zoë /plone", answer={"nested": [1, 2.5, None, True]})
    manager.abort()
    conn.close()
    db.close()


def wear(db, conn, root, commit, when):
    """Changes, undoes, undoes the undo, and undoes a creation."""
    manager = conn.transaction_manager
    for turn in range(20):
        root["page"]["title"] = f"{when} {turn}"
        commit(f"edit {when} {turn}")
    for _ in range(3):
        undo(db, manager, f"edit {when} 19")
        undo(db, manager, "undo")
    for turn in range(19, 9, -1):
        undo(db, manager, f"edit {when} {turn}")
    root[f"new {when}"] = PersistentMapping(data="x" * 100_000)
    commit(f"created {when}")
    undo(db, manager, f"created {when}")


def undo(db, manager, description):
    """Undoes the newest transaction of that description."""
    for entry in db.undoLog(0, 200):
        if common.text(entry["description"]) == description:
            db.undo(entry["id"], manager.get())
            manager.get().note("undo")
            manager.commit()
            return
    raise SystemExit(f"nothing to undo: {description}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
