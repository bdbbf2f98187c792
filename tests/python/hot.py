"""Many clients, each a process of its own, on one hot object: `hot.py ADDRESS CLIENTS COMMITS KIND…`.

A KIND is `length`, a BTrees.Length, whose conflicts are resolved; or `plain`, an object whose conflicts are not,
so that whoever loses tries again; or `both`, where each commit changes one of either.

Each client goes on until *every* client has done so many commits: one that starves is not saved by the others
coming to their end. Nothing here is measured in time. Prints a line of JSON for each kind: how many commits the
clients did, the most tries that one of them needed, and the most votes of one try (one, and one after resolving;
ZEO's client gives up after nine, and then fails in `tpc_finish`).
"""
import json
import queue
import subprocess
import sys
import threading

import ZODB
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.POSException import ConflictError

import common

# For all of it: starvation is an endless wait, and this ends it.
DEADLINE = 180


class CountingStorage(ClientStorage):
    """Knows how often it has voted."""

    votes = 0

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        call = self._call

        def counted(method, *args, **kw):
            self.votes += method == "vote"
            return call(method, *args, **kw)

        self._call = counted


def one(address):
    """A client. On its standard input, a kind begins and an empty line ends it; it prints each commit, and how it
    went."""
    storage = CountingStorage(common.parse_address(address), wait_timeout=60)
    db = ZODB.DB(storage)
    told = queue.SimpleQueue()
    with common.connection(db) as conn:
        assert conn.root()["length"]() >= 0
        print("ready", flush=True)
        threading.Thread(target=lambda: [told.put(line.strip()) for line in sys.stdin], daemon=True).start()
        while kind := told.get():
            commits, most_tries, most_votes = 0, 0, 0
            while told.empty():
                tries, votes = commit(conn, storage, kind)
                commits += 1
                most_tries, most_votes = max(most_tries, tries), max(most_votes, votes)
                print(commits, flush=True)
            told.get()
            print(json.dumps({"commits": commits, "most_tries": most_tries, "most_votes": most_votes}), flush=True)
    db.close()


def commit(conn, storage, kind):
    """Tries until it is done; says how often, and the most votes that one try needed."""
    tries, most_votes = 0, 0
    while True:
        tries += 1
        storage.votes = 0
        conn.transaction_manager.begin()
        if kind != "plain":
            conn.root()["length"].change(1)
        if kind != "length":
            conn.root()["plain"]["value"] += 1
        try:
            conn.transaction_manager.commit()
            return tries, max(most_votes, storage.votes)
        except ConflictError:
            conn.transaction_manager.abort()
            most_votes = max(most_votes, storage.votes)


class Client:
    """One of those processes."""

    def __init__(self, address):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "one", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a client ended, with {self.process.wait()}")
        return line.strip()

    def listen(self, commits, enough):
        """Notes when it has done so many commits, and how it went."""
        self.found = None
        try:
            while not (line := self.hear()).startswith("{"):
                if line == str(commits):
                    enough.set()
            self.found = json.loads(line)
        finally:
            enough.set()


def hammer(clients, commits, kind):
    enough = [threading.Event() for _ in clients]
    threads = [
        threading.Thread(target=each.listen, args=(commits, enough)) for each, enough in zip(clients, enough)
    ]
    for each in threads:
        each.start()
    for each in clients:
        each.tell(kind)
    for each in enough:
        each.wait()
    for each in clients:
        each.tell("")
    for each in threads:
        each.join()
    return [each.found for each in clients]


def main(address, clients, commits, *kinds):
    with common.database(address) as db, common.connection(db) as conn:
        conn.root()["length"] = Length()
        conn.root()["plain"] = PersistentMapping(value=0)
        conn.transaction_manager.commit()
        clients = [Client(address) for _ in range(int(clients))]
        late = threading.Timer(DEADLINE, lambda: [each.process.kill() for each in clients])
        late.daemon = True
        late.start()
        for each in clients:
            assert each.hear() == "ready"
        values = {"length": 0, "plain": 0}
        for kind in kinds:
            found = hammer(clients, int(commits), kind)
            counts = [each["commits"] for each in found if each]
            if len(counts) < len(clients):
                sys.exit(f"{kind}: clients ended, or were ended after {DEADLINE} s; those that are left: {found}")
            for name in values:
                values[name] += sum(counts) if kind in (name, "both") else 0
            with common.database(address) as fresh, common.connection(fresh) as seen:
                there = {"length": seen.root()["length"](), "plain": seen.root()["plain"]["value"]}
            if there != values:
                sys.exit(f"{kind}: {there} after commits that make {values}")
            print(json.dumps({
                "kind": kind, "least": min(counts), "most": max(counts),
                "most_tries": max(each["most_tries"] for each in found),
                "most_votes": max(each["most_votes"] for each in found),
            }))
        for each in clients:
            each.tell("")
        late.cancel()
        if any([each.process.wait() for each in clients]):
            sys.exit("a client did not end well")


if __name__ == "__main__":
    if sys.argv[1] == "one":
        one(sys.argv[2])
    else:
        main(*sys.argv[1:])
