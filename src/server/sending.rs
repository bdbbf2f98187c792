//! Blobs on their way to a client: `sendBlob`.
//!
//! A blob is said in pieces, each read from its file on a thread while the one before it is being
//! written, and only when there is room: what is in memory of all of a client's blobs is bounded,
//! however large they are, and other replies go in between. A few blobs take turns, so that a small one
//! does not wait for a large one; the same one is said as often as it is asked for, but never twice at
//! the same time, since its chunks say only which blob they are of.
//!
//! ```text
//!   asked --(a place, and the same is not under way)--> loading --> turns --> Stop, reply
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::reads::About;
use crate::wire::{Push, Reply, WireError};
use crate::zodb::{Blob, Oid, Tid};

/// How many blobs of one client are open at the same time. The others wait.
const AT_ONCE: usize = 4;

/// The size of a chunk: what Python's server sends.
const CHUNK: usize = 59_000;

/// How much is read at once: a whole number of chunks.
const PIECE: usize = 8 * CHUNK;

/// A revision of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobKey {
    pub(super) oid: Oid,
    pub(super) serial: Tid,
}

/// The blobs that one client has asked for.
#[derive(Default)]
pub(super) struct Sending {
    asked: VecDeque<(About, BlobKey)>,
    loading: Vec<BlobKey>,
    turns: VecDeque<Sent>,
    /// The next piece of the first in `turns`.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

struct Sent {
    about: About,
    key: BlobKey,
    blob: Blob,
    at: u64,
}

/// What is to be said next.
pub(super) struct Said {
    pub(super) pushes: Vec<Push>,
    /// The blob has ended, or cannot be read.
    pub(super) reply: Option<(About, Reply)>,
}

impl Sending {
    /// A client asks for a blob.
    pub(super) fn ask(&mut self, about: About, key: BlobKey) {
        self.asked.push_back((about, key));
    }

    /// How many calls are not answered yet.
    pub(super) fn len(&self) -> usize {
        self.asked.len() + self.loading.len() + self.turns.len()
    }

    /// The next blob that is to be asked of the storage. [`loaded`](Self::loaded) or
    /// [`failed`](Self::failed) follows.
    pub(super) fn next_to_load(&mut self) -> Option<(About, BlobKey)> {
        if self.loading.len() + self.turns.len() >= AT_ONCE {
            return None;
        }
        let is_under_way = |key: &BlobKey| {
            self.loading.contains(key) || self.turns.iter().any(|sent| sent.key == *key)
        };
        let place = self.asked.iter().position(|(_, key)| !is_under_way(key))?;
        let (about, key) = self.asked.remove(place)?;
        self.loading.push(key);
        Some((about, key))
    }

    /// The storage has given a blob: what is said of it first.
    pub(super) fn loaded(&mut self, about: About, key: BlobKey, blob: Blob) -> Push {
        self.failed(key);
        self.turns.push_back(Sent {
            about,
            key,
            blob,
            at: 0,
        });
        let BlobKey { oid, serial } = key;
        Push::ReceiveBlobStart { oid, serial }
    }

    /// The storage has not given a blob.
    pub(super) fn failed(&mut self, key: BlobKey) {
        self.loading.retain(|loading| *loading != key);
    }

    /// Whether [`next`](Self::next) has something to wait for.
    pub(super) fn is_busy(&self) -> bool {
        !self.turns.is_empty()
    }

    /// The next piece of some blob. Must not be called unless [`is_busy`](Self::is_busy). Cancel safe.
    pub(super) async fn next(&mut self) -> Said {
        let Some(first) = self.turns.front() else {
            return std::future::pending().await;
        };
        let reading = self.reading.get_or_insert_with(|| first.read());
        let read = reading.await;
        self.reading = None;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.said(read)
    }

