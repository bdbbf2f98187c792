"""Reads the members of a stopped array with Python's own FileStorage, and compares.

    verify.py MEMBER... [--log FILE...] [--blobs] [--extension-bytes] [--no-pointers]
        [--any-order]

Every member must hold the same transactions, metadata and records. With the logs of `worker.py`, every
acknowledged commit must be in there once, under the TID that the client was given, and the counters must
be exact. With `--blobs`, the folder `blobs` beside every member must hold the same blobs. Prints what it
found as JSON; anything wrong is an exit code of 1 and a sentence.
"""
import argparse
import collections
import hashlib
import json
import os
import re
import sys

import ZODB
import ZODB.serialize
import ZODB.utils
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage

import common

TOKEN = re.compile(r"^w\d+:\d+$")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("members", nargs="+")
    parser.add_argument("--log", action="append", default=[])
    parser.add_argument("--current", action="store_true", help="compare objects as they are, not histories")
    parser.add_argument("--blobs", action="store_true")
    parser.add_argument("--extension-bytes", action="store_true", help="extensions are pickled alike, too")
    parser.add_argument("--no-pointers", action="store_true", help="a back-pointer is as good as its data")
    parser.add_argument("--any-order", action="store_true", help="of the records of one transaction")
    args = parser.parse_args()
    same = {"extension_bytes": args.extension_bytes, "pointers": not args.no_pointers}

    def history(storage):
        txns = list(common.transactions(storage, **same))
        for txn in txns if args.any_order else ():
            txn["records"].sort()
        return txns

    copies = {}
    for path in args.members:
        read = current if args.current else history
        with_storage(path, lambda storage: copies.__setitem__(path, read(storage)))
    if args.blobs:
        blobs = {path: blobs_of(path) for path in args.members}
        for path in args.members[1:]:
            compare_blobs(args.members[0], blobs[args.members[0]], path, blobs[path])
    first = args.members[0]
    for path in args.members[1:]:
        compare(first, copies[first], path, copies[path])
    tids = sorted({record["tid"] for record in copies[first]}) if args.current else [
        txn["tid"] for txn in copies[first]
    ]
    if tids != sorted(set(tids)):
        sys.exit(f"{first}: transactions out of order, or twice")
    found = {"transactions": len(tids), "last": tids[-1] if tids else None}
    if args.blobs:
        found["blobs"] = len(blobs[args.members[0]])

    if args.log:
        found.update(check_logs(copies[first], args.log))
        for path in args.members:
            with_storage(path, lambda storage: check_objects(path, storage, found["committed"]))
        found["committed"] = sum(len(numbers) for numbers in found["committed"].values())
    print(json.dumps(found))


def current(storage):
    """Every object that can be reached, as it is now."""
    found, wanted = {}, [ZODB.utils.z64]
    while wanted:
        oid = wanted.pop()
        if oid not in found:
            data, tid = storage.load(oid)
            found[oid] = {"tid": tid.hex(), "oid": oid.hex(), "data": common.digest(data)}
            wanted.extend(ZODB.serialize.referencesf(data))
    return [found[oid] for oid in sorted(found)]


def with_storage(path, action, **options):
    storage = FileStorage(path, read_only=True, **options)
    try:
        return action(storage)
    finally:
        storage.close()


def blobs_of(path):
    """Every blob that a record speaks of, by its oid and TID: the digest of its file, or that it is missing."""
    found = {}

    def collect(storage):
        for txn in storage.iterator():
            for record in txn:
                if record.data and is_blob_record(record.data):
                    key = (record.oid.hex(), record.tid.hex())
                    try:
                        with open(storage.loadBlob(record.oid, record.tid), "rb") as file:
                            found[key] = hashlib.file_digest(file, "sha256").hexdigest()
                    except Exception as error:
                        found[key] = f"missing: {type(error).__name__}"

    with_storage(path, collect, blob_dir=os.path.join(os.path.dirname(path), "blobs"))
    return found


def compare_blobs(name, ours, other_name, others):
    for key in sorted(set(ours) | set(others)):
        one, other = ours.get(key, "unknown"), others.get(key, "unknown")
        if one != other:
            sys.exit(f"blob {key} differs: {name} has {one}, {other_name} has {other}")
        if one.startswith("missing"):
            sys.exit(f"blob {key} is lost by {name} and {other_name}: {one}")


def compare(name, ours, other_name, others):
    for index, (one, other) in enumerate(zip(ours, others)):
        if one != other:
            sys.exit(
                f"transaction {index} differs:\n{name}: {json.dumps(one)[:3000]}\n"
                f"{other_name}: {json.dumps(other)[:3000]}"
            )
    if len(ours) != len(others):
        sys.exit(f"{name} has {len(ours)} transactions, {other_name} has {len(others)}")


def check_logs(transactions, logs):
    """What clients were told, against what is there."""
    there = collections.defaultdict(list)
    for txn in transactions:
        if TOKEN.match(txn["description"]):
            there[txn["description"]].append(txn)
    for token, txns in there.items():
        if len(txns) > 1:
            sys.exit(f"{token} was committed {len(txns)} times")
        worker, _, number = token.partition(":")
        if txns[0]["user"] != worker or txns[0]["extension"] != f"[('number', {number})]":
            sys.exit(f"{token} lost metadata: {txns[0]}")
    totals = collections.Counter()
    for log in logs:
        with open(log) as file:
            lines = [json.loads(line) for line in file if line.endswith("\n")]
        worker = re.search(r"w\d+", log.rsplit("/", 1)[-1]).group()
        for line in lines:
            if line["kind"] in ("ack", "found"):
                token = f"{worker}:{line['number']}"
                if token not in there:
                    sys.exit(f"{token} was acknowledged ({line}) and is lost")
                tid = there[token][0]["tid"]
                if line["kind"] == "ack" and int(tid, 16) != int(line["tid"], 16):
                    sys.exit(f"{token} was acknowledged as {line['tid']}, but is {tid}")
                totals["acknowledged" if line["kind"] == "ack" else "found"] += 1
            elif line["kind"] == "error":
                totals["errors"] += 1
            elif line["kind"] == "end":
                totals["conflicts"] += line["conflicts"]
                totals["resolved"] += line["resolved"]
    committed = collections.defaultdict(list)
    for txn in transactions:
        if TOKEN.match(txn["description"]):
            worker, _, number = txn["description"].partition(":")
            committed[worker].append(int(number))
    for worker, numbers in committed.items():
        if numbers != list(range(1, len(numbers) + 1)):
            sys.exit(f"the commits of {worker} are not 1, 2, 3, …: {numbers[:20]}…{numbers[-20:]}")
    return {**totals, "committed": committed}


def check_objects(path, storage, committed):
    """The objects as they are in the end, through a database."""
    db = ZODB.DB(storage)
    with common.connection(db) as conn:
        root = conn.root()
        total = sum(len(numbers) for numbers in committed.values())
        if root["counter"]() != total:
            sys.exit(f"{path}: the counter is {root['counter']()}, not {total}")
        for worker, objects in root["workers"].items():
            numbers = committed.get(worker, [])
            tree = objects["tree"]
            if list(tree.keys()) != numbers or objects["commits"]["value"] != len(numbers):
                sys.exit(f"{path}: {worker} has {len(tree)} entries, not {len(numbers)}")
            for number, token in tree.items():
                if token != f"{worker}:{number}":
                    sys.exit(f"{path}: {worker} has {token} as number {number}")


if __name__ == "__main__":
    main()
