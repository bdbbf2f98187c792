"""What every script here needs: addresses as they are written, clients, and transactions as plain values."""
import contextlib
import hashlib
import os
import ssl

import transaction
import ZODB
from ZEO.ClientStorage import ClientStorage
from ZODB.utils import tid_repr


def parse_address(text):
    """`127.0.0.1:8100`, `[::1]:8100`, or `unix:PATH`, as ZEO takes it; several with commas between."""
    if "," in text:
        return [parse_address(each) for each in text.split(",")]
    if text.startswith("unix:"):
        return text[len("unix:"):]
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def secured_by(address):
    """Of `tls=FOLDER/NAME;ADDRESS`, the files of who shows the certificate NAME in that folder; `nobody` shows
    none. `NAME:SERVER` trusts another than the certificate `server`."""
    shown, address = address.removeprefix("tls=").split(";", 1)
    folder, name = os.path.split(shown)
    name, _, server = name.partition(":")
    files = {
        "certificate": os.path.join(folder, name + ".pem"),
        "key": os.path.join(folder, name + ".key"),
        "authenticate": os.path.join(folder, (server or "server") + ".pem"),
        "name": server or "server",
    }
    return files, address


def client(address, **options):
    options.setdefault("wait_timeout", 60)
    if address.startswith("tls="):
        files, address = secured_by(address)
        context = ssl.create_default_context(cafile=files["authenticate"])
        if os.path.exists(files["certificate"]):
            context.load_cert_chain(files["certificate"], files["key"])
        options.update(ssl=context, ssl_server_hostname=files["name"])
    return ClientStorage(parse_address(address), **options)


@contextlib.contextmanager
def database(address, **options):
    db = ZODB.DB(client(address, **options))
    try:
        yield db
    finally:
        db.close()


@contextlib.contextmanager
def connection(db, manager=None):
    """A connection with a transaction manager of its own, so that several live in one process."""
    manager = manager or transaction.TransactionManager()
    conn = db.open(transaction_manager=manager)
    try:
        yield conn
    finally:
        manager.abort()
        conn.close()


def digest(data):
    return None if data is None else hashlib.sha256(data).hexdigest()[:20]


def transactions(storage, start=None, stop=None, extension_bytes=False, pointers=True):
    """Every transaction as plain values: what two copies of a database must have in common. The same extension
    can be pickled in several ways, and a record that points back can be a copy of what it points to."""
    for txn in storage.iterator(start, stop):
        yield {
            "tid": tid_repr(txn.tid),
            "status": txn.status if isinstance(txn.status, str) else txn.status.decode(),
            "user": text(txn.user),
            "description": text(txn.description),
            "extension": repr(sorted(tuples(txn.extension).items())),
            "extension_bytes": txn.extension_bytes.hex() if extension_bytes else None,
            "records": [
                (
                    record.oid.hex(),
                    record.tid.hex(),
                    digest(record.data),
                    record.data_txn.hex() if record.data_txn and pointers else None,
                )
                for record in once(txn)
            ],
        }


def tuples(value):
    """A list is a tuple after it has been through msgpack, with Python's server as well."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value


def once(txn):
    """Its records without repetitions: ZEO stores that of a blob twice, with equal data."""
    seen = {}
    for record in txn:
        known = seen.get(record.oid)
        if known is None:
            seen[record.oid] = record
            yield record
        elif (known.data, known.data_txn) != (record.data, record.data_txn):
            yield record


def text(value):
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
