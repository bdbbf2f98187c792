"""A client that does what it is told, a word a line on standard input, and says how each went:

    talk.py ADDRESS [WAIT_TIMEOUT]

    read    loads from the server, not from a cache; it must be what was acknowledged last
    write   commits
    vote    begins a transaction, stores and votes
    finish  finishes it

Prints `NUMBER WORD OUTCOME SECONDS`; the outcome is `ok` or the name of an exception.
"""
import sys
import time

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64

import common


class Talk:
    def __init__(self, address, wait_timeout):
        self.storage = common.client(address, wait_timeout=wait_timeout)
        self.db = ZODB.DB(self.storage)
        self.conn = self.db.open(transaction_manager=transaction.TransactionManager())
        self.manager = self.conn.transaction_manager
        self.acknowledged = 0
        # What a commit that failed wrote may be there all the same.
        self.doubtful = set()
        self.conn.root()["talk"] = PersistentMapping(value=0)
        self.manager.commit()

    def read(self):
        self.manager.begin()
        self.storage._cache.clear()
        self.conn.cacheMinimize()
        value = self.conn.root()["talk"]["value"]
        assert value in self.doubtful | {self.acknowledged}, (value, self.acknowledged)

    def write(self):
        self.manager.begin()
        value = max(self.doubtful | {self.acknowledged}) + 1
        self.doubtful.add(value)
        self.conn.root()["talk"]["value"] = value
        self.manager.get().note(f"talk {value}")
        self.manager.commit()
        self.acknowledged, self.doubtful = value, set()

    def vote(self):
        self.txn = TransactionMetaData(description="held")
        self.storage.tpc_begin(self.txn)
        self.oid = self.storage.new_oid()
        self.storage.store(self.oid, z64, b"held", "", self.txn)
        self.storage.tpc_vote(self.txn)

    def finish(self):
        tid = self.storage.tpc_finish(self.txn)
        assert self.storage.loadSerial(self.oid, tid) == b"held"


def main(address, wait_timeout="60"):
    talk = Talk(address, float(wait_timeout))
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, 1):
        word, outcome = line.strip(), "ok"
        began = time.monotonic()
        try:
            getattr(talk, word)()
        except Exception as error:
            outcome = type(error).__name__
            print(error, file=sys.stderr, flush=True)
        seconds = time.monotonic() - began
        if outcome != "ok":
            talk.manager.abort()
        print(number, word, outcome, f"{seconds:.3f}", flush=True)
    talk.manager.abort()
    talk.conn.close()
    talk.db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
