"""Adds the same transaction to several files: `append.py DATA_FS DATA_FS WORD`; or reads the word that
was added last through the daemon: `append.py --read ADDRESS`."""
import sys

import ZODB
from persistent.mapping import PersistentMapping
from ZODB.FileStorage import FileStorage

import common


def main(first, *others, word):
    storage = FileStorage(first)
    db = ZODB.DB(storage)
    with common.connection(db) as conn:
        conn.root()["appended"] = PersistentMapping(word=word)
        conn.root()["workers"] = PersistentMapping()
        conn.transaction_manager.get().note(word)
        conn.transaction_manager.commit()
    last = storage.lastTransaction()
    for path in others:
        other = FileStorage(path)
        for txn in storage.iterator(last):
            other.tpc_begin(txn, txn.tid, txn.status)
            for record in txn:
                other.restore(record.oid, record.tid, record.data, "", record.data_txn, txn)
            other.tpc_vote(txn)
            other.tpc_finish(txn)
        other.close()
    db.close()


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        with common.database(sys.argv[2]) as db, common.connection(db) as conn:
            print(conn.root()["appended"]["word"])
    else:
        main(*sys.argv[1:-1], word=sys.argv[-1])
