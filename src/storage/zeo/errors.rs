//! What a server's errors mean: the client's business, or the operator's.
//!
//! An answer is what every healthy server says to the same call (a conflict, an unknown object, a
//! description that is too long): it goes to the client, and a server that answers otherwise than its
//! peers is found by comparing. A fault is what this server alone says: its disk is full, its file is
//! damaged, it lacks memory. Of a class that is not known here, an answer is the safer guess: a client
//! that could cause faults could take every member out.

use crate::storage::{Answer, Fault, StorageError};
use crate::wire::{Reply, WireError};

/// Python's classes that tell of the server's surroundings. Those of the operating system: `OSError`
/// and what it is made of.
const FAULTS: [&str; 22] = [
    "builtins.OSError",
    "builtins.IOError",
    "builtins.BlockingIOError",
    "builtins.BrokenPipeError",
    "builtins.ChildProcessError",
    "builtins.ConnectionAbortedError",
    "builtins.ConnectionError",
    "builtins.ConnectionRefusedError",
    "builtins.ConnectionResetError",
    "builtins.FileExistsError",
    "builtins.FileNotFoundError",
    "builtins.InterruptedError",
    "builtins.IsADirectoryError",
    "builtins.NotADirectoryError",
    "builtins.PermissionError",
    "builtins.ProcessLookupError",
    "builtins.TimeoutError",
    "builtins.MemoryError",
    "builtins.SystemError",
    // A server that itself is a client of a server that it lost.
    "ZEO.Exceptions.ClientDisconnected",
    "ZODB.FileStorage.FileStorage.FileStorageQuotaError",
    "ZODB.POSException.StorageSystemError",
];

/// Classes that say that what is on the server's disk makes no sense.
const DAMAGE: [&str; 5] = [
    "ZODB.FileStorage.FileStorage.CorruptedFileStorageError",
    "ZODB.FileStorage.FileStorage.CorruptedTransactionError",
    "ZODB.FileStorage.format.CorruptedError",
    "ZODB.FileStorage.format.CorruptedDataError",
    "ZODB.FileStorage.FileStorage.FileStorageFormatError",
];

/// What an error means that a server gives to `what`.
pub(super) fn meant(error: WireError, what: &str) -> StorageError {
    match error {
        WireError::Answer(Answer::Other { class, text }) => other(class, text, what),
        WireError::Answer(answer) => answer.into(),
        WireError::Value(text) if is_closed(&text) => Fault::Poisoned(format!(
            "the server's storage is closed ({text}, at {what}); restart that server"
        ))
        .into(),
        WireError::Value(text) => Answer::Invalid(text).into(),
        WireError::Key(_) => Fault::Damaged(format!("the server lost its place in {what}")).into(),
        WireError::Type(text) => named("builtins.TypeError", text),
        WireError::NotImplemented(text) => named("builtins.NotImplementedError", text),
        WireError::Storage(text) => named("ZODB.POSException.StorageError", text),
    }
}

/// The same where only success leaves the server in a state that is known: at a finish.
pub(super) fn failed(error: WireError, what: &str) -> Fault {
    match meant(error, what) {
        StorageError::Fault(fault) => fault,
        StorageError::Answer(answer) => Fault::Damaged(format!("{what} failed: {answer}")),
    }
}

/// A reply of a shape that its call does not have.
pub(super) fn unexpected(reply: Reply, what: &str) -> StorageError {
    match reply {
        Reply::Error(error) => meant(error, what),
        _ => Fault::Damaged(format!("the server answered {what} with something else")).into(),
    }
}

/// What Python says of a file that is not open any more, in the words of `io` and of `FileStorage`'s pool
/// of files. A `FileStorage` closes itself after a finish that failed, and its server goes on answering.
pub(super) fn is_closed(text: &str) -> bool {
    let text = text.trim_end_matches('.');
    text == "closed" || text.ends_with(" closed file")
}

fn named(class: &str, text: String) -> StorageError {
    let class = class.to_owned();
    Answer::Other { class, text }.into()
}

fn other(class: String, text: String, what: &str) -> StorageError {
    let full = ["No space left on device", "Disk quota exceeded"];
    if FAULTS.contains(&class.as_str()) {
        if full.iter().any(|full| text.contains(full)) || class.ends_with("QuotaError") {
            let what = format!("the server, at {what}");
            return Fault::DiskFull { what }.into();
        }
        return Fault::Damaged(format!("the server failed at {what}: {class}: {text}")).into();
    }
    if DAMAGE.contains(&class.as_str()) {
        let text = format!("the server's file, at {what}: {class}: {text}");
        return Fault::Damaged(text).into();
    }
    Answer::Other { class, text }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::Value;
    use crate::zodb::{Conflict, Oid, Tid};

    #[test]
    fn what_is_the_clients_and_what_the_operators() {
        let conflict = || Conflict::new(Oid(1), Tid(2), Tid(1));
        let other = |class: &str, text: &str| {
            WireError::Answer(Answer::Other {
                class: class.to_owned(),
                text: text.to_owned(),
            })
        };
        let answers = [
            WireError::Answer(Answer::NoSuchObject(Oid(1))),
            WireError::Answer(Answer::Conflict(conflict())),
            WireError::Answer(Answer::ReadConflict(conflict())),
            WireError::Answer(Answer::ReadOnly),
            WireError::Answer(Answer::WrongTransaction("None, 1".to_owned())),
            WireError::Answer(Answer::MultipleUndo(vec![])),
            WireError::Value("no".to_owned()),
            WireError::Type("no".to_owned()),
            WireError::NotImplemented("undo".to_owned()),
            WireError::Storage("no".to_owned()),
            other(
                "ZODB.FileStorage.FileStorage.FileStorageError",
                "user name too long",
            ),
            other("ZODB.POSException.BTreesConflictError", ""),
            other("some.Unheard", "of"),
        ];
        for error in answers {
            let text = format!("{error:?}");
            assert!(meant(error, "a test").fault().is_none(), "{text}");
        }
        let faults = [
            (
                other("builtins.OSError", "28, No space left on device"),
                "no space left on the disk (the server, at a test)",
            ),
            (
                other(
                    "ZODB.FileStorage.FileStorage.FileStorageQuotaError",
                    "exceeded",
                ),
                "no space left on the disk (the server, at a test)",
            ),
            (
                other("builtins.PermissionError", "13, Permission denied"),
                "damaged: the server failed at a test: builtins.PermissionError: 13, Permission denied",
            ),
            (
                other("ZODB.FileStorage.format.CorruptedDataError", "at 5"),
                "damaged: the server's file, at a test: ZODB.FileStorage.format.CorruptedDataError: at 5",
            ),
            (
                WireError::Value("I/O operation on closed file.".to_owned()),
                "refuses everything since a failed write: the server's storage is closed (I/O operation \
                 on closed file., at a test); restart that server",
            ),
            (
                WireError::Value("closed".to_owned()),
                "refuses everything since a failed write: the server's storage is closed (closed, at a \
                 test); restart that server",
            ),
            (
                WireError::Key(Value::Int(3)),
                "damaged: the server lost its place in a test",
            ),
        ];
        for (error, expected) in faults {
            let meant = meant(error, "a test");
            assert!(meant.fault().is_some(), "{meant}");
            assert_eq!(meant.to_string(), expected);
        }
        let kept = meant(other("some.Unheard", "of"), "a test");
        assert_eq!(kept.to_string(), "some.Unheard: of");
    }
}
