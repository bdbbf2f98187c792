"""Which of ZODB's and ZEO's own suites run, what of them cannot apply, and why not.

Nothing is left out silently. A suite that has vanished from the installed packages, or has fewer tests than are
said here, fails the run. What is excluded is run as well, and must fail: an exclusion that passes, or that names
no test, fails the run.
"""
import collections

#: `source` is a class of tests to be mixed in, or a function that builds a suite, `base` what it stands on (see
#: `suites.py`), `tests` how many there are at least; of one that is `own` only its own tests are taken, and not
#: those that it inherits. `part` is the smallest part that it belongs to.
Suite = collections.namedtuple("Suite", "name source base tests own part", defaults=(False, "every"))

#: How much is run: what members can make different; every suite that does not take long; and all.
PARTS = ["members", "every", "all"]

SUITES = [
    # ZODB: what its own FileStorage and ZEO's client are tested with.
    Suite("BasicStorage", "ZODB.tests.BasicStorage.BasicStorage", "ArrayCase", 16, own=True, part="members"),
    Suite("RaceTests", "ZODB.tests.racetest.RaceTests", "ArrayCase", 3),
    Suite("PersistentStorage", "ZODB.tests.PersistentStorage.PersistentStorage", "ArrayCase", 1),
    Suite("RevisionStorage", "ZODB.tests.RevisionStorage.RevisionStorage", "ArrayCase", 7, part="members"),
    Suite("HistoryStorage", "ZODB.tests.HistoryStorage.HistoryStorage", "ArrayCase", 1, part="members"),
    Suite("TransactionalUndoStorage",
          "ZODB.tests.TransactionalUndoStorage.TransactionalUndoStorage", "ArrayCase", 18, part="members"),
    Suite("ConflictResolvingStorage",
          "ZODB.tests.ConflictResolution.ConflictResolvingStorage", "ArrayCase", 5, part="members"),
    Suite("ConflictResolvingTransUndoStorage",
          "ZODB.tests.ConflictResolution.ConflictResolvingTransUndoStorage", "UndoCase", 2, part="members"),
    Suite("PackableStorage",
          "ZODB.tests.PackableStorage.PackableStorageWithOptionalGC", "ArrayCase", 11, part="members"),
    Suite("PackableUndoStorage",
          "ZODB.tests.PackableStorage.PackableUndoStorage", "PackableUndoCase", 3, part="members"),
    Suite("IteratorStorage", "ZODB.tests.IteratorStorage.IteratorStorage", "ArrayCase", 8, part="members"),
    Suite("ExtendedIteratorStorage",
          "ZODB.tests.IteratorStorage.ExtendedIteratorStorage", "ArrayCase", 1, part="members"),
    Suite("RecoveryStorage", "ZODB.tests.RecoveryStorage.RecoveryStorage", "RecoveryCase", 5, part="members"),
    Suite("MTStorage", "ZODB.tests.MTStorage.MTStorage", "ArrayCase", 5),
    Suite("SynchronizedStorage", "ZODB.tests.Synchronization.SynchronizedStorage", "ArrayCase", 7),
    Suite("ReadOnlyStorage", "ZODB.tests.ReadOnlyStorage.ReadOnlyStorage", "ArrayCase", 2),
    Suite("FileStorageTests", "ZODB.tests.testFileStorage.FileStorageTests", "ArrayCase", 14, own=True),
    Suite("BlobStorage", "blobs_of_clients", None, 22, part="members"),
    Suite("SharedBlobStorage", "blobs_in_a_shared_folder", None, 22),
    Suite("IExternalGC", "external_gc", None, 1, part="members"),
    # ZEO: what its server and its client are tested with.
    Suite("MiscZEOTests", "ZEO.tests.testZEO.MiscZEOTests", "ArrayCase", 4),
    Suite("CommonBlobTests", "ZEO.tests.testZEO.CommonBlobTests", "ArrayCase", 5),
    Suite("CommonSharedBlobTests", "ZEO.tests.testZEO.CommonBlobTests", "SharedCase", 5),
    Suite("BlobAdaptedFileStorageTests", "ZEO.tests.testZEO.BlobAdaptedFileStorageTests", "ArrayCase", 1,
          own=True, part="members"),
    Suite("CommitLockVoteTests", "ZEO.tests.CommitLockTests.CommitLockVoteTests", "ArrayCase", 3, part="members"),
    Suite("ThreadTests", "ZEO.tests.ThreadTests.ThreadTests", "ArrayCase", 3),
    Suite("IterationTests", "ZEO.tests.IterationTests.IterationTests", "ArrayCase", 7),
    Suite("TransUndoStorageWithCache",
          "ZEO.tests.Cache.TransUndoStorageWithCache", "UndoCase", 1, part="members"),
    Suite("ZEODocTests", "zeo_doctests", None, 34, part="every"),
    Suite("ZRPCConnectionTests", "ZEO.tests.testZEO.ZRPCConnectionTests", "ConnectedCase", 3, own=True),
    Suite("InvalidationTests", "ZEO.tests.InvalidationTests.InvalidationTests", "ConnectedCase", 6, part="all"),
    Suite("ConnectionTests", "ZEO.tests.ConnectionTests.ConnectionTests", "ConnectionCase", 14, part="all"),
    Suite("InvqTests", "ZEO.tests.ConnectionTests.InvqTests", "ConnectionCase", 2, part="all"),
    Suite("ReconnectionTests", "ZEO.tests.ConnectionTests.ReconnectionTests", "ConnectionCase", 12, part="all"),
    Suite("TimeoutTests", "ZEO.tests.ConnectionTests.TimeoutTests", "ConnectionCase", 4, part="all"),
]

