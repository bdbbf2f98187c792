//! What each method of the protocol begins.
//!
//! Three kinds: what the session knows itself is answered on the spot; what reads is begun beside
//! everything else; what belongs to the transaction is put into its lane.

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::ended::Ended;
use super::lane::{LaneCall, What};
use super::reads::{self, About};
use super::session::Session;
use super::start::Serving;
use crate::wire::{Call, MessageId, Reply, Request, WireError};
use crate::zodb::{Answer, Op, Payload};

/// Data from this size on keeps the buffer that it was read into; smaller data is copied out of it, so
/// that a short record does not hold a long buffer until its transaction ends.
const KEEP_BUFFER: usize = 16 << 10;

impl<W: AsyncWrite + Unpin + Send> Session<'_, W> {
    /// Begins a call.
    pub(super) fn call(&mut self, request: Request) -> Result<(), Ended> {
        let Request { id, one_way, call } = request;
        match call {
            Call::LoadBefore { oid, before } => self.load(About { id, one_way }, oid, before),
            Call::Storea {
                oid,
                serial,
                data,
                txn,
            } => {
                let data = kept(data);
                let op = Op::Store { oid, serial, data };
                self.in_lane(id, one_way, What::Do { txn, op })
            }
            Call::TpcBegin { txn, meta, tid } => {
                self.in_lane(id, one_way, What::Begin { txn, meta, tid })
            }
            Call::Vote { txn } => self.in_lane(id, one_way, What::Vote(txn)),
            Call::TpcFinish { txn } => self.in_lane(id, one_way, What::Finish(txn)),
            Call::TpcAbort { txn } => self.in_lane(id, one_way, What::Abort(txn)),
            Call::CheckCurrent { oid, serial, txn } => {
                let op = Op::CheckCurrent { oid, serial };
                self.in_lane(id, one_way, What::Do { txn, op })
            }
            Call::Restorea {
                oid,
                serial,
                data,
                previous,
                txn,
            } => {
                let op = Op::Restore {
                    oid,
                    serial,
                    data: data.map(kept),
                    previous,
                };
                self.in_lane(id, one_way, What::Do { txn, op })
            }
            Call::DeleteObject { oid, serial, txn } => {
                let op = Op::Delete { oid, serial };
                self.in_lane(id, one_way, What::Do { txn, op })
            }
            Call::Undoa { .. } => self.not_in_lane(id, one_way, "undoa"),
            Call::StoreBlobStart => self.not_in_lane(id, one_way, "storeBlobStart"),
            Call::StoreBlobChunk { .. } => self.not_in_lane(id, one_way, "storeBlobChunk"),
            Call::StoreBlobEnd { .. } => self.not_in_lane(id, one_way, "storeBlobEnd"),
            Call::StoreBlobShared { .. } => self.not_in_lane(id, one_way, "storeBlobShared"),

            Call::Ping => self.reply(&id, one_way, &Reply::None),
            Call::GetInfo => {
                let info = reads::info(self.served);
                self.reply(&id, one_way, &Reply::Info(info))
            }
            Call::SetClientLabel { label } => {
                self.label = Some(label);
                self.reply(&id, one_way, &Reply::None)
            }
            Call::UndoLog { .. } | Call::UndoInfo { .. } => {
                self.reply(&id, one_way, &reads::no_undo())
            }
            Call::Pack { .. } => self.not_there(&id, one_way, "pack"),
            Call::SendBlob { .. } => self.not_there(&id, one_way, "sendBlob"),
            Call::Malformed { method, why } => {
                self.refuse(&id, one_way, method, reads::malformed(method, &why))
            }
            Call::Register { .. } => Err(Ended::RegisteredTwice),
            Call::Unknown { method } => Err(Ended::UnknownMethod(method)),

            Call::IteratorStart { first, last } => {
                let future = self.iterators.start(&*self.served.storage, first, last);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorNext { iterator } => {
                let future = self.iterators.transaction(iterator);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorRecordStart { iterator, tid } => {
                let future = self.iterators.start_records(iterator, tid);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorRecordNext { iterator } => {
                let future = self.iterators.record(iterator);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorGc { iterators } => {
                self.iterators.forget(&iterators);
                self.reply(&id, one_way, &Reply::None)
            }

            Call::NewOids { .. } if self.read_only || !self.is_writable() => {
                let error = WireError::Answer(Answer::ReadOnly);
                self.refuse(&id, one_way, "new_oids", error)
            }
            call @ (Call::LastTransaction
            | Call::GetInvalidations { .. }
            | Call::LoadSerial { .. }
            | Call::GetTid { .. }
            | Call::NewOids { .. }
            | Call::History { .. }
            | Call::RecordIternext { .. }
            | Call::ServerStatus
            | Call::Raid { .. }) => {
                let future = reads::ask(self.shared, self.served, call);
                self.read(About { id, one_way }, future)
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as all arms of the match above")]
    fn in_lane(&mut self, id: MessageId, one_way: bool, what: What) -> Result<(), Ended> {
        self.lane.push(LaneCall { id, one_way, what });
        Ok(())
    }

    /// A method of the transaction that is not there: its vote will say so.
    fn not_in_lane(&mut self, id: MessageId, one_way: bool, method: &str) -> Result<(), Ended> {
        self.in_lane(id, one_way, What::Refuse(reads::not_there(method)))
    }

    fn not_there(
        &mut self,
        id: &MessageId,
        one_way: bool,
        method: &'static str,
    ) -> Result<(), Ended> {
        self.refuse(id, one_way, method, reads::not_there(method))
    }

    fn is_writable(&self) -> bool {
        *self.served.serving.borrow() == Serving::Yes
    }
}

fn kept(data: Bytes) -> Payload {
    if data.len() < KEEP_BUFFER {
        Bytes::copy_from_slice(&data).into()
    } else {
        data.into()
    }
}
