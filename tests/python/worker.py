"""A client that works: commits and reads until its standard input is closed, and keeps a log.

    worker.py setup ADDRESS [--workers N]
    worker.py run ADDRESS --name w1 --log FILE --seed N [--tolerant] [--packed]

Every line of the log is a JSON object, written when it is known: `ack` once a commit was acknowledged
(never before), `found` for one whose acknowledgement was lost but which the database holds, `error` for
whatever went wrong, `end` with counts. `verify.py` compares the logs with what is on the disk.

Each commit numbers itself, counts itself in a counter that all clients share (conflicts are resolved),
and sometimes writes one object that all share (conflicts are not resolved, so it tries again). In every
snapshot the shared counter must be the sum of the clients' own: a read that mixes two moments is seen.
"""
import argparse
import base64
import contextlib
import json
import os
import random
import sys
import threading
import time

import transaction
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ClientDisconnected
from ZODB.blob import Blob
from ZODB.DB import TransactionalUndo
from ZODB.POSException import ConflictError, ReadConflictError, StorageError, UndoError
import ZODB

import common


def finish_undo(self, txn):
    """Leaves an undo that cannot be finished to be aborted.

    ZODB's own lets go of its storage in any case. Where a client is disconnected between the vote and the finish of an
    undo, the abort has no storage then, nobody gives back the client's own commit lock, and it waits for itself for
    ever, whatever server it has.
    """
    self._storage.tpc_finish(txn.data(self))
    self.close()


TransactionalUndo.tpc_finish = finish_undo


class Watch:
    """How long the daemon was waited for: the longest of all operations, and what to do with a long one."""

    def __init__(self, tell):
        self.tell = tell
        self.longest = 0

    @contextlib.contextmanager
    def __call__(self, what):
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            if seconds > max(self.longest, 1):
                self.tell("wait", operation=what, ms=int(seconds * 1000))
            self.longest = max(self.longest, seconds)


def watched(name):
    def method(self, *args, **kw):
        with self.watch(name):
            return getattr(super(WatchedStorage, self), name)(*args, **kw)

    return method


class WatchedStorage(ClientStorage):
    """Counts the conflicts that it resolved, keeps what it was told when a commit was done, and watches
    how long that takes which waits for the daemon."""

    resolved = 0
    acknowledged = None
    watch = None

    # Not `pack`: whoever packs waits until every member has been packed.
    for each in ("history", "lastTransaction", "loadBefore", "loadBlob", "new_oid", "tpc_vote", "undoInfo"):
        locals()[each] = watched(each)

    def tpc_finish(self, *args, **kw):
        with self.watch("tpc_finish"):
            self.acknowledged = super().tpc_finish(*args, **kw)
        return self.acknowledged

    def iterator(self, *args, **kw):
        transactions = super().iterator(*args, **kw)
        while True:
            with self.watch("iterator"):
                txn = next(transactions, None)
            if txn is None:
                return
            yield txn

    def tryToResolveConflict(self, *args, **kw):
        data = super().tryToResolveConflict(*args, **kw)
        self.resolved += 1
        return data


def setup(address, workers):
    with common.database(address) as db, common.connection(db) as conn:
        root = conn.root()
        root["counter"] = Length()
        root["shared"] = PersistentMapping()
        root["workers"] = PersistentMapping()
        for number in range(workers):
            root["workers"][f"w{number}"] = PersistentMapping(
                commits=PersistentMapping(value=0),
                tree=OOBTree(),
                maps=PersistentMapping(),
                blobs=PersistentMapping(),
                scratch=PersistentMapping(value=0),
            )
        conn.transaction_manager.get().note("the ground for the workers")
        conn.transaction_manager.commit()


class Torn(Exception):
    """A snapshot that is not of one moment."""


def forbidden_by_a_pack(error):
    """What the array refuses while it is packed, and a second pack, or one beside other work on whole
    histories, it refuses as a plain FileStorage does; these are answers, and each has its words."""
    if isinstance(error, UndoError):
        return "undo is disabled while the array is being packed" in str(error)
    words = ("is being packed", "is being backed up", "is being scrubbed", "nothing is packed meanwhile",
             "no member was packed")
    return isinstance(error, StorageError) and any(each in str(error) for each in words)


