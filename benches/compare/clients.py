"""Python clients: prints the latencies of what it did, in seconds, as JSON.

Usage: python clients.py HOST:PORT (root|loads|commits) SECONDS [OBJECTS]

`root` stores what is loaded, and makes the root of a fresh database, which several clients at once would
conflict over.
"""
import json
import random
import sys
import time

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.POSException import ConflictError
from ZODB.utils import maxtid

address, what, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
count = int(sys.argv[4]) if len(sys.argv) > 4 else 500
host, port = address.rsplit(":", 1)
# A cache that holds next to nothing: every load goes to the server.
storage = ClientStorage((host, int(port)), cache_size=1, wait_timeout=30)
db = ZODB.DB(storage, cache_size=0)
latencies = []


def root():
    with db.transaction() as connection:
        objects = [PersistentMapping(data="x" * 4000) for _ in range(count)]
        for item in objects:
            connection.add(item)
        connection.root()["oids"] = [item._p_oid for item in objects]


def loads():
    with db.transaction() as connection:
        oids = connection.root()["oids"][:count]
    load = storage._server.load_before

    def one():
        load(random.choice(oids), maxtid)

    return one


def commits():
    connection = db.open()
    mine = PersistentMapping()
    connection.add(mine)
    transaction.commit()

    def one():
        mine["data"] = "x" * 1000
        mine["number"] = len(latencies)
        transaction.commit()

    return one


if what == "root":
    root()
    print("[]")
    db.close()
    sys.exit()
one = {"loads": loads, "commits": commits}[what]()
end = time.perf_counter() + seconds
start = time.perf_counter()
while start < end:
    try:
        one()
    except ConflictError:
        # Nobody else writes these objects. A client conflicts with itself where the server announces
        # another's commit later than it answers its own: it believes then that its own is yet to come.
        transaction.abort()
        continue
    now = time.perf_counter()
    latencies.append(now - start)
    start = now
print(json.dumps(latencies))
db.close()
