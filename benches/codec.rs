//! How long the codec takes for the messages that make nearly all of the traffic.
//!
//! `cargo bench --bench codec`

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use zeoraidctl::pickle::Value;
use zeoraidctl::wire::frame::{Frames, LENGTH};
use zeoraidctl::wire::{
    Call, Dialect, Expected, FromServer, LoadedRecord, MessageId, Output, Push, Reply, Request,
    TxnId,
};
use zeoraidctl::zodb::{Oid, Tid};

const DIALECTS: [(&str, Dialect); 2] = [("z", Dialect::Pickle), ("m", Dialect::Msgpack)];
const SIZES: [usize; 3] = [300, 4 << 10, 64 << 10];
const OID: Oid = Oid(0x1234);
const TID: Tid = Tid(0x040d_23cc_b000_0001);

fn request(dialect: Dialect, id: MessageId, one_way: bool, call: Call) -> Bytes {
    let mut frames = Frames::new(1 << 30);
    let mut output = Output::new();
    let request = Request { id, one_way, call };
    dialect
        .encode_request(&request, &mut output)
        .expect("can be said");
    frames.room().extend_from_slice(&output.to_bytes());
    frames.take().expect("small").expect("whole")
}

fn decode_requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let txn = || TxnId(Value::Int(140_000_000_000_000));
    let load = || Call::LoadBefore {
        oid: OID,
        before: TID,
    };
    let store = Call::Storea {
        oid: OID,
        serial: TID,
        data: vec![b'x'; 4 << 10].into(),
        txn: txn(),
    };
    for (letter, dialect) in DIALECTS {
        let cases = [
            (
                "loadBefore",
                request(dialect, MessageId::Load(OID, TID), false, load()),
            ),
            (
                "storea 4096",
                request(dialect, MessageId::Int(0), true, store.clone()),
            ),
            (
                "vote (the long way)",
                request(dialect, MessageId::Int(7), false, Call::Vote { txn: txn() }),
            ),
            (
                "checkCurrent (the long way)",
                request(
                    dialect,
                    MessageId::Int(0),
                    true,
                    Call::CheckCurrent {
                        oid: OID,
                        serial: TID,
                        txn: txn(),
                    },
                ),
            ),
        ];
        for (name, frame) in cases {
            group.bench_function(BenchmarkId::new(name, letter), |bench| {
                bench.iter(|| dialect.decode_from_client(black_box(&frame).clone()));
            });
        }
    }
    group.finish();
}

fn encode_loaded(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode loaded");
    for (letter, dialect) in DIALECTS {
        for size in SIZES {
            let reply = Reply::Loaded(Some(LoadedRecord {
                data: vec![b'x'; size].into(),
                tid: TID,
                end: None,
            }));
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(letter, size), |bench| {
                let id = MessageId::Load(OID, TID);
                // The queue is emptied as a socket would empty it, so that its memory is used again.
                let mut output = Output::new();
                bench.iter(|| {
                    dialect.encode_reply(black_box(&id), black_box(&reply), &mut output);
                    output.advance(output.pending());
                });
            });
        }
    }
    group.finish();
}

fn encode_invalidation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode invalidation of 10");
    let push = Push::InvalidateTransaction {
        tid: TID,
        oids: (0..10).map(Oid).collect(),
    };
    for (letter, dialect) in DIALECTS {
        group.bench_function(letter, |bench| {
            let mut output = Output::new();
            bench.iter(|| {
                dialect.encode_push(black_box(&push), &mut output);
                output.advance(output.pending());
            });
        });
    }
    group.finish();
}

fn decode_loaded(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode loaded 4096");
    for (letter, dialect) in DIALECTS {
        let reply = Reply::Loaded(Some(LoadedRecord {
            data: vec![b'x'; 4 << 10].into(),
            tid: TID,
            end: None,
        }));
        let mut output = Output::new();
        dialect.encode_reply(&MessageId::Load(OID, TID), &reply, &mut output);
        let frame = output.to_bytes().slice(LENGTH..);
        group.bench_function(letter, |bench| {
            bench.iter(|| {
                let message = dialect.decode_from_server(black_box(&frame).clone());
                let Ok(FromServer::Reply(raw)) = message else {
                    panic!("a reply");
                };
                raw.expect(Expected::Loaded)
            });
        });
    }
    group.finish();
}

fn cut_frames(criterion: &mut Criterion) {
    let frame = request(
        Dialect::Pickle,
        MessageId::Load(OID, TID),
        false,
        Call::LoadBefore {
            oid: OID,
            before: TID,
        },
    );
    let mut stream = Vec::new();
    for _ in 0..100 {
        stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        stream.extend_from_slice(&frame);
    }
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(100));
    group.bench_function("cut and decode 100 loadBefore", |bench| {
        bench.iter_batched_ref(
            || Frames::new(1 << 20),
            |frames| {
                frames.room().extend_from_slice(&stream);
                while let Ok(Some(frame)) = frames.take() {
                    black_box(Dialect::Pickle.decode_from_client(frame)).ok();
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(
    benches,
    decode_requests,
    encode_loaded,
    encode_invalidation,
    decode_loaded,
    cut_frames
);
criterion_main!(benches);
