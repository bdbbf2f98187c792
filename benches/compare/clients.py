"""Python clients: prints the latencies of what it did, in seconds, as JSON.

Usage: python clients.py HOST:PORT (loads|commits) SECONDS
"""
import json
import random
import sys
import time

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.utils import maxtid

address, what, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
host, port = address.rsplit(":", 1)
# A cache that holds next to nothing: every load goes to the server.
storage = ClientStorage((host, int(port)), cache_size=1, wait_timeout=30)
db = ZODB.DB(storage, cache_size=0)
latencies = []


def loads():
    with db.transaction() as connection:
        objects = [PersistentMapping(data="x" * 4000) for _ in range(500)]
        for item in objects:
            connection.add(item)
        oids = [item._p_oid for item in objects]
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


one = {"loads": loads, "commits": commits}[what]()
end = time.perf_counter() + seconds
start = time.perf_counter()
while start < end:
    one()
    now = time.perf_counter()
    latencies.append(now - start)
    start = now
print(json.dumps(latencies))
db.close()
