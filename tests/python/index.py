"""What a saved index says: `index.py DATA_FS` reads `DATA_FS.index` as ZODB does and checks it.

It must be one that FileStorage would use: up to the end of the file, with the place of every object, the
same as a scan of the whole file finds. Prints the number of objects.
"""
import os
import shutil
import sys
import tempfile

from ZODB.FileStorage import FileStorage
from ZODB.fsIndex import fsIndex


def main(path):
    info = fsIndex.load(path + ".index")
    size = os.path.getsize(path)
    if info["pos"] != size:
        sys.exit(f"{path}.index reaches to {info['pos']}, the file to {size}")
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "Data.fs")
        shutil.copy(path, copy)
        scanned = FileStorage(copy, read_only=True)
        places = dict(scanned._index.items())
        scanned.close()
    saved = dict(info["index"].items())
    if saved != places:
        odd = {oid.hex() for oid in saved.keys() ^ places.keys()}
        sys.exit(f"{path}.index differs from the file: {len(saved)} and {len(places)} objects, {odd}")
    # FileStorage itself has its own tests for an index that fits: it must not scan.
    storage = FileStorage(path, read_only=True)
    if dict(storage._index.items()) != places:
        sys.exit(f"FileStorage reads another index from {path}.index")
    storage.close()
    print(len(saved))


if __name__ == "__main__":
    main(sys.argv[1])
