"""Lets ZODB's own tools judge a Data.fs: `tools.py DATA_FS [--objects N] [--again]`.

`fstail`, `fsdump`, `fsrefs`, `fsoids`, `fstest`, and a whole read through a database. Each prints what it finds
wrong in its own way and few have an exit code for it, so what they print is looked at. With `--again`, Python's
FileStorage writes the same transactions into a file of its own, and every tool that ZODB ships must say of one
file what it says of the other, to the letter; those that do not get along with what is in the file (`space`
with undone creations, `netspace` without `-v` and `fsstats` with Python 3) must fail alike.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

import ZODB
from ZODB.FileStorage import FileStorage

import common


def run(module, *args, call="main"):
    code = f"import sys; sys.argv[0] = {module!r}; from {module} import {call}; sys.exit({call}())"
    # Some print sets.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=environment)


def tool(module, *args, call="main"):
    done = run(module, *args, call=call)
    if done.returncode or "Traceback" in done.stderr:
        sys.exit(f"{module} {args}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


# Those that take a file, and with what.
SHIPPED = [
    ("ZODB.FileStorage.fsdump", [], "main"),
    ("ZODB.scripts.analyze", [], None),
    ("ZODB.scripts.checkbtrees", [], "main"),
    ("ZODB.scripts.fsoids", ["0x0", "0x1", "0x5"], "main"),
    ("ZODB.scripts.fsrefs", ["-v"], "main"),
    ("ZODB.scripts.fsstats", [], "main"),
    ("ZODB.scripts.fstail", ["-n", "1000"], "Main"),
    ("ZODB.scripts.fstest", ["-v", "-v"], "main"),
    ("ZODB.scripts.netspace", [], "Main"),
    ("ZODB.scripts.netspace", ["-v"], "Main"),
    ("ZODB.scripts.space", ["-v"], "main"),
]
# These take the file first, and oids after it.
FILE_FIRST = {"ZODB.scripts.fsoids"}


def again(path):
    """What each tool says of this file, and of one in which Python has written the same."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "Data.fs")
        source, target = FileStorage(path, read_only=True), FileStorage(copy)
        target.copyTransactionsFrom(source)
        source.close()
        target.close()
        works = set()
        for module, options, call in SHIPPED:
            said = []
            for each in (path, copy):
                given = each
                if module.endswith("fsstats"):
                    # It reads what fsdump has written.
                    given = os.path.join(folder, "dump")
                    with open(given, "w") as file:
                        file.write(tool("ZODB.FileStorage.fsdump", each))
                args = [given, *options] if module in FILE_FIRST else [*options, given]
                if call is None:
                    done = subprocess.run(
                        [sys.executable, "-m", module, *args], capture_output=True, text=True)
                else:
                    done = run(module, *args, call=call)
                errors = done.stderr.strip().rpartition("\n")[2]
                printed = re.sub(r"\bat 0x[0-9a-f]+", "at", done.stdout.replace(each, "FILE"))
                said.append((done.returncode, printed, errors))
            if said[0] != said[1]:
                theirs = said[1][1].splitlines()
                lines = [pair for pair in zip(said[0][1].splitlines(), theirs) if pair[0] != pair[1]][:3]
                sys.exit(f"{module} {options} of {path} and of a copy differ: {lines} "
                         f"{said[0][0], said[0][2]} {said[1][0], said[1][2]}")
            if said[0][0] == 0:
                works.add(module.rpartition(".")[2])
        print("works:", *sorted(works))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--objects", type=int, help="how many the tree has")
    parser.add_argument("--again", action="store_true", help="compare with a file that Python writes")
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
    # It checks all lengths and offsets by itself.
    tested = tool("ZODB.scripts.fstest", "-v", args.path)
    if tested.count("transaction tid") != count or "no errors detected" not in tested:
        sys.exit(f"fstest saw {tested.count('transaction tid')} transactions, not {count}:\n{tested[-1000:]}")
    if args.again:
        again(args.path)

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
