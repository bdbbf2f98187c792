"""Lets ZODB's own tools judge a Data.fs: `tools.py DATA_FS [--objects N]`.

`fstail`, `fsdump`, `fsrefs`, `fsoids` and a whole read through a database. Each prints what it finds
wrong in its own way and none has an exit code for it, so what they print is looked at.
"""
import argparse
import subprocess
import sys

import ZODB
from ZODB.FileStorage import FileStorage

import common


def tool(module, *args, call="main"):
    code = f"import sys; sys.argv[0] = {module!r}; from {module} import {call}; sys.exit({call}())"
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    if done.returncode or "Traceback" in done.stderr:
        sys.exit(f"{module} {args}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--objects", type=int, help="how many the tree has")
    args = parser.parse_args()

    storage = FileStorage(args.path, read_only=True)
    count = sum(1 for _ in storage.iterator())
    last = storage.lastTransaction()
    storage.close()

    tail = tool("ZODB.scripts.fstail", "-n", "5", args.path, call="Main")
    if tail.count("hash=") != 5:
        sys.exit(f"fstail shows not five transactions:\n{tail}")
    dump = tool("ZODB.FileStorage.fsdump", args.path)
    if dump.count("Trans #") != count or f"tid={last.hex()}" not in dump:
        sys.exit(f"fsdump shows {dump.count('Trans #')} transactions, not {count}")
    refs = tool("ZODB.scripts.fsrefs", args.path)
    if "oid " in refs or "failed" in refs:
        sys.exit(f"fsrefs found dangling references:\n{refs[:3000]}")
    seen = tool("ZODB.scripts.fsoids", args.path, "0x0")
    if "revision" not in seen:
        sys.exit(f"fsoids does not know the root object:\n{seen[:1000]}")

    if args.objects is not None:
        storage = FileStorage(args.path, read_only=True)
        db = ZODB.DB(storage)
        with common.connection(db) as conn:
            tree = conn.root()["tree"]
            for number, each in tree.items():
                if each["number"] != number:
                    sys.exit(f"{args.path}: {number} is {each}")
                if number % 5000 == 0:
                    conn.cacheMinimize()
            if len(tree) != args.objects:
                sys.exit(f"{args.path}: {len(tree)} objects, not {args.objects}")
        db.close()


if __name__ == "__main__":
    main()
