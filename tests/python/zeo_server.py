"""A ZEO server of PyPI's ZEO over a FileStorage, as `runzeo` starts it. Ends when its standard input does.

    zeo_server.py '{"file": "/…/Data.fs", "address": ["127.0.0.1", 0]}'

Prints one line of JSON when it listens: `{"port": …}`. Options: `blobs` (a folder), `msgpack`, `resolve`
(the server resolves conflicts; else clients do), `read_only`, `name`, `timeout`, `tls` (a dictionary with
`certificate`, `key`, `authenticate`), `failing_finish` (a TID as a number, whose `tpc_finish` fails).
"""
import json
import os
import ssl
import sys
import threading

import ZODB.blob
import ZODB.FileStorage
from ZEO.StorageServer import StorageServer

options = json.loads(sys.argv[1])
address = options["address"]
if isinstance(address, list):
    address = tuple(address)

storage = ZODB.FileStorage.FileStorage(
    options["file"], blob_dir=options.get("blobs"), read_only=options.get("read_only", False))

if "failing_finish" in options:
    failing = options["failing_finish"].to_bytes(8, "big")
    finish = storage.tpc_finish

    def failing_finish(transaction, *args):
        if storage._tid == failing:
            raise OSError("no")
        return finish(transaction, *args)

    storage.tpc_finish = failing_finish

context = None
if options.get("tls"):
    tls = options["tls"]
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=tls["authenticate"])
    context.load_cert_chain(tls["certificate"], tls["key"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = False

server = StorageServer(
    address,
    {options.get("name", "1"): storage},
    read_only=options.get("read_only", False),
    client_conflict_resolution=not options.get("resolve", False),
    msgpack=options.get("msgpack", False),
    transaction_timeout=options.get("timeout"),
    ssl=context,
)
bound = server.acceptor.addr
print(json.dumps({"port": bound[1] if isinstance(bound, tuple) else None}), flush=True)


def wait_for_the_end():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=wait_for_the_end, daemon=True).start()
server.loop()
