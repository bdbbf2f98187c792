//! Fetching blobs: a call, pushes with the pieces, and the reply.
//!
//! The pieces name their blob but not the call, so there is one blob at a time on a connection of its
//! own. Who asks for a blob that is on its way waits for that one. The file is written on a thread; a
//! disk that is slower than the server makes the connection's reader wait, and so the server.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::errors::unexpected;
use super::link::{Link, Listener, closed};
use super::options::ZeoOptions;
use super::{Heard, Way, size};
use crate::storage::{Answer, Fault, Result, StorageError};
use crate::wire::{Call, Expected, Push, Reply, WireError};
use crate::zodb::{Blob, Oid, Tid};

/// How many pieces wait to be written, and how large each may be, in bytes. (Python's server sends 59 000.)
const PIECES: usize = 32;
const LARGEST_PIECE: usize = 1 << 20;

/// After so many bytes it is looked at what is left of the disk.
const LOOK_EVERY: u64 = 16 << 20;

type Fetch = BoxFuture<'static, Result<Blob>>;

/// The connection for blobs, opened when it is first wanted.
pub(super) struct Fetching {
    shared: Arc<Line>,
    under_way: Mutex<BTreeMap<(Oid, Tid), WeakShared<Fetch>>>,
}

struct Line {
    way: Way,
    link: tokio::sync::Mutex<Option<(Arc<Link>, Arc<OnBlobs>)>>,
    turn: Arc<Semaphore>,
}

impl Fetching {
    pub(super) fn new(way: Way) -> Self {
        Fetching {
            shared: Arc::new(Line {
                way,
                link: tokio::sync::Mutex::new(None),
                turn: Arc::new(Semaphore::new(1)),
            }),
            under_way: Mutex::default(),
        }
    }

    pub(super) async fn fetch(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        self.joined(oid, serial).await
    }

    /// Whether a writer waits for pieces.
    #[cfg(test)]
    pub(super) async fn awaits_pieces(&self) -> bool {
        let place = self.shared.link.lock().await;
        place
            .as_ref()
            .is_some_and(|(_, listener)| listener.sink.lock().is_some())
    }

    fn joined(&self, oid: Oid, serial: Tid) -> Shared<Fetch> {
        let mut under_way = self.under_way.lock();
        under_way.retain(|_, fetch| fetch.upgrade().is_some_and(|fetch| fetch.peek().is_none()));
        if let Some(fetch) = under_way.get(&(oid, serial)).and_then(WeakShared::upgrade) {
            return fetch;
        }
        let line = Arc::clone(&self.shared);
        let fetch: Fetch = Box::pin(async move { line.fetch(oid, serial).await });
        let fetch = fetch.shared();
        if let Some(weak) = fetch.downgrade() {
            under_way.insert((oid, serial), weak);
        }
        fetch
    }
}

impl Line {
    /// Over a new connection, once, where the one that there was ended before it was asked, or in the
    /// middle.
    async fn fetch(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        match self.fetch_once(oid, serial).await {
            Err(StorageError::Fault(Fault::Closed(_))) if self.way.heard.alive().is_ok() => {
                self.fetch_once(oid, serial).await
            }
            done => done,
        }
    }

    async fn fetch_once(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let turn = turn.map_err(|_| closed("it has ended"))?;
        let (link, listener) = self.link().await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let call = Call::SendBlob { oid, serial };
        // The turn goes on when the server has said its last word of this blob, wanted or not.
        let answer = {
            let (answered, answer) = tokio::sync::oneshot::channel();
            let on_reply = Arc::clone(&listener);
            let mut flight = link.flight()?;
            *listener.sink.lock() = Some(Sink {
                blob: (oid, serial),
                pieces: Some(sender),
                whole: false,
            });
            let handed = flight.hand(
                call,
                Expected::None,
                Box::new(move |reply| {
                    let whole = on_reply.sink.lock().take().is_some_and(|sink| sink.whole);
                    drop(turn);
                    drop(answered.send(reply.map(|reply| (reply, whole))));
                }),
            );
            if let Err(fault) = handed {
                // Nothing will come: whoever writes would wait as long as the listener lives.
                *listener.sink.lock() = None;
                return Err(fault);
            }
            answer
        };
        let written = write_beside(Arc::clone(&self.way.options), pieces);
        let (reply, whole) = self.patiently(&link, answer).await?;
        match reply {
            Reply::None => {}
            Reply::Error(WireError::Answer(Answer::Other { class, .. }))
                if class == "ZODB.POSException.POSKeyError" =>
            {
                return Err(Answer::NoSuchObject(oid).into());
            }
            other => return Err(unexpected(other, "`sendBlob`")),
        }
        let written = written
            .await
            .map_err(|_| closed("while a blob was written"))??;
        if !whole {
            let text = format!("the server did not send the blob {oid} of {serial} to its end");
            return Err(Fault::Damaged(text).into());
        }
        Ok(written)
    }

