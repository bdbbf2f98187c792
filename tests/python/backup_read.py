"""Reads a backup of an array in which `worker.py` works, with Python's own FileStorage.

    backup_read.py DATA_FS

It must be of one moment: the counters are those of the commits that are in it, and every blob that a record
speaks of has its file. Prints what it found as JSON; anything wrong is an exit code of 1 and a sentence.
"""
import json
import os
import sys

from ZODB.FileStorage import FileStorage

import common
import verify


def main(path):
    txns = []
    verify.with_storage(path, lambda storage: txns.extend(common.transactions(storage)))
    committed = verify.check_logs(txns, [])["committed"]
    verify.with_storage(path, lambda storage: verify.check_objects(path, storage, committed))
    blobs = verify.blobs_of(path)
    for key, digest in blobs.items():
        if digest.startswith("missing"):
            sys.exit(f"blob {key} is {digest}")
    # As a site would open it: with the index, and to write to it.
    storage = FileStorage(path, blob_dir=os.path.join(os.path.dirname(path), "blobs"))
    found = {
        "transactions": len(txns),
        "committed": sum(len(numbers) for numbers in committed.values()),
        "blobs": len(blobs),
        "last": storage.lastTransaction().hex(),
        "objects": len(storage),
    }
    storage.close()
    print(json.dumps(found))


main(sys.argv[1])
