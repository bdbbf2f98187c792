//! Calls that make sense one by one, in any order, for who fuzzes what follows from them.

use super::input::Input;
use crate::pickle::Value;
use crate::wire::{Call, RaidMethod, TxnId};
use crate::zodb::{Tid, TxnMeta, TxnStatus};

/// A call with its arguments. `heard` is the last TID that the server has named.
pub(super) fn call(kind: u8, input: &mut Input<'_>, heard: Tid) -> Call {
    match kind % 36 {
        0 => Call::GetInfo,
        1 => Call::LastTransaction,
        2 => Call::GetInvalidations {
            since: input.tid(heard),
        },
        3 => Call::LoadBefore {
            oid: input.oid(),
            before: input.tid(heard),
        },
        4 => Call::LoadSerial {
            oid: input.oid(),
            serial: input.tid(heard),
        },
        5 => Call::GetTid { oid: input.oid() },
        6 => Call::NewOids {
            count: usize::from(input.byte()),
        },
        7 => Call::History {
            oid: input.oid(),
            count: input.number() as usize >> 1,
        },
        8 => Call::RecordIternext {
            next: (input.byte() & 1 == 1).then(|| input.oid()),
        },
        9 => Call::IteratorStart {
            first: input.some_tid(heard),
            last: input.some_tid(heard),
        },
        10 => Call::IteratorNext {
            iterator: i64::from(input.byte() & 7),
        },
        11 => Call::IteratorRecordStart {
            iterator: i64::from(input.byte() & 7),
            tid: input.tid(heard),
        },
        12 => Call::IteratorRecordNext {
            iterator: i64::from(input.byte() & 7),
        },
        13 => Call::IteratorGc {
            iterators: vec![i64::from(input.byte() & 7), input.number().cast_signed()],
        },
        14 => Call::TpcBegin {
            txn: txn(input),
            meta: meta(input),
            tid: input.some_tid(heard),
        },
        15 | 16 => Call::Storea {
            oid: input.oid(),
            serial: input.tid(heard),
            data: input.short(),
            txn: txn(input),
        },
        17 => Call::Restorea {
            oid: input.oid(),
            serial: input.tid(heard),
            data: (input.byte() & 1 == 1).then(|| input.short()),
            previous: input.some_tid(heard),
            txn: txn(input),
        },
        18 => Call::DeleteObject {
            oid: input.oid(),
            serial: input.tid(heard),
            txn: txn(input),
        },
        19 => Call::CheckCurrent {
            oid: input.oid(),
            serial: input.tid(heard),
            txn: txn(input),
        },
        20 => Call::Undoa {
            tid: input.tid(heard),
            txn: txn(input),
        },
        21 => Call::Vote { txn: txn(input) },
        22 => Call::TpcFinish { txn: txn(input) },
        23 => Call::TpcAbort { txn: txn(input) },
        24 => Call::StoreBlobStart,
        25 => Call::StoreBlobChunk {
            chunk: input.short(),
        },
        26 => Call::StoreBlobEnd {
            oid: input.oid(),
            serial: input.tid(heard),
            data: input.short(),
            txn: txn(input),
        },
        27 => Call::StoreBlobShared {
            oid: input.oid(),
            serial: input.tid(heard),
            data: input.short(),
            file: String::from_utf8_lossy(&input.short()).into_owned(),
            txn: txn(input),
        },
        28 => Call::SendBlob {
            oid: input.oid(),
            serial: input.tid(heard),
        },
        29 => Call::Pack {
            time: f64::from_bits(input.number()),
            wait: input.byte() & 1 == 1,
        },
        30 => Call::UndoLog {
            first: input.number().cast_signed(),
            last: input.number().cast_signed(),
        },
        31 => Call::UndoInfo {
            first: i64::from(input.byte()),
            last: i64::from(input.byte()) - 128,
            specification: specification(input),
        },
        32 => Call::ServerStatus,
        33 => Call::SetClientLabel {
            label: String::from_utf8_lossy(&input.short()).into_owned(),
        },
        34 => Call::Ping,
        _ => Call::Raid {
            method: match input.byte() % 5 {
                0 => RaidMethod::Status,
                1 => RaidMethod::Details,
                2 => RaidMethod::Recover,
                3 => RaidMethod::Disable,
                _ => RaidMethod::Reload,
            },
            arguments: vec![Value::Bytes(input.short())],
        },
    }
}

fn txn(input: &mut Input<'_>) -> TxnId {
    TxnId(Value::Int(i64::from(input.byte() >> 6)))
}

fn meta(input: &mut Input<'_>) -> TxnMeta {
    TxnMeta {
        user: input.short(),
        description: input.short(),
        extension: bytes::Bytes::new(),
        status: match input.byte() {
            255 => TxnStatus::Packed,
            254 => TxnStatus::Undone,
            _ => TxnStatus::Normal,
        },
    }
}

fn specification(input: &mut Input<'_>) -> Value {
    match input.byte() & 1 {
        0 => Value::None,
        _ => Value::Dict(vec![(
            Value::Text("user_name".to_owned()),
            Value::Bytes(input.short()),
        )]),
    }
}
