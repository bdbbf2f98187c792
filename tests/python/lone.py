"""Gives a Data.fs a history of its own: `lone.py add DATA_FS` commits one transaction to it, `lone.py make
DATA_FS` makes another database with the same kind of content."""
import sys

import ZODB
from persistent.mapping import PersistentMapping
from ZODB.FileStorage import FileStorage

import common


def main(what, path):
    db = ZODB.DB(FileStorage(path))
    with common.connection(db) as conn:
        for number in range(1 if what == "add" else 30):
            conn.root()["alone"] = PersistentMapping(number=number)
            conn.transaction_manager.get().note(f"alone {number}")
            conn.transaction_manager.commit()
    db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