class Worker:
    def __init__(self, args):
        self.name = args.name
        self.tolerant = args.tolerant
        self.packed = args.packed
        self.random = random.Random(args.seed)
        self.log_file = open(args.log, "a", buffering=1)
        self.stop = threading.Event()
        self.counts = {"commits": 0, "conflicts": 0, "reads": 0, "refused": 0, "errors": 0}
        self.mix = set(filter(None, args.mix.split(",")))
        self.watch = Watch(self.log)
        self.longest_commit = 0
        self.pause = args.pause
        options = {"cache": args.cache} if args.cache else {}
        if "blob" in self.mix:
            options["blob_dir"] = args.blob_dir or os.path.join(os.path.dirname(args.log), self.name + ".blobs")
            options["shared_blob_dir"] = bool(args.blob_dir)
        WatchedStorage.watch = self.watch
        self.connect(common.parse_address(args.address), options)
        self.manager = transaction.TransactionManager()
        threading.Thread(target=self.wait_for_end, daemon=True).start()

    def connect(self, address, options):
        """A client that is coming gives up where its first daemon dies while it verifies its cache."""
        while True:
            storage = None
            try:
                storage = WatchedStorage(address, wait_timeout=60, **options)
                self.storage, self.db = storage, ZODB.DB(storage)
                return
            except ClientDisconnected as error:
                if storage is not None:
                    storage.close()
                if not self.tolerant:
                    raise
                self.log("error", doing="connect", error=type(error).__name__, text=str(error)[:300])
                time.sleep(0.05)

    def wait_for_end(self):
        sys.stdin.read()
        self.stop.set()

    def log(self, kind, **fields):
        self.log_file.write(json.dumps({"kind": kind, **fields}) + "\n")

    def run(self):
        number = began = None
        doubtful = False
        in_a_row = 0
        while number is None or doubtful or not self.stop.is_set():
            conn = None
            began = began or time.monotonic()
            try:
                conn = self.db.open(transaction_manager=self.manager)
                if number is None or doubtful:
                    number, doubtful = self.where_we_are(conn, number, doubtful), False
                    continue
                self.check(conn)
                tid = self.commit(conn, number)
            except ConflictError as error:
                if not isinstance(error, ReadConflictError):
                    self.counts["conflicts"] += 1
                in_a_row += 1
                if in_a_row % 50 == 0:
                    # As of one whose cache is stale for good.
                    self.log("conflict", number=number, in_a_row=in_a_row, text=str(error)[:300])
                self.manager.abort()
                # Perhaps with this very commit, which was looked for before a lost daemon had ended it.
                doubtful = self.tolerant and number is not None
            except Torn:
                raise
            except Exception as error:  # whatever a lost daemon looks like from here
                self.counts["errors"] += 1
                self.log("error", number=number, error=type(error).__name__, text=str(error)[:300])
                if not self.tolerant:
                    raise
                doubtful = number is not None
                self.quietly(self.manager.abort)
                time.sleep(0.05)
            else:
                self.counts["commits"] += 1
                in_a_row = 0
                self.log("ack", number=number, tid=tid)
                number += 1
                self.longest_commit = max(self.longest_commit, time.monotonic() - began)
                began = None
                self.stop.wait(self.pause)
                if self.mix and self.random.random() < 0.5:
                    self.something_else(conn)
            finally:
                if conn is not None:
                    self.quietly(self.manager.abort)
                    self.quietly(conn.close)
        longest = {"longest_operation_ms": self.watch.longest, "longest_commit_ms": self.longest_commit}
        longest = {name: int(seconds * 1000) for name, seconds in longest.items()}
        self.log("end", resolved=self.storage.resolved, **longest, **self.counts)
        self.db.close()

    def something_else(self, conn):
        """What clients do besides: each leaves the database as it was, but for transactions of other names."""
        what = self.random.choice(sorted(self.mix))
        try:
            self.manager.abort()
            getattr(self, "do_" + what)(conn)
        except ConflictError:
            self.manager.abort()
        except Exception as error:
            if self.packed and forbidden_by_a_pack(error):
                self.counts["refused"] += 1
                self.manager.abort()
                return
            self.counts["errors"] += 1
            self.log("error", doing=what, error=type(error).__name__, text=str(error)[:300])
            if not self.tolerant:
                raise
            self.quietly(self.manager.abort)

    def note(self, text):
        txn = self.manager.get()
        txn.user = self.name
        txn.note(f"{self.name} {text}")

    def do_blob(self, conn):
        """Writes a blob, of several chunks as often as not, and reads one of those that were written."""
        blobs = conn.root()["workers"][self.name]["blobs"]
        number = self.counts["commits"]
        size = self.random.choice((0, 100, 70_000, 300_000))
        blob = Blob()
        with blob.open("w") as file:
            file.write((b"%d " % number) * (size // 5))
        blobs[number % 7] = PersistentMapping(number=number, size=size, blob=blob)
        self.note("blob")
        self.manager.commit()
        kept = blobs[self.random.choice(sorted(blobs))]
        with kept["blob"].open() as file:
            held = file.read()
        if held != (b"%d " % kept["number"]) * (kept["size"] // 5):
            raise Torn(f"a blob of {self.name} is {held[:40]}…, {len(held)} bytes, not {dict(kept)}")
        self.manager.abort()

    def do_undo(self, conn):
        """Changes something and undoes it."""
        scratch = conn.root()["workers"][self.name]["scratch"]
        before = scratch["value"]
        scratch["value"] = self.counts["commits"]
        self.note("scratch")
        self.manager.commit()
        tid = self.storage.acknowledged
        self.db.undo(base64.encodebytes(tid).rstrip(), self.manager.get())
        self.note("undo")
        self.manager.commit()
        conn.sync()
        if scratch["value"] != before:
            raise Torn(f"undone, the scratch of {self.name} is {scratch['value']}, not {before}")

    def do_iterate(self, conn):
        """Reads the end of the history, and that of an object."""
        last = self.storage.lastTransaction()
        back = (int.from_bytes(last) - (1 << 32) // 60 * 2).to_bytes(8)
        seen = [txn.tid for txn in self.storage.iterator(back, last)]
        if last not in seen or seen != sorted(set(seen)):
            raise Torn(f"the end of the history is {[tid.hex() for tid in seen]}, and the last {last.hex()}")
        self.storage.history(conn.root()["workers"][self.name]._p_oid, 5)
        if "undo" in self.mix:
            # Refused while an array is packed, as undoing is.
            self.storage.undoInfo(0, -5)

    def do_cold(self, conn):
        """Reads as one who has just come: from the server, not from a cache."""
        self.storage._cache.clear()
        conn.cacheMinimize()
        self.check(conn)

    def do_pack(self, _):
        """Packs what is older than a day, which is nothing, but all of it is looked at."""
        if self.name == "w0" and self.random.random() < 0.2:
            self.storage.pack(time.time() - 24 * 3600, None, True)

    def quietly(self, action):
        """After a lost daemon, cleaning up may fail as well."""
        try:
            action()
        except Exception as error:
            if not self.tolerant:
                raise
            self.log("error", error=type(error).__name__, text=str(error)[:300])

    def where_we_are(self, conn, number, doubtful):
        """The next number. A commit whose answer was lost is there, or it is not and is tried again."""
        conn.sync()
        mine = conn.root()["workers"][self.name]
        held = mine["commits"]["value"]
        if doubtful:
            if held == number:
                self.log("found", number=number)
                return number + 1
            if held != number - 1:
                raise Torn(f"{self.name} wrote {number - 1} or {number}, but the database says {held}")
            return number
        return held + 1

    def check(self, conn):
        """Reads a snapshot whole: it must be one moment."""
        self.counts["reads"] += 1
        root = conn.root()
        counted = root["counter"]()
        own = sum(each["commits"]["value"] for each in root["workers"].values())
        if counted != own:
            raise Torn(f"the counter says {counted}, the clients {own}")
        tree = root["workers"][self.name]["tree"]
        if len(tree) != root["workers"][self.name]["commits"]["value"]:
            raise Torn(f"the tree of {self.name} has {len(tree)} entries")

    def commit(self, conn, number):
        root = conn.root()
        mine = root["workers"][self.name]
        token = f"{self.name}:{number}"
        root["counter"].change(1)
        mine["commits"]["value"] = number
        mine["tree"][number] = token
        if self.random.random() < 0.3:
            size = self.random.choice((10, 300, 4000, 40000))
            mine["maps"][str(number % 50)] = PersistentMapping(token=token, data="x" * size)
        if self.random.random() < 0.3:
            root["shared"]["last"] = token
            root["shared"][self.name] = root["shared"].get(self.name, 0) + 1
        txn = self.manager.get()
        txn.user = self.name
        txn.note(token)
        txn.setExtendedInfo("number", number)
        self.manager.commit()
        return self.storage.acknowledged.hex()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("setup", "run"))
    parser.add_argument("address")
    parser.add_argument("--name")
    parser.add_argument("--log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mix", default="", help="what else to do: blob,undo,iterate,cold,pack")
    parser.add_argument("--blob-dir", help="a folder of blobs that is shared with the server")
    parser.add_argument("--pause", type=float, default=0, help="seconds after each commit")
    parser.add_argument("--cache", help="a persistent cache file")
    parser.add_argument("--workers", type=int, default=4, help="for how many the ground is laid")
    parser.add_argument("--packed", action="store_true", help="others pack meanwhile, and undoing is refused then")
    parser.add_argument("--tolerant", action="store_true", help="go on when the daemon is lost")
    arguments = parser.parse_args()
    if arguments.what == "setup":
        setup(arguments.address, arguments.workers)
    else:
        Worker(arguments).run()
