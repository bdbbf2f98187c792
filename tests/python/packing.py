"""Packing while others commit, and what Python makes of the same file.

    packing.py fill FILE MIB           a database with old revisions and garbage
    packing.py client ADDRESS NAME     commits until standard input is closed; prints how long it had to wait
    packing.py pack ADDRESS            packs to a commit of two seconds ago; prints its time, and when it began and ended
    packing.py counts FILE            what the clients have written, by the file
    packing.py expect FILE TIME        has FileStorage pack a copy of FILE beside it; prints its name
"""
import json
import shutil
import sys
import threading
import time

import ZODB
from persistent.mapping import PersistentMapping
from persistent.TimeStamp import TimeStamp
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf

import common

CLIENTS = 8


def fill(file, mib):
    db = ZODB.DB(FileStorage(file))
    with common.connection(db) as conn:
        root = conn.root()
        for number in range(CLIENTS):
            root[f"c{number}"] = PersistentMapping(count=0, part=PersistentMapping())
        root["all"] = PersistentMapping()
        conn.transaction_manager.commit()
        record = "x" * 4000
        for number in range(int(mib) * 250 // 10):
            # Of ten one is changed later, and one is garbage.
            for each in range(8):
                root["all"][number, each] = PersistentMapping(value=record)
            root["lost"] = PersistentMapping(value=record)
            root["changed"] = root.get("changed") or PersistentMapping()
            root["changed"]["value"] = record
            if number % 20 == 0:
                conn.transaction_manager.commit()
                conn.cacheMinimize()
        conn.transaction_manager.commit()
    db.close()


def client(address, name):
    """What it writes is 8 KiB for each commit, a part of it garbage by the next."""
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
    waits = []
    commits = 0
    with common.database(address) as db, common.connection(db) as conn:
        mine = conn.root()[name]
        print("ready", flush=True)
        while not end.is_set():
            mine["count"] += 1
            mine["part"] = PersistentMapping(text=str(mine["count"]) * 2000)
            began = time.time()
            conn.transaction_manager.commit()
            waits.append((time.time() - began, began))
            commits += 1
        count = mine["count"]
    print(json.dumps({"commits": commits, "count": count, "waits": sorted(waits)[-20:]}), flush=True)


def pack(address):
    storage = common.client(address)
    # Clients have committed before that time and after it: what they replaced until then is garbage.
    stop = TimeStamp(storage.lastTransaction()).timeTime()
    # What is voted for now may have an earlier TID and be finished later: it belongs to the packed part for who packs
    # the file afterwards, and not for who packs it now. What has a TID of two seconds ago is finished.
    deadline = time.time() + 60
    while TimeStamp(storage.lastTransaction()).timeTime() < stop + 2:
        assert time.time() < deadline, "the clients do not commit"
        time.sleep(0.01)
    began = time.time()
    storage.pack(stop, wait=True)
    # The time as text: not every reader of JSON takes a number exactly, and this one is of a transaction.
    print(json.dumps({"time": repr(stop), "began": began, "ended": time.time()}))
    storage.close()


def expect(file, stop):
    shutil.copy(file, file + ".expected")
    storage = FileStorage(file + ".expected")
    storage.pack(float(stop), referencesf)
    storage.close()
    print(file + ".expected")


def counts(file):
    """What the clients' objects say."""
    db = ZODB.DB(FileStorage(file, read_only=True))
    with common.connection(db) as conn:
        root = conn.root()
        for name in [f"c{number}" for number in range(CLIENTS)]:
            count = root[name]["count"]
            assert root[name]["part"]["text"] == str(count) * 2000 or count == 0, name
            print(count)
        for part in root["all"].values():
            assert len(part["value"]) == 4000
            part._p_deactivate()
    db.close()


globals()[sys.argv[1]](*sys.argv[2:])