    /// Waits as long as something comes.
    async fn patiently<T>(
        &self,
        link: &Link,
        mut answer: tokio::sync::oneshot::Receiver<Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let patience = self.way.options.call_timeout;
        loop {
            match timeout(patience, &mut answer).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_)) => return Err(closed("it has ended")),
                Err(_) if link.traffic.last_read() + patience > Instant::now() => {}
                Err(_) => {
                    return Err(Fault::Timeout {
                        what: "`sendBlob`",
                        after: patience,
                    });
                }
            }
        }
    }

    async fn link(&self) -> Result<(Arc<Link>, Arc<OnBlobs>), Fault> {
        let mut place = self.link.lock().await;
        if let Some((link, listener)) = &*place
            && link.ended().is_none()
        {
            return Ok((Arc::clone(link), Arc::clone(listener)));
        }
        let listener = Arc::new(OnBlobs {
            heard: Arc::clone(&self.way.heard),
            sink: Mutex::new(None),
        });
        let link = self.way.open("blobs'", Arc::clone(&listener) as _).await?;
        *place = Some((Arc::clone(&link), Arc::clone(&listener)));
        Ok((link, listener))
    }
}

/// Where the pieces of the present blob go.
struct Sink {
    blob: (Oid, Tid),
    /// None after the last.
    pieces: Option<mpsc::Sender<Bytes>>,
    whole: bool,
}

/// Listens on the connection for blobs.
struct OnBlobs {
    heard: Arc<Heard>,
    sink: Mutex<Option<Sink>>,
}

#[async_trait]
impl Listener for OnBlobs {
    async fn pushed(&self, push: Push) -> Result<(), Fault> {
        match push {
            Push::ReceiveBlobChunk { oid, serial, chunk } => {
                let pieces = match &*self.sink.lock() {
                    Some(sink) if sink.blob == (oid, serial) => sink.pieces.clone(),
                    _ => None,
                };
                let Some(pieces) = pieces else {
                    return Err(unasked(oid));
                };
                if chunk.len() > LARGEST_PIECE {
                    return Err(Fault::Damaged(format!(
                        "the server sent a piece of {} bytes of the blob {oid}; {LARGEST_PIECE} are taken",
                        chunk.len()
                    )));
                }
                // Whoever writes may have failed; he says so.
                drop(pieces.send(chunk).await);
            }
            Push::ReceiveBlobStop { oid, serial } => match &mut *self.sink.lock() {
                Some(sink) if sink.blob == (oid, serial) => {
                    sink.pieces = None;
                    sink.whole = true;
                }
                _ => return Err(unasked(oid)),
            },
            push => size(&self.heard.ledger, &push),
        }
        Ok(())
    }

    fn lost(&self, _fault: &Fault) {
        *self.sink.lock() = None;
    }

    fn why(&self) -> Option<Fault> {
        self.heard.alive().err()
    }
}

fn unasked(oid: Oid) -> Fault {
    Fault::Damaged(format!(
        "the server sent a blob of {oid} that nobody asked for"
    ))
}

/// Writes pieces as they come.
fn write_beside(options: Arc<ZeoOptions>, mut pieces: mpsc::Receiver<Bytes>) -> Writing {
    #[cfg(test)]
    if crate::simulation::is_on() {
        // Where nobody may block the only thread, they are written when all are there.
        return crate::simulation::spawn(async move {
            let mut all = Vec::new();
            while let Some(piece) = pieces.recv().await {
                all.push(piece);
            }
            write(&options.blob_folder, options.keep_free_bytes, all)
        });
    }
    crate::task::blocking(move || {
        let pieces = std::iter::from_fn(|| pieces.blocking_recv());
        write(&options.blob_folder, options.keep_free_bytes, pieces)
    })
}

type Writing = tokio::task::JoinHandle<Result<Blob, StorageError>>;

/// Writes pieces into a temporary file, until there are no more.
fn write(
    folder: &std::path::Path,
    keep_free: u64,
    pieces: impl IntoIterator<Item = Bytes>,
) -> Result<Blob, StorageError> {
    let what = || format!("writing a blob to {}", folder.display());
    // The server is not to blame.
    let fault = |error| Fault::here(what(), error);
    let file = tempfile::Builder::new().prefix("blob-").tempfile_in(folder);
    let mut file = file.map_err(fault)?;
    let mut unlooked = 0;
    for piece in pieces {
        unlooked += piece.len() as u64;
        if unlooked >= LOOK_EVERY {
            unlooked = 0;
            leave_free(folder, keep_free).map_err(fault)?;
        }
        file.write_all(&piece).map_err(fault)?;
    }
    file.flush().map_err(fault)?;
    Ok(Blob::temporary(file.into_temp_path()).map_err(fault)?)
}

/// That there is more left of a disk than has to be.
pub(super) fn leave_free(folder: &std::path::Path, keep_free: u64) -> std::io::Result<()> {
    if keep_free > 0 && crate::durable::free_space(folder)? < keep_free {
        let text = format!("less than {keep_free} bytes are left of the disk (limits.keep_free)");
        return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_without_end_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, pieces) = mpsc::channel(1);
        let at = folder.path().to_owned();
        let written = crate::task::blocking(move || {
            let mut pieces = pieces;
            write(&at, u64::MAX, std::iter::from_fn(|| pieces.blocking_recv()))
        });
        // Until nobody takes them any more.
        while sender.send(Bytes::from(vec![0; 1 << 20])).await.is_ok() {}
        let error = written.await.unwrap().err().unwrap();
        assert!(error.to_string().contains("limits.keep_free"), "{error}");
        assert!(matches!(error.fault(), Some(Fault::Here { .. })), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_of_ours_that_takes_nothing_is_no_fault_of_the_server() {
        let gone = tempfile::tempdir().unwrap().path().join("gone");
        let error = write(&gone, 0, Vec::new()).err().unwrap();
        assert!(matches!(error.fault(), Some(Fault::Here { .. })), "{error}");
    }
}
