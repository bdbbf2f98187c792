"""Large things through a server, and what is too large for it.

    large.py ADDRESS MIB COUNT    with an object of so many MiB, and a transaction of so many objects;
                                  prints a JSON object: what was refused, and with which words
"""
import json
import os
import sys

from persistent.mapping import PersistentMapping

import common

MIB = 1 << 20


def commit(conn, user="", description="", extension=None):
    txn = conn.transaction_manager.get()
    txn.user = user
    txn.description = description
    for name, value in (extension or {}).items():
        txn.setExtendedInfo(name, value)
    conn.transaction_manager.commit()


def refused(conn, **texts):
    """The words with which a transaction with these texts is refused."""
    conn.root()["refused"] = PersistentMapping()
    try:
        commit(conn, **texts)
    except Exception as error:
        conn.transaction_manager.abort()
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it was taken")


def main(address, mib, count):
    count = int(count)
    record = os.urandom(int(mib) * MIB)
    with common.database(address) as db, common.connection(db) as conn:
        root = conn.root()
        root["object"] = PersistentMapping(data=record)
        commit(conn)
        # What the format has room for.
        root["texts"] = PersistentMapping()
        commit(conn, user="u" * 60_000, description="d" * 65_535, extension={"key": "e" * 65_000})
        words = {
            "user": refused(conn, user="u" * 65_536),
            "description": refused(conn, description="d" * 65_536),
            "extension": refused(conn, extension={"key": "e" * 66_000}),
        }
        root["many"] = PersistentMapping()
        for number in range(count):
            root["many"][number] = PersistentMapping()
        commit(conn, description="a large number")
    with common.database(address) as db, common.connection(db) as conn:
        root = conn.root()
        assert root["object"]["data"] == record
        assert "texts" in root and "refused" not in root
        assert len(root["many"]) == count
        assert root["many"][count - 7] == PersistentMapping()
        texts = [len(one["description"]) for one in db.undoInfo(0, -3)]
        assert texts == [14, 65_535, 0], texts
    print(json.dumps(words))


main(*sys.argv[1:])