    fn said(&mut self, read: io::Result<Bytes>) -> Said {
        let Some(mut sent) = self.turns.pop_front() else {
            unreachable!("a piece is read of the first");
        };
        let BlobKey { oid, serial } = sent.key;
        let (mut pushes, reply) = match read {
            Ok(mut piece) => {
                sent.at += piece.len() as u64;
                let mut pushes = Vec::with_capacity(PIECE / CHUNK + 1);
                while !piece.is_empty() {
                    let chunk = piece.split_to(CHUNK.min(piece.len()));
                    pushes.push(Push::ReceiveBlobChunk { oid, serial, chunk });
                }
                (pushes, (sent.at == sent.blob.len()).then_some(Reply::None))
            }
            Err(error) => {
                let text = format!("could not read the blob {oid} of {serial}: {error}");
                (Vec::new(), Some(Reply::Error(WireError::Storage(text))))
            }
        };
        if let Some(Reply::None) = reply {
            pushes.push(Push::ReceiveBlobStop { oid, serial });
        }
        let reply = if let Some(reply) = reply {
            Some((sent.about, reply))
        } else {
            self.turns.push_back(sent);
            None
        };
        // While this piece is written, the next is read.
        self.reading = self.turns.front().map(Sent::read);
        Said { pushes, reply }
    }
}

impl Sent {
    /// Reads the next piece on a thread.
    fn read(&self) -> JoinHandle<io::Result<Bytes>> {
        let (blob, at) = (self.blob.clone(), self.at);
        crate::task::blocking(move || {
            let left = usize::try_from(blob.len() - at).unwrap_or(usize::MAX);
            let mut piece = vec![0; left.min(PIECE)];
            blob.open()?.read_exact_at(&mut piece, at)?;
            Ok(piece.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::wire::MessageId;

    fn blob(content: &[u8]) -> Blob {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        Blob::temporary(file.into_temp_path()).unwrap()
    }

    fn about(id: i64) -> About {
        About {
            id: MessageId::Int(id),
            one_way: false,
            method: "sendBlob",
        }
    }

    fn key(oid: u64) -> BlobKey {
        BlobKey {
            oid: Oid(oid),
            serial: Tid(7),
        }
    }

    #[tokio::test]
    async fn blobs_take_turns_and_the_same_is_not_said_twice_at_a_time() {
        let large: Vec<u8> = (0..3 * PIECE + 5).map(|byte| byte as u8).collect();
        let mut sending = Sending::default();
        for (id, oid) in [(1, 1), (2, 2), (3, 1)] {
            sending.ask(about(id), key(oid));
        }
        let mut taken = Vec::new();
        while let Some((about, key)) = sending.next_to_load() {
            taken.push((about, key));
        }
        // The third waits for the first.
        assert_eq!(taken.len(), 2);
        let (second, first) = (taken.pop().unwrap(), taken.pop().unwrap());
        sending.loaded(first.0, first.1, blob(&large));
        sending.loaded(second.0, second.1, blob(b""));
        let (mut got, mut order) = (Vec::new(), Vec::new());
        while sending.is_busy() {
            let said = sending.next().await;
            for push in said.pushes {
                if let Push::ReceiveBlobChunk { chunk, .. } = push {
                    assert!(chunk.len() <= CHUNK);
                    got.extend_from_slice(&chunk);
                }
            }
            order.extend(said.reply.map(|(about, _)| about.id));
        }
        assert!(got == large);
        assert_eq!(order, [MessageId::Int(2), MessageId::Int(1)]);
        let (third, key) = sending.next_to_load().expect("the first has ended");
        assert_eq!(third.id, MessageId::Int(3));
        sending.failed(key);
        assert_eq!(sending.len(), 0);
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10).unwrap();
        let short = Blob::kept(file.path()).unwrap();
        file.as_file().set_len(5).unwrap();
        let mut sending = Sending::default();
        sending.loaded(about(1), key(1), short);
        let said = sending.next().await;
        assert!(said.pushes.is_empty());
        let Some((_, Reply::Error(WireError::Storage(text)))) = said.reply else {
            panic!("no error");
        };
        assert!(text.contains("could not read the blob"), "{text}");
        assert!(!sending.is_busy());
    }
}
