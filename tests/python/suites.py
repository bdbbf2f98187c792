"""ZODB's own storage suites, and ZEO's, from the installed packages, through ZEO's client against the daemon.

    suites.py BINARY SHAPE ENCODING PART [--only NAME…]

SHAPE is one of those of `suites_servers.py`, ENCODING `Z5` or `M5`, PART how much is run: `members`, `every` or
`all`. With `--only`, only suites and tests (as `Suite.test`) with these names run. Which suites there are, what of
them is excluded, and why, stands in `suites_selection.py`. An array is made for each test; after it, no member may
have been taken out, and all must hold the same.
"""
import argparse
import collections
import ctypes
import doctest
import importlib
import logging
import os
import re
import struct
import sys
import threading
import time
import unittest
import warnings

import ZEO._forker
import ZEO.tests.forker
import ZEO.tests.IterationTests
import ZEO.tests.testZEO
import zope.testing.renormalizing
import zope.testing.setupstack
import ZODB.tests.PackableStorage
import ZODB.tests.testblob
from ZEO.ClientStorage import ClientStorage, _check_blob_cache_size
from ZEO.tests.ConnectionTests import CommonSetupTearDown
from ZODB.tests.StorageTestBase import StorageTestBase
from ZODB.tests.TransactionalUndoStorage import TransactionalUndoStorage

import suites_selection
import suites_servers

FARM = None

#: What a test's name begins with. ZEO's suites are older than the custom.
PREFIXES = ("test", "check")


class DummyDB:
    """What a client tells of invalidations, where there is no database."""

    def invalidate(self, *args):
        pass

    def invalidateCache(self):
        pass

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data


class ArrayCase(StorageTestBase):
    """A client of an array of its own. What is mixed in says the tests."""

    blob_cache_dir = "blob_cache"
    blob_dir_is_shared = False

    def setUp(self):
        super().setUp()
        self.arrays = []
        self.array = self.new_array()
        self.blobdir = self.array.blobs()
        self._storage = self.new_client()

    def new_array(self):
        array = FARM.usual()
        self.arrays.append(array)
        return array

    def new_client(self, array=None, **options):
        address = (array or self.array).address
        storage = ClientStorage(address, wait_timeout=60, **options, **self.blob_options(array))
        storage.registerDB(DummyDB())
        return storage

    def blob_options(self, array):
        # Each array has blobs of its own, and so has its client.
        number = self.arrays.index(array) if array else 0
        return {"blob_dir": f"{self.blob_cache_dir}{number or ''}"}

    def _new_storage_client(self):
        """Another client of the same array; the race tests of ZODB use many."""
        storage = ClientStorage(self.array.address, wait_timeout=60)
        storage.registerDB(DummyDB())
        return storage

    def open(self, read_only=False):
        """Opens the storage again, as the suites close it."""
        self._storage.close()
        self._storage = self.new_client(read_only=read_only)

    def tearDown(self):
        try:
            super().tearDown()
        finally:
            for array in self.arrays:
                array.end()


class UndoCase(ArrayCase):
    """With what suites of undo take from each other."""

    _begin_undos_vote = TransactionalUndoStorage._begin_undos_vote
    undo = TransactionalUndoStorage.undo


class PackableUndoCase(ArrayCase):
    """The test of the undo log sets the time forward for itself, which the daemon does not notice."""

    def testPackUndoLog(self):
        super().testPackUndoLog.__wrapped__(self)


class RecoveryCase(ArrayCase):
    """With a second array, to be copied to."""

    def setUp(self):
        super().setUp()
        self._dst = self.new_dest()

    def new_dest(self):
        return self.new_client(self.new_array())

    def tearDown(self):
        self._dst.close()
        super().tearDown()


class SharedCase(ArrayCase):
    """The folder of blobs is shared between the daemon and its client."""

    def new_array(self):
        array = FARM.special(shared=os.path.abspath(self.blob_cache_dir))
        self.arrays.append(array)
        return array

    def blob_options(self, array):
        return {"blob_dir": self.blob_cache_dir, "shared_blob_dir": True}


class ConnectionCase:
    """Before ZEO's suites that start, stop and configure servers."""

    def startServer(self, create=1, index=0, read_only=0, ro_svr=0, keep=None, path=None, **other):
        path = path or f"{self.file}.{index}"
        if not hasattr(self, "by_path"):
            self.by_path = {}
        array = self.by_path.get(path)
        if array is None:
            array = self.by_path[path] = suites_servers.Array(FARM)
        array.address = ("127.0.0.1", self.addr[index][1] or suites_servers.free_port())
        array.daemon_settings = []
        if read_only or ro_svr:
            array.daemon_settings.append("read_only: true")
        if self.timeout:
            array.daemon_settings.append(f"transaction_timeout: {self.timeout}s")
        if self.invq:
            array.settings = [f"invalidation_queue: {self.invq}"]
        array.launch().wait_serving()
        self.addr[index] = array.address

        def stop():
            array.stop()
            if not (self.keep if keep is None else keep) and self.by_path.pop(path, None):
                array.end()

        self._servers.append(stop)

    def tearDown(self):
        try:
            super().tearDown()
        finally:
            for array in getattr(self, "by_path", {}).values():
                array.end()


