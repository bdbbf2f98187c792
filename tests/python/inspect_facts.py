"""What Python says of a Data.fs, for comparison with `zeoraidctl inspect`.

    inspect_facts.py DATA_FS
"""
import json
import os
import sys

from ZODB.FileStorage import FileStorage
from ZODB.utils import u64

path = sys.argv[1]
storage = FileStorage(path, read_only=True)
txns = [
    {
        "position": txn._tpos,
        "tid": f"0x{u64(txn.tid):016x}",
        "status": {" ": "normal", "p": "packed"}[txn.status if isinstance(txn.status, str) else txn.status.decode()],
        "user": txn.user.decode(),
        "description": txn.description.decode(),
        "records": sum(1 for _ in txn),
        "bytes": txn._tend + 8 - txn._tpos,
    }
    for txn in storage.iterator()
]
print(
    json.dumps(
        {
            "transactions": len(txns),
            "records": sum(txn["records"] for txn in txns),
            "objects": len(storage),
            "bytes": os.path.getsize(path),
            "first": txns[0]["tid"],
            "last": txns[-1]["tid"],
            "last_five": txns[-5:],
        }
    )
)
storage.close()
