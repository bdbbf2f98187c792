"""`repozo` of a member that is being written: `backup.py ADDRESS DATA_FS REPOSITORY [--packed]`.

Full, incremental, quick and compressed backups are made, and each is restored and read with Python's
FileStorage. It must hold the array's history up to some transaction, and nothing else: no half of a transaction,
and everything that was acknowledged before the backup began. With `--packed` there are backups from before a
pack in the repository: the first one now must be a full one.
"""
import argparse
import glob
import os
import subprocess
import sys
import time

from ZODB.FileStorage import FileStorage
from ZODB.utils import u64

import common


def repozo(repository, *args):
    command = [os.path.join(os.path.dirname(sys.executable), "repozo"), "-v", "-r", repository, *args]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"})
    if done.returncode or "Traceback" in done.stderr:
        sys.exit(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stderr


def restored(path):
    storage = FileStorage(path, read_only=True)
    try:
        return list(common.transactions(storage))
    finally:
        storage.close()


def backups(repository):
    return {os.path.basename(path) for path in glob.glob(os.path.join(repository, "*.*fs*"))}


class Array:
    def __init__(self, address):
        self.storage = common.client(address)

    def last(self):
        # The server, and not what this client has heard.
        self.storage.ping()
        return u64(self.storage.lastTransaction())

    def check(self, path, least):
        """What was restored, against the history that the array tells."""
        held = restored(path)
        last = int(held[-1]["tid"], 16)
        assert last >= least, f"the backup ends with {last:#x}, before {least:#x}, which was acknowledged"
        told = list(common.transactions(self.storage, None, last.to_bytes(8, "big")))
        assert [txn["tid"] for txn in held] == [txn["tid"] for txn in told], (len(held), len(told))
        assert held == told
        return len(held)


def a_second_passes(repository):
    """A backup is named by its second: the next one needs another."""
    newest = max(os.path.getmtime(path) for path in glob.glob(os.path.join(repository, "*")))
    while int(time.time()) <= int(newest) + 1:
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("path")
    parser.add_argument("repository")
    parser.add_argument("--packed", action="store_true")
    args = parser.parse_args()
    array, target = Array(args.address), os.path.join(args.repository, "..", "restored.fs")
    os.makedirs(args.repository, exist_ok=True)
    # What is asked for, and whether it must be a whole or a part.
    steps = [
        (["-Q"], "incremental"),
        (["-z"], "incremental"),
        (["-F", "-k"], "full"),
        ([], "incremental"),
    ]
    steps.insert(0, (["-Q"] if args.packed else ["-F", "-z"], "full"))
    dated = None
    for options, kind in steps:
        if backups(args.repository):
            a_second_passes(args.repository)
        before, least = backups(args.repository), array.last()
        said = repozo(args.repository, "-B", *options, "-f", args.path)
        made = backups(args.repository) - before
        assert len(made) == 1, (made, said)
        name = made.pop()
        # A part is called `deltafs`.
        assert name.endswith((".fs", ".fsz")) == (kind == "full"), (options, name, said)
        repozo(args.repository, "-V")
        repozo(args.repository, "-R", "-w", "-o", target)
        count = array.check(target, least)
        print(kind, *options, count)
        if kind == "full" and "-k" in options:
            assert len(backups(args.repository)) == 1, backups(args.repository)
            dated = os.path.join(args.repository, "..", "dated.fs")
            os.replace(target, dated)
            date = name.partition(".")[0]
    # As it was then, though there is more by now.
    repozo(args.repository, "-R", "-D", date, "-o", target)
    with open(target, "rb") as one, open(dated, "rb") as other:
        assert one.read() == other.read(), "the state of a date"


if __name__ == "__main__":
    main()
