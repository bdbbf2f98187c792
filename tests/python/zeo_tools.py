"""ZEO's own tools against the daemon: `zeo_tools.py NAME ARGUMENTS`.

    past PATH                        writes a Data.fs that a site has filled for ten days
    zeopack ADDRESS SOCKET PAST      packs the arrays `main` (also `1`) and `other`, which hold what PAST holds
    nagios_empty ADDRESS             `zeo-nagios` of arrays in which nothing was ever committed
    nagios ADDRESS SOCKET            `zeo-nagios` with everything that it can be told
    nagios_down ADDRESS              and where nobody listens

What packing should leave is what Python's FileStorage leaves.
"""
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import ZEO
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf
from ZODB.TimeStamp import TimeStamp
from ZODB.utils import p64, z64

import common
from features import fill, raises, until

HALF_A_DAY = 12 * 3600
# Every name by which a client may ask for a storage; `zeo-nagios` writes no name before what it says of `1`.
NAMES = ("1", "main", "other")


def program(name, *args):
    command = [os.path.join(os.path.dirname(sys.executable), name), *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"})


def past(path):
    """A transaction every half day, the last six hours ago: each changes one object, and replaces another."""
    now = time.time() - HALF_A_DAY / 2
    scratch = FileStorage(path + ".scratch")
    db = ZODB.DB(scratch)
    with common.connection(db) as conn:
        for number in range(21):
            conn.root()["changed"] = conn.root().get("changed") or PersistentMapping()
            conn.root()["changed"]["number"] = number
            conn.root()["replaced"] = PersistentMapping(number=number, data="x" * 5000)
            conn.transaction_manager.get().note(f"number {number}")
            conn.transaction_manager.commit()
    # The same, at other times.
    target = FileStorage(path)
    transactions = [(txn, list(txn)) for txn in scratch.iterator()]
    for age, (txn, records) in zip(range(len(transactions) - 1, -1, -1), transactions):
        seconds = now - age * HALF_A_DAY
        tid = TimeStamp(*time.gmtime(seconds)[:5], seconds % 60).raw()
        target.tpc_begin(txn, tid, txn.status)
        for record in records:
            target.restore(record.oid, tid, record.data, "", record.data_txn, txn)
        target.tpc_vote(txn)
        target.tpc_finish(txn)
    target.close()
    db.close()


def held(address, name):
    storage = common.client(address, storage=name)
    try:
        return list(common.transactions(storage))
    finally:
        storage.close()


class Oracle:
    """What Python's FileStorage would hold."""

    def __init__(self, path, folder, name):
        self.path = os.path.join(folder, name)
        shutil.copyfile(path, self.path)

    def pack(self, when):
        storage = FileStorage(self.path)
        storage.pack(when, referencesf)
        storage.close()

    def holds(self):
        storage = FileStorage(self.path, read_only=True)
        try:
            return list(common.transactions(storage))
        finally:
            storage.close()


def zeopack(address, socket_path, past):
    host, _, port = address.rpartition(":")
    day = 86400
    with tempfile.TemporaryDirectory() as folder:
        oracles = {name: Oracle(past, folder, name) for name in ("main", "other")}

        def packs(args, expected):
            """`expected`: the arrays that are packed, and to when."""
            before = {name: oracle.holds() for name, oracle in oracles.items()}
            done = program("zeopack", *args)
            assert done.returncode == 0 and not done.stderr, (args, done)
            for name, when in expected.items():
                oracles[name].pack(when)
            for name, oracle in oracles.items():
                found, wanted = held(address, name), oracle.holds()
                assert found == wanted, (args, name, len(found), len(wanted))
                changed = wanted != before[name]
                assert changed == (name in expected), f"{args}: {name} should be packed, and nothing else"

        now = time.time()
        # Longer ago than anything.
        packs(["-d", "30", address], {})
        # The name is `1`, where none is given.
        packs(["--days", "8", address], {"main": now - 8 * day})
        packs(["-d", "7", "-u", f"{socket_path}:other"], {"other": now - 7 * day})
        # To a time of day: that of the day so many days ago.
        midnight = now - now % day
        packs(["-d", "5", "-t", "0", f"{address}:other"], {"other": midnight - 5 * day})
        packs(["-d", "5", "--time", "00:00", f"{address}:main"], {"main": midnight - 5 * day})
        packs(["-d", "4", "-t", "00:00:00", f"--unix={socket_path}"], {"main": midnight - 4 * day})
        # As it was said in former times.
        packs(["-d", "3", "-h", host, "-p", port, "-S", "other"], {"other": now - 3 * day})
        packs(["-d", "2", "-U", socket_path, "-S", "main"], {"main": now - 2 * day})
        # Several at once.
        packs(["-d", "1", f"{address}:main", f"{address}:other"], {"main": now - day, "other": now - day})
        # And to now, as it is without anything.
        packs([address, "-u", f"{socket_path}:other"], {"main": now, "other": now})
        for name in oracles:
            assert len(held(address, name)) <= 2, name


def nagios_empty(address):
    done = program("zeo-nagios", address)
    assert done.returncode == 1, done
    assert done.stdout == "".join(f"Empty storage {name!r}\n" for name in NAMES), done


def nagios_down(address):
    done = program("zeo-nagios", address)
    assert done.returncode == 2 and done.stdout.startswith("Can't connect"), done


def ruok(address):
    """The question behind it, as any monitor may ask."""
    with socket.create_connection(common.parse_address(address)) as connection:
        connection.sendall(b"\0\0\0\4ruok")
        data = b""
        while more := connection.recv(65536):
            data += more
    # What is offered to a client, and the answer.
    size, = struct.unpack(">I", data[:4])
    return json.loads(data[8 + size:].decode("ascii"))


def metrics(printed):
    assert printed.startswith("OK|"), printed
    return dict(re.findall(r"(\S+?)=(\S+)", printed[3:]))


def nagios(address, socket_path):
    # The same keys, with values of the same kinds, as Python's server has them.
    theirs, stop = ZEO.server()
    host, port = theirs
    with common.database(f"{host}:{port}", storage="1") as db:
        fill(db, 2)
        python = ruok(f"{host}:{port}")["1"]
    stop()
    with common.database(address, storage="main") as db, common.database(address, storage="other") as other:
        fill(db, 3)
        fill(other, 1)
        ours = ruok(address)
        assert set(ours) == set(NAMES) and ours["1"] == ours["main"], ours
        for name, status in ours.items():
            assert set(status) == set(python), (set(status) ^ set(python))
            for key, value in status.items():
                kinds = (type(value), type(python[key]))
                assert kinds[0] == kinds[1] or key in ("lock_time", "timeout-thread-is-alive"), (key, kinds)
        assert ours["main"]["last-transaction"] == db.storage.lastTransaction().hex()
        time.strptime(ours["main"]["start"], "%a %b %d %H:%M:%S %Y")

    for place in (address, socket_path):
        until(lambda: ruok(address)["main"]["connections"] == 0)
        assert program("zeo-nagios", place).stdout == "OK\n"
        done = program("zeo-nagios", "-m", place)
        assert done.returncode == 0, done
        assert metrics(done.stdout) == {
            f"{array}{key}": "0" for array in ("", "main:", "other:")
            for key in ("active_txns", "connections", "waiting")
        }, done

    # Two clients that are in each other's way.
    first, second = (common.client(address, storage="main") for _ in range(2))
    txns = TransactionMetaData(), TransactionMetaData()
    for storage, txn in zip((first, second), txns):
        storage.tpc_begin(txn)
        storage.store(storage.new_oid(), z64, b"data", "", txn)
    first.tpc_vote(txns[0])
    voting = threading.Thread(target=second.tpc_vote, args=(txns[1],))
    voting.start()
    until(lambda: ruok(address)["main"]["waiting"] == 1)
    found = metrics(program("zeo-nagios", "--output-metrics", address).stdout)
    assert [found[f"main:{key}"] for key in ("active_txns", "connections", "waiting")] == ["2", "2", "1"], found
    assert ruok(address)["main"]["lock_time"] > time.time() - 60
    first.tpc_abort(txns[0])
    voting.join()
    second.tpc_finish(txns[1])
    first.close()
    second.close()

    # What happened since the last time, for each unit of time.
    with tempfile.TemporaryDirectory() as folder:
        status = os.path.join(folder, "status")
        for unit, seconds in (("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86400)):
            first_time = program("zeo-nagios", "-m", "-s", status, address)
            assert first_time.returncode == 0 and os.path.exists(status), first_time
            with common.database(address, storage="main") as db, common.connection(db) as conn:
                fill(db, 4)
                conn.sync()
                oid = conn.root()["thing"]._p_oid
                raises(ConflictError, store_old, db.storage, oid)
            # So many seconds ago that what this takes itself is nothing.
            units = max(1, 100_000 // seconds)
            then = time.time() - units * seconds
            os.utime(status, (then, then))
            done = program("zeo-nagios", "-m", "--status-path", status, "--time-units", unit, address)
            assert done.returncode == 0, done
            rates = {key: round(float(value) * units) for key, value in metrics(done.stdout).items()}
            # `fill` stores the root and the object once, and then the object.
            wanted = {"main:commits": 4, "main:stores": 6, "main:conflicts": 1, "main:aborts": 1,
                      "main:conflicts_resolved": 0, "other:commits": 0, "other:stores": 0}
            assert wanted.items() <= rates.items(), (unit, rates, wanted)
            assert rates["main:loads"] > 0 and rates["other:loads"] == 0, (unit, rates)
            os.remove(status)


def store_old(storage, oid):
    """On top of a revision that there never was."""
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    try:
        storage.store(oid, p64(1), b"old", "", txn)
        storage.tpc_vote(txn)
    finally:
        storage.tpc_abort(txn)


if __name__ == "__main__":
    {each.__name__: each for each in (past, zeopack, nagios, nagios_empty, nagios_down)}[sys.argv[1]](*sys.argv[2:])
