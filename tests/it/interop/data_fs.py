"""What Python's FileStorage says of a Data.fs, to be compared with the file engine's words.

``data_fs.py make FILE``   a file with undo, packing, long metadata and 100 000 objects
``data_fs.py dump FILE``   a line for each transaction, as ``examples/data_fs.rs dump`` prints it
``data_fs.py walk FILE``   a line for each current record
``data_fs.py extend FILE`` commits more
"""
import hashlib
import sys

import transaction
import ZODB
import ZODB.FileStorage
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB.utils import u64


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def make(path):
    storage = ZODB.FileStorage.FileStorage(path)
    db = ZODB.DB(storage)
    connection = db.open()
    root = connection.root()
    for number in range(100):
        root[number] = folder = PersistentMapping()
        for item in range(1000):
            folder[item] = PersistentMapping({"number": item})
        transaction.get().note("batch %d" % number)
        transaction.commit()
    txn = transaction.get()
    txn.setUser("user" * 1000)
    txn.note("long " * 10000)
    for number in range(500):
        txn.setExtendedInfo("key%d" % number, "value" * 10)
    root["tree"] = OOBTree()
    transaction.commit()
    for number in range(50):
        root["tree"][number] = "x" * number * 1000
        root[number]["changed"] = number
        transaction.get().note("change %d" % number)
        transaction.commit()
    big = root["big"] = PersistentMapping()
    big["data"] = b"z" * (5 << 20)
    transaction.commit()

    def undo(count):
        for number in range(count):
            info = db.undoInfo(0, 2)
            db.undo(info[0]["id"])
            transaction.get().note("undo %d" % number)
            transaction.commit()

    undo(1)
    undo(3)
    connection.cacheMinimize()
    transaction.begin()
    for number in range(20, 40):
        del root[number]
    transaction.commit()
    db.pack()
    for number in range(10):
        root["after pack %d" % number] = PersistentMapping()
        transaction.commit()
    root[3]["changed"] = "a"
    transaction.commit()
    root[3]["changed"] = "b"
    transaction.commit()
    undo(2)
    undo(1)
    connection.close()
    db.close()


def dump(path):
    storage = ZODB.FileStorage.FileStorage(path)
    for txn in storage.iterator():
        words = [
            "%016x" % u64(txn.tid),
            "'%s'" % txn.status,
            txn.user.hex(),
            txn.description.hex(),
            txn.extension_bytes.hex(),
        ]
        for record in txn:
            word = "%x" % u64(record.oid)
            if record.data is None:
                word += "=gone"
            else:
                if record.data_txn:
                    word += "@%016x" % u64(record.data_txn)
                word += "=" + digest(record.data)
            words.append(word)
        print(*words)
    storage.close()


def walk(path):
    storage = ZODB.FileStorage.FileStorage(path)
    for oid in storage._index.keys():
        try:
            data, tid = storage.load(oid)
        except KeyError:
            continue
        print("%x %016x %s" % (u64(oid), u64(tid), digest(data)))
    print("index was used:", storage._used_index, file=sys.stderr)
    storage.close()


def extend(path):
    db = ZODB.DB(path)
    connection = db.open()
    root = connection.root()
    for number in range(5):
        root["extended %d" % number] = PersistentMapping()
        transaction.commit()
    connection.close()
    db.close()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
