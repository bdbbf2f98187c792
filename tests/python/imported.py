"""A few objects and blobs: `imported.py write ADDRESS STORAGE WORD`, or `read ADDRESS STORAGE` for all words so far."""
import sys
import tempfile

from persistent.mapping import PersistentMapping
from ZODB.blob import Blob

import common


def content(word):
    return (word * 1000).encode()


def main(what, address, storage, *words):
    with (
        tempfile.TemporaryDirectory() as folder,
        common.database(address, storage=storage, blob_dir=folder) as db,
        common.connection(db) as conn,
    ):
        if what == "write":
            root = conn.root().setdefault("imported", PersistentMapping())
            for word in words:
                root[word] = PersistentMapping(blob=Blob(content(word)))
            conn.transaction_manager.commit()
            return
        for word, held in sorted(conn.root()["imported"].items()):
            with held["blob"].open() as blob:
                assert blob.read() == content(word), word
            print(word)


main(*sys.argv[1:])