#: What cannot apply: a test as `Suite.test`, in these shapes (all, where none are named), and why. What takes long
#: to fail is only tried where all is run.
Exclusion = collections.namedtuple("Exclusion", "test why shapes slow", defaults=((), False))

CLIENTS_RESOLVE = (
    "clients resolve conflicts, and an undo's they cannot: it is so with Python's server as well, where its "
    "clients resolve conflicts")
LOG = "looks for a line in the log of Python's server"
NO_FILE = "looks into a FileStorage, or into its files, where there is a client"
FILES = ("one_file", "two_files", "mixed")

EXCLUSIONS = [
    Exclusion("TransactionalUndoStorage.testUndoMultipleConflictResolution", CLIENTS_RESOLVE, FILES),
    Exclusion("TransactionalUndoStorage.testUndoMultipleConflictResolutionReversed", CLIENTS_RESOLVE, FILES),
    Exclusion("ConflictResolvingTransUndoStorage.testUndoConflictResolution", CLIENTS_RESOLVE, FILES),
    Exclusion("PackableStorage.testPackAllRevisionsNoGC", "ZEO's client has no argument `gc` for packing"),
    *(Exclusion(f"FileStorageTests.{test}", NO_FILE) for test in (
        "testCorruptionInPack", "testFlushNeededAfterTruncate", "testRestoreBumpsOid", "testRestoreCopy",
        "testStoreBumpsOid", "test_conversion_from_dict_to_btree_data_in_fsIndex", "test_conversion_to_fsIndex",
        "test_conversion_to_fsIndex_readonly", "test_save_after_load_with_no_index", "test_use_fsIndex")),
    Exclusion("FileStorageTests.testCommitWithEmptyData",
              "reads the records of a transaction after the iterator has ended, and ZEO has none then"),
    Exclusion("BlobStorage.blob_packing.txt", "looks for packed files in the client's cache, which keeps them"),
    Exclusion("BlobStorage.testSimpleBlobRecovery", "ZEO has no call that restores a blob"),
    Exclusion("SharedBlobStorage.testSimpleBlobRecovery", "ZEO has no call that restores a blob"),
    Exclusion("ZRPCConnectionTests.checkExceptionLogsAtError",
              "wants the error of a MappingStorage; a FileStorage says as well that None is no oid"),
    Exclusion("TimeoutTests.checkTimeout", LOG),
    Exclusion("ZEODocTests.testZEO.client_labels", LOG),
    Exclusion("ZEODocTests.testZEO.dont_log_poskeyerrors_on_server", LOG),
    Exclusion("ZEODocTests.testZEO.client_has_newer_data_than_server",
              "puts an older file in the place of the server's, and members are elsewhere", slow=True),
    Exclusion("ZEODocTests.testZEO.quick_close_doesnt_kill_server", "gives Python's server TLS in a form of its own; ours is in tests/it/secure.rs",
              slow=True),
    Exclusion("ZEODocTests.testZEO.test_runzeo_msgpack_support", "chooses the encoding, which the shape has done"),
    Exclusion("ZEODocTests.protocols.test", "wants a server that speaks an older protocol"),
    Exclusion("ZEODocTests.dynamic_server_ports.test", "hears events of Python's server in the same process"),
    Exclusion("ZEODocTests.zeo-fan-out.test", "puts Python's server before another"),
]


def excluded(shape):
    if shape == "reference":
        # Its clients resolve conflicts as those of files do.
        shape = "one_file"
    return {each.test: each for each in EXCLUSIONS if not each.shapes or shape in each.shapes}