class ConnectedCase(ConnectionCase, CommonSetupTearDown):
    """The same for a suite that has no servers itself."""


class BlobClient(ClientStorage):
    """A client with an array of its own, as the reusable suite of blobs makes its storages. Its names are
    `data` and the like, and a storage that is opened again under its name finds what it held."""

    def __init__(self, blob_dir, **how):
        self.globs = {}
        # The tests look into the folder after they have closed the storage.
        shared = os.path.abspath(blob_dir) if how.pop("shared", False) else None
        self.array = FARM.special(shared=shared, **how) if shared or how else FARM.usual()
        zope.testing.setupstack.register(self, self.array.end)
        super().__init__(self.array.address, wait_timeout=60, blob_dir=blob_dir,
                         shared_blob_dir=bool(shared))

    def close(self):
        super().close()
        zope.testing.setupstack.tearDown(self)


class ExternalGCClient(BlobClient):
    """Forgets what it has of the past when it packs: the test asks the server."""

    def pack(self, *args):
        super().pack(*args)
        self._cache.clear()
        _check_blob_cache_size(self.blob_dir, 0)


def blobs_of_clients():
    return ZODB.tests.testblob.storage_reusable_suite(
        "Clients", lambda name, blob_dir: BlobClient(blob_dir), test_blob_storage_recovery=True,
        test_packing=True)


def blobs_in_a_shared_folder():
    return ZODB.tests.testblob.storage_reusable_suite(
        "Shared", lambda name, blob_dir: BlobClient(blob_dir, shared=True), test_blob_storage_recovery=True,
        test_packing=True)


def external_gc():
    return ZODB.tests.PackableStorage.IExternalGC_suite(
        lambda: ExternalGCClient("blobs", settings=["pack_gc: false"]))


def start_zeo_server(storage_conf=None, zeo_conf=None, port=None, keep=False, path="Data.fs", **other):
    """Instead of ZEO's own: the daemon, with what can be said of it. Whoever starts one over the same file finds
    what it held."""
    zeo_conf = zeo_conf if isinstance(zeo_conf, dict) else {}
    home = os.path.abspath(path or "Data.fs")
    names = re.findall(r"<mappingstorage (\w+)>", storage_conf or "") or ["1"]
    array = RESTARTED.pop(home, None) or suites_servers.Array(FARM, names=names)
    array.address = os.path.abspath(port) if isinstance(port, str) else (
        "127.0.0.1", port or suites_servers.free_port())
    array.daemon_settings = []
    array.settings = []
    if "transaction_timeout" in zeo_conf:
        array.daemon_settings.append(f"transaction_timeout: {zeo_conf['transaction_timeout']}s")
    if "invalidation_queue_size" in zeo_conf:
        array.settings.append(f"invalidation_queue: {zeo_conf['invalidation_queue_size']}")
    if "invalidation_age" in zeo_conf:
        array.settings.append(f"invalidation_age: {zeo_conf['invalidation_age']}s")
    array.launch().wait_serving()

    def stop(*args):
        if keep or path not in ("Data.fs", None):
            array.stop()
            RESTARTED[home] = array
        else:
            array.end()

    return array.address, stop


#: Arrays that were stopped and may be started again, by the file that a server of Python's would have.
RESTARTED = {}


def zeo_doctests():
    """The tests of ZEO that are documentation, with the daemon where they start a server."""
    ZEO._forker.start_zeo_server = ZEO.tests.forker.start_zeo_server = start_zeo_server
    checker = zope.testing.renormalizing.RENormalizing([
        (re.compile(r"'start': '[^\n]+'"), "start"),
        (re.compile(r"'last-transaction': '[0-9a-f]+'"), "last-transaction"),
        (re.compile("ZODB.POSException.ConflictError"), "ConflictError"),
        (re.compile("ZODB.POSException.POSKeyError"), "POSKeyError"),
        (re.compile("ZEO.Exceptions.ClientDisconnected"), "ClientDisconnected"),
        (re.compile(r"\[Errno \d+\]"), "[Errno N]"),
        (re.compile(r"loads=\d+\.\d+"), "loads=42.42"),
    ])
    how = {"setUp": ZEO.tests.forker.setUp, "tearDown": tear_down_servers, "checker": checker}
    return unittest.TestSuite([
        doctest.DocTestSuite(ZEO.tests.testZEO, **how),
        doctest.DocTestSuite(ZEO.tests.IterationTests, **how),
        doctest.DocFileSuite(
            "drop_cache_rather_than_verify.txt", "client-config.test", "protocols.test", "zeo_blob_cache.test",
            "invalidation-age.txt", "dynamic_server_ports.test", "new_addr.test", "zeo-fan-out.test",
            "zdoptions.test", "../nagios.rst", package="ZEO.tests", **how),
    ])


