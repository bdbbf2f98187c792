"""ZODB's FileStorage, told what to do line by line: what it answers is how it has to be.

Reads a JSON object per line from standard input and answers each with one. Oids and tids are integers,
bytes are hexadecimal. The tests of the file engine do the same to both and compare answers and files.
"""

import base64
import importlib
import json
import logging
import os
import pickle
import sys
import tempfile

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError
from ZODB.POSException import MultipleUndoErrors
from ZODB.POSException import POSKeyError
from ZODB.POSException import ReadConflictError
from ZODB.POSException import UndoError
from ZODB.serialize import referencesf
from ZODB.utils import p64
from ZODB.utils import u64

logging.disable(logging.CRITICAL)
module = importlib.import_module('ZODB.FileStorage.FileStorage')
# Nobody pulls the plug of the oracle.
module.fsync = None


class Oracle:
    storage = None

    def open(self, file, blob_dir=None, keep_old=True, gc=True, index=True):
        self.close()
        if not index and os.path.exists(file + '.index'):
            os.remove(file + '.index')
        self.arguments = file, blob_dir, keep_old, gc
        self.storage = module.FileStorage(
            file, blob_dir=blob_dir, pack_keep_old=keep_old, pack_gc=gc)

    def close(self):
        if self.storage is not None:
            self.storage.close()
        self.storage = None

    def commit(self, tid, ops, user='', description='', extension='', status=' '):
        storage = self.storage
        transaction = TransactionMetaData(
            bytes.fromhex(user), bytes.fromhex(description), bytes.fromhex(extension))
        undone = []
        try:
            # Where it fails, it has the commit lock.
            storage.tpc_begin(transaction, p64(tid), status)
            for name, *arguments in ops:
                found = getattr(self, 'op_' + name)(transaction, *arguments)
                undone.extend(oid for oid in found or () if oid not in undone)
            storage.tpc_vote(transaction)
        except BaseException:
            storage.tpc_abort(transaction)
            # Where it was not voted, FileStorage leaves the files of its blobs behind.
            storage._blob_tpc_abort()
            raise
        storage.tpc_finish(transaction)
        return undone

    def op_store(self, transaction, oid, serial, data):
        self.storage.store(p64(oid), p64(serial), bytes.fromhex(data), '', transaction)

    def op_blob(self, transaction, oid, serial, data, content):
        handle, name = tempfile.mkstemp(dir=self.storage.temporaryDirectory())
        os.write(handle, bytes.fromhex(content))
        os.close(handle)
        try:
            self.storage.storeBlob(
                p64(oid), p64(serial), bytes.fromhex(data), name, '', transaction)
        finally:
            if os.path.exists(name):
                os.remove(name)

    def op_delete(self, transaction, oid, serial):
        self.storage.deleteObject(p64(oid), p64(serial), transaction)

    def op_check(self, transaction, oid, serial):
        self.storage.checkCurrentSerialInTransaction(p64(oid), p64(serial), transaction)

    def op_restore(self, transaction, oid, serial, data, previous):
        self.storage.restore(
            p64(oid), p64(serial), None if data is None else bytes.fromhex(data), '',
            None if previous is None else p64(previous), transaction)

    def op_undo(self, transaction, tid):
        _, oids = self.storage.undo(base64.encodebytes(p64(tid)).rstrip(), transaction)
        return [u64(oid) for oid in oids]

    def abort(self, tid, ops, user='', description='', extension='', status=' '):
        """A transaction that is voted and then given up."""
        finish, self.storage.tpc_finish = self.storage.tpc_finish, self.give_up
        try:
            return self.commit(tid, ops, user, description, extension, status)
        finally:
            self.storage.tpc_finish = finish

    def give_up(self, transaction):
        self.storage.tpc_abort(transaction)
        self.storage._blob_tpc_abort()

    def load(self, oid):
        data, tid = self.storage.load(p64(oid))
        return {'data': data.hex(), 'tid': u64(tid)}

    def blob(self, oid):
        _, tid = self.storage.load(p64(oid))
        with open(self.storage.loadBlob(p64(oid), tid), 'rb') as file:
            return file.read().decode()

    def load_before(self, oid, before):
        found = self.storage.loadBefore(p64(oid), p64(before))
        if found is None:
            return None
        data, tid, end = found
        return [data.hex(), u64(tid), None if end is None else u64(end)]

    def load_serial(self, oid, serial):
        return self.storage.loadSerial(p64(oid), p64(serial)).hex()

    def get_tid(self, oid):
        return u64(self.storage.getTid(p64(oid)))

    def history(self, oid, count):
        return [[u64(one['tid']), one['user_name'].hex(), one['description'].hex(), one['size']]
                for one in self.storage.history(p64(oid), count)]

    def next_record(self, oid):
        oid, tid, data, following = self.storage.record_iternext(p64(oid))
        return [u64(oid), u64(tid), data.hex(), None if following is None else u64(following)]

    def between(self, first, last):
        return [u64(transaction.tid) for transaction in self.storage.iterator(p64(first), p64(last))]

    def last(self):
        return u64(self.storage.lastTransaction())

    def pack(self, time):
        self.storage.pack(time, referencesf)

    def undo_info(self, first, last, specification):
        specification = pickle.loads(bytes.fromhex(specification))
        return [u64(base64.decodebytes(one['id'] + b'\n'))
                for one in self.storage.undoInfo(first, last, specification)]

    def references(self, data):
        return [u64(oid) for oid in referencesf(bytes.fromhex(data))]

    def index(self):
        return sorted((u64(oid), position) for oid, position in self.storage._index.items())

    def iterate(self):
        return [
            [u64(transaction.tid), transaction.status, [
                [u64(record.oid),
                 None if record.data is None else record.data.hex(),
                 None if record.data_txn is None else u64(record.data_txn)]
                for record in transaction]]
            for transaction in self.storage.iterator()]


def failure(error):
    if isinstance(error, MultipleUndoErrors):
        return ['undo', [[u64(oid), one._reason] for oid, one in error._errs]]
    if isinstance(error, UndoError):
        return ['undo', error._reason]
    if isinstance(error, ReadConflictError):
        return ['read conflict', u64(error.oid)]
    if isinstance(error, ConflictError):
        return ['conflict', u64(error.oid)]
    if isinstance(error, POSKeyError):
        oid = error.args[0]
        return ['unknown', u64(oid if len(oid) == 8 else error.args[1])]
    if isinstance(error, KeyError):
        return ['unknown', u64(error.args[0])]
    return [type(error).__name__, str(error)]


oracle = Oracle()
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {'ok': getattr(oracle, request.pop('do'))(**request)}
    except Exception as error:
        answer = {'error': failure(error)}
    print(json.dumps(answer), flush=True)
