//! What each method of the protocol begins.
//!
//! Three kinds: what the session knows itself is answered on the spot; what reads (and a pack, which
//! writes to no transaction) is begun beside everything else; what belongs to the transaction is put
//! into its lane.

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::ended::Ended;
use super::lane::{BlobRecord, LaneCall, What};
use super::reads::{self, About};
use super::sending::BlobKey;
use super::session::Session;
use super::start::Serving;
use crate::wire::{Call, MessageId, Reply, Request, WireError};
use crate::zodb::{Answer, Op, Payload};

/// Data from this size on keeps the buffer that it was read into, which is its own ([`wire::frame`]); smaller data
/// is copied out of it, so that a short record does not hold what came with it until its transaction ends.
///
/// [`wire::frame`]: crate::wire::frame
const KEEP_BUFFER: usize = 64 << 10;

/// Texts of a transaction that are longer than the format has room for are refused by its vote, with their
/// limit; longer ones than this at once.
const LONGEST_TEXT: usize = 1 << 20;

impl<W: AsyncWrite + Unpin + Send> Session<'_, W> {
    /// Begins a call, which came in a message of this size.
    pub(super) fn call(&mut self, request: Request, size: usize) -> Result<(), Ended> {
        let Request { id, one_way, call } = request;
        let method = call.method();
        let about = |id| About {
            id,
            one_way,
            method,
        };
        match call {
            Call::LoadBefore { oid, before } => self.load(about(id), oid, before),
            Call::Storea {
                oid,
                serial,
                data,
                txn,
            } => {
                let data = kept(data, size);
                let op = Op::Store { oid, serial, data };
                self.in_lane((id, one_way, size), What::Do { txn, op })
            }
            Call::TpcBegin { txn, mut meta, tid } => {
                for text in [&mut meta.user, &mut meta.description, &mut meta.extension] {
                    // Its vote says how long it may be, for which it need not be there as a whole.
                    if text.len() > LONGEST_TEXT {
                        let error = reads::malformed(method, "a text is far too long");
                        return self.refuse(&id, one_way, method, error);
                    }
                    *text = detached(std::mem::take(text), size);
                }
                self.in_lane((id, one_way, size), What::Begin { txn, meta, tid })
            }
            Call::Vote { txn } => self.in_lane((id, one_way, size), What::Vote(txn)),
            Call::TpcFinish { txn } => self.in_lane((id, one_way, size), What::Finish(txn)),
            Call::TpcAbort { txn } => self.in_lane((id, one_way, size), What::Abort(txn)),
            Call::CheckCurrent { oid, serial, txn } => {
                let op = Op::CheckCurrent { oid, serial };
                self.in_lane((id, one_way, size), What::Do { txn, op })
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
                    data: data.map(|data| kept(data, size)),
                    previous,
                };
                self.in_lane((id, one_way, size), What::Do { txn, op })
            }
            Call::DeleteObject { oid, serial, txn } => {
                let op = Op::Delete { oid, serial };
                self.in_lane((id, one_way, size), What::Do { txn, op })
            }
            Call::Undoa { tid, txn } => {
                let op = Op::Undo { tid };
                self.in_lane((id, one_way, size), What::Do { txn, op })
            }
            Call::StoreBlobStart => self.in_lane((id, one_way, size), What::BlobStart),
            Call::StoreBlobChunk { chunk } => {
                let chunk = if chunk.len() < size / 2 {
                    Bytes::copy_from_slice(&chunk)
                } else {
                    chunk
                };
                self.in_lane((id, one_way, size), What::BlobChunk(chunk))
            }
            Call::StoreBlobEnd {
                oid,
                serial,
                data,
                txn,
            } => {
                let data = kept(data, size);
                let record = BlobRecord {
                    txn,
                    oid,
                    serial,
                    data,
                };
                self.in_lane((id, one_way, size), What::BlobEnd(record))
            }
            Call::StoreBlobShared {
                oid,
                serial,
                data,
                file,
                txn,
            } => {
                let data = kept(data, size);
                let record = BlobRecord {
                    txn,
                    oid,
                    serial,
                    data,
                };
                self.in_lane((id, one_way, size), What::BlobShared(record, file))
            }
            // It names no transaction: that is for the vote to say, as of one that is not there.
            Call::Malformed {
                method: "undoa",
                why,
            } => {
                let reason = format!("Invalid transaction id: {why}");
                let error = WireError::Answer(Answer::Undo { reason, oid: None });
                self.in_lane((id, one_way, size), What::Refuse("undoa", error))
            }
            // Python's server does not look at these before the vote, and so it is the vote that fails.
            Call::Malformed {
                method:
                    method @ ("storea"
                    | "restorea"
                    | "deleteObject"
                    | "checkCurrentSerialInTransaction"
                    | "storeBlobChunk"
                    | "storeBlobEnd"
                    | "storeBlobShared"),
                why,
            } => {
                let error = reads::malformed(method, &why);
                self.in_lane((id, one_way, size), What::Refuse(method, error))
            }

            Call::Ping => self.reply(&id, one_way, &Reply::None),
            Call::GetInfo => {
                let info = reads::info(self.served);
                self.reply(&id, one_way, &Reply::Info(info))
            }
            Call::SetClientLabel { label } => {
                self.set_label(label);
                self.reply(&id, one_way, &Reply::None)
            }
            // As of a file storage that was opened for reading only.
            Call::Pack { wait, .. } if self.served.read_only => {
                let error = WireError::Answer(Answer::ReadOnly);
                // Who does not wait does not hear of it, from Python's server either.
                if wait {
                    self.refuse(&id, one_way, "pack", error)
                } else {
                    self.reply(&id, one_way, &Reply::None)
                }
            }
            Call::Pack { time, wait } => {
                let who = (&*self.peer, self.label.as_deref().unwrap_or_default());
                let future = reads::pack(self.shared, self.served, who, time, wait);
                self.read(about(id), future)
            }
            Call::SendBlob { oid, serial } => {
                self.sending.ask(about(id), BlobKey { oid, serial });
                Ok(())
            }
            Call::Malformed { method, why } => {
                self.refuse(&id, one_way, method, reads::malformed(method, &why))
            }
            Call::Register { .. } => Err(Ended::RegisteredTwice),
            Call::Unknown { method } => Err(Ended::UnknownMethod(method)),

            Call::IteratorStart { first, last } => {
                let future = self.iterators.start(&*self.served.storage, first, last);
                self.read(about(id), future)
            }
            Call::IteratorNext { iterator } => {
                let future = self.iterators.transaction(iterator);
                self.read_large(about(id), call, future)
            }
            Call::IteratorRecordStart { iterator, tid } => {
                // After the call that it is about the answer of, which may still wait for its turn.
                let future = self.iterators.start_records(iterator, tid);
                self.read_large(about(id), call, future)
            }
            Call::IteratorRecordNext { iterator } => {
                let future = self.iterators.record(iterator);
                self.read_large(about(id), call, future)
            }
            Call::IteratorGc { iterators } => {
                self.iterators.forget(&iterators);
                self.reply(&id, one_way, &Reply::None)
            }

            Call::NewOids { .. } if self.read_only || !self.is_writable() => {
                let error = WireError::Answer(Answer::ReadOnly);
                self.refuse(&id, one_way, "new_oids", error)
            }
            call @ (Call::LoadSerial { .. }
            | Call::RecordIternext { .. }
            | Call::GetInvalidations { .. }
            | Call::History { .. }
            | Call::UndoLog { .. }
            | Call::UndoInfo { .. }) => {
                let future = reads::ask(self.shared, self.served, call.clone());
                self.read_large(about(id), call, future)
            }
            call @ (Call::LastTransaction
            | Call::GetTid { .. }
            | Call::NewOids { .. }
            | Call::ServerStatus
            | Call::Raid { .. }) => {
                let future = reads::ask(self.shared, self.served, call);
                self.read(about(id), future)
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as all arms of the match above")]
    fn in_lane(
        &mut self,
        (id, one_way, size): (MessageId, bool, usize),
        what: What,
    ) -> Result<(), Ended> {
        self.lane.push(LaneCall {
            id,
            one_way,
            size,
            what,
        });
        Ok(())
    }

    fn is_writable(&self) -> bool {
        *self.served.serving.borrow() == Serving::Yes
    }
}

/// Data of a message of this size, for keeping: what is much smaller than its message does not keep it.
fn kept(data: Bytes, size: usize) -> Payload {
    detached(data, size).into()
}

fn detached(data: Bytes, size: usize) -> Bytes {
    if data.len() < KEEP_BUFFER || data.len() < size / 2 {
        Bytes::copy_from_slice(&data)
    } else {
        data
    }
}