def tear_down_servers(test):
    zope.testing.setupstack.tearDown(test)
    while RESTARTED:
        RESTARTED.popitem()[1].end()


def load(suite):
    """The tests of a suite with their names. One that is not there is an error."""
    if suite.base is None:
        tests = list(flat(globals()[suite.source]()))
    else:
        module, _, name = suite.source.rpartition(".")
        source = getattr(importlib.import_module(module), name)
        tests = of_class(suite, source)
    named = [(f"{suite.name}.{short_name(test)}", test) for test in tests]
    if len(named) < suite.tests:
        raise SystemExit(f"{suite.name} has {len(named)} tests, and had {suite.tests}")
    return named


def of_class(suite, source):
    bases = (globals()[suite.base], source)
    members = {}
    if suite.own:
        # The storage that the class makes itself is not wanted.
        members = {name: member for name, member in vars(source).items() if not hasattr(bases[0], name)}
        bases = (bases[0],)
    case = type(suite.name, bases, members)
    names = []
    for prefix in PREFIXES:
        loader = unittest.TestLoader()
        loader.testMethodPrefix = prefix
        names += loader.getTestCaseNames(case)
    return [case(name) for name in names]


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def short_name(test):
    """Of a method `method`, of a function or a file in `doctest` its name."""
    if hasattr(test, "_dt_test"):
        return test._dt_test.name.rpartition("/")[2].rpartition(".tests.")[2]
    return test.id().rpartition(".")[2]


class Judge(unittest.TestResult):
    """What is excluded must fail, and nothing else may, nor be skipped."""

    def __init__(self, excluded):
        super().__init__()
        self.excluded = excluded
        self.wrong = []
        self.left_out = []

    def begin(self, name):
        self.name = name
        self.failure = None

    def addFailure(self, test, error):
        self.failure = self.failure or self._exc_info_to_string(error, test)

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addFailure(test, error)

    def addSkip(self, test, reason):
        self.failure = self.failure or f"skipped: {reason}"

    def addUnexpectedSuccess(self, test):
        self.failure = self.failure or "it was expected to fail"

    def end(self):
        """Whether it came as it should."""
        why = self.excluded.get(self.name)
        if self.failure and why:
            self.left_out.append(self.name)
        elif self.failure:
            self.wrong.append((self.name, self.failure))
        elif why:
            self.wrong.append((self.name, f"it passes, and is excluded because {why.why}"))
        return not self.wrong or self.wrong[-1][0] != self.name


def refrain_from_overriding():
    """Root may write to any file, and suites try whether files may be written to: gives up that capability."""
    override = 1 << 1
    header = struct.pack("Ii", 0x20080522, 0)
    libc = ctypes.CDLL(None)
    sets = ctypes.create_string_buffer(24)
    if os.geteuid() != 0 or libc.capget(header, sets) != 0:
        return
    effective, *others = struct.unpack("6I", sets.raw)
    libc.capset(header, struct.pack("6I", effective & ~override, *others))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("shape", choices=suites_servers.SHAPES)
    parser.add_argument("encoding", choices=["Z5", "M5"])
    parser.add_argument("part", choices=suites_selection.PARTS)
    parser.add_argument("--only", dest="names", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--times", action="store_true", help="how long each test took")
    args = parser.parse_args()

    # What the suites leave behind, and what they log of the errors that they ask for, is theirs.
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    threading.excepthook = lambda _: None
    refrain_from_overriding()
    global FARM
    FARM = suites_servers.Farm(os.path.abspath(args.binary), args.shape, args.encoding)
    judge = Judge(suites_selection.excluded(args.shape))
    part = suites_selection.PARTS.index
    started = time.monotonic()
    counts = collections.Counter()
    known = set()
    for suite in suites_selection.SUITES:
        tests = load(suite)
        known.update(name for name, _ in tests)
        if part(suite.part) > part(args.part):
            continue
        for name, test in tests:
            if args.names and not {name, suite.name} & set(args.names):
                continue
            if name in judge.excluded and judge.excluded[name].slow and args.part != "all":
                continue
            began = time.monotonic()
            judge.begin(name)
            test.run(judge)
            good = judge.end()
            counts[suite.name] += 1
            if args.times or not good:
                print(f"{time.monotonic() - began:6.1f} s  {name}{'' if good else '  FAILED'}", flush=True)
    for name in judge.excluded:
        if name not in known:
            judge.wrong.append((name, "an exclusion of a test that does not exist"))
    FARM.close()

    for name, why in judge.wrong:
        print(f"\n{name}: {why}", file=sys.stderr)
    print(f"{args.shape} {args.encoding}: {counts.total()} tests of {len(counts)} suites in "
          f"{time.monotonic() - started:.0f} s, {len(judge.left_out)} of them excluded, "
          f"{len(judge.wrong)} wrong", flush=True)
    # Threads that a suite has left behind keep nobody.
    sys.stderr.flush()
    os._exit(1 if judge.wrong or not counts else 0)


if __name__ == "__main__":
    main()
