//! A ZEO server as a storage: a client of ZEO 5 and 6, asynchronous and pipelined.
//!
//! # Connections
//!
//! One *main* connection carries every transaction, so that our own are never announced to us on it,
//! and tells of all others. Further ones, opened when they are first wanted, carry reads and blobs.
//! Where the main connection ends the storage is dead: every call fails, subscribers
//! are cut off, and whoever owns it opens another ([`ZeoOpener`]). Of the others each is replaced.
//!
//! # What the server has to be spared
//!
//! ZEO 6.2 keeps its commit lock for ever when *it* closes a connection inside of a transaction. It
//! does so at an unknown method and at any exception in a one-way call: at a store without a
//! transaction, at a second `tpc_begin`, at the upload of a blob that begins before the last has
//! ended; and at a message that it cannot decode. So no value that a client made up is passed on as it
//! came: see `pickle::extension::portable` and `undo_search`. And a transaction is sent as a whole at
//! its vote, by one guard that knows what must follow what ([`sending`]), also when it is dropped in
//! the middle. A connection that *we* close is harmless.
//!
//! # What the server says of the others
//!
//! Invalidations are written by Python's server later in its loop than the finish that makes them, and
//! a vote that comes in the same round may be answered first. So a vote is followed by a question for
//! the last transaction, and its answer waits until the announcement has come ([`commit`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Capabilities, Description, Fault, Opener, Result, SetAside, Storage, StorageError};
use crate::task::{Stop, Tasks};
use crate::wire::{Call, Info, Push, Reply, WireError};
use crate::zodb::{Answer, Oid, Tid};

mod back_pointers;
mod blobs;
mod calls;
mod commit;
mod dial;
mod ending;
mod errors;
mod iterate;
mod ledger;
mod link;
mod measure;
mod occupation;
mod options;
mod pool;
mod pulse;
mod restore;
mod sending;
#[cfg(test)]
mod tests;
mod tls;

pub use options::{ZeoAddress, ZeoOptions, ZeoTls};

use dial::{Dialled, dial};
use ledger::Ledger;
use link::{Link, Listener, Manner, closed};
use occupation::Occupation;

/// A connection beside the main one that was not used for so long is closed.
const IDLE: Duration = Duration::from_mins(1);

/// Opens connections to one ZEO server, again and again.
#[derive(Debug, Clone)]
pub struct ZeoOpener {
    options: ZeoOptions,
}

impl ZeoOpener {
    #[must_use]
    pub fn new(options: ZeoOptions) -> Self {
        ZeoOpener { options }
    }
}

#[async_trait]
impl Opener for ZeoOpener {
    fn describe(&self) -> Description {
        describe(&self.options)
    }

    async fn open(&self) -> Result<Arc<dyn Storage>, Fault> {
        Ok(Arc::new(ZeoStorage::open(self.options.clone()).await?))
    }

    async fn set_aside(&self) -> Result<SetAside, Fault> {
        Err(Fault::Unreachable(format!(
            "only the operator of {} can set its data aside: stop that server, move its `Data.fs` with \
             all that belongs to it (index, blobs) to another folder, start it empty, and recover it",
            self.options.address
        )))
    }
}

fn describe(options: &ZeoOptions) -> Description {
    let ZeoOptions {
        address, storage, ..
    } = options;
    Description {
        kind: "zeo",
        // `1` is what ZEO calls a storage unless it is told otherwise.
        location: if storage == "1" {
            address.to_string()
        } else {
            format!("{address} {storage}")
        },
    }
}

/// A ZEO server. Dropping it closes the connections.
pub struct ZeoStorage(Arc<Inner>);

/// What the storage, its transactions and its iterations share.
struct Inner {
    options: ZeoOptions,
    capabilities: Capabilities,
    main: Arc<Link>,
    heard: Arc<Heard>,
    tasks: Tasks,
    readers: Arc<pool::Readers>,
    /// For blobs that are fetched: one at a time.
    blobs: blobs::Fetching,
    /// Who may use the main connection for a transaction, from its vote to its finish. Fair.
    slot: Arc<Semaphore>,
    /// Finishes in hand.
    finishes: Arc<AtomicUsize>,
    txn_ids: AtomicI64,
    /// The largest identifier that was given out beyond the server's own.
    oids: Mutex<Oid>,
}

/// What all connections hear.
struct Heard {
    ledger: Ledger,
    occupation: Arc<Occupation>,
    /// Requested when the storage is dead.
    stop: Stop,
    why: Mutex<Option<Fault>>,
}

impl Heard {
    /// Ends everything.
    fn end(&self, fault: &Fault) {
        self.why.lock().get_or_insert_with(|| fault.clone());
        self.stop.request();
        self.ledger.cut_off();
    }

    fn alive(&self) -> Result<(), Fault> {
        self.why.lock().clone().map_or(Ok(()), Err)
    }
}

/// Listens on the main connection.
struct OnMain(Arc<Heard>);

#[async_trait]
impl Listener for OnMain {
    async fn pushed(&self, push: Push) -> Result<(), Fault> {
        match push {
            Push::InvalidateTransaction { tid, oids } => self.0.ledger.announced(tid, oids),
            push => {
                size(&self.0.ledger, &push);
                Ok(())
            }
        }
    }

    fn lost(&self, fault: &Fault) {
        self.0.end(fault);
    }

    fn why(&self) -> Option<Fault> {
        self.0.alive().err()
    }
}

/// Listens on the other connections: they hear nothing new, but sizes.
struct OnOther(Arc<Heard>);

#[async_trait]
impl Listener for OnOther {
    async fn pushed(&self, push: Push) -> Result<(), Fault> {
        size(&self.0.ledger, &push);
        Ok(())
    }

    fn lost(&self, _fault: &Fault) {}

    fn why(&self) -> Option<Fault> {
        self.0.alive().err()
    }
}

fn size(ledger: &Ledger, push: &Push) {
    if let Push::Info { objects, bytes } = push {
        ledger.set_size(*objects, *bytes);
    }
}

/// A way to the server, for connections beside the first.
#[derive(Clone)]
struct Way {
    options: Arc<ZeoOptions>,
    tasks: Tasks,
    heard: Arc<Heard>,
    read_only: bool,
}

impl Way {
    /// One more connection, registered.
    async fn open(&self, purpose: &str, listener: Arc<dyn Listener>) -> Result<Arc<Link>, Fault> {
        self.heard.alive()?;
        // The dialling may be dropped: nothing has been said yet.
        let dialled = crate::task::select! {
            dialled = dial(&self.options) => dialled?,
            () = self.heard.stop.requested() => return Err(closed("by its owner")),
        };
        let link = start(
            dialled,
            &self.options,
            purpose,
            listener,
            &self.tasks,
            &self.heard,
            true,
        );
        match register(&link, &self.options, self.read_only).await {
            Ok(_) => Ok(link),
            Err(error) => {
                let fault = not_registered(error, &self.options);
                link.fail(fault.clone());
                Err(fault)
            }
        }
    }
}

fn start(
    dialled: Dialled,
    options: &ZeoOptions,
    purpose: &str,
    listener: Arc<dyn Listener>,
    tasks: &Tasks,
    heard: &Heard,
    idle: bool,
) -> Arc<Link> {
    let name = format!("the {purpose} connection to {}", options.address);
    // A transaction that waits for the server's lock is no idleness.
    let idle_after = IDLE.max(options.lock_timeout * 2);
    let manner = Manner {
        name: &name,
        tasks,
        stop: &heard.stop,
        occupation: &heard.occupation,
        call_timeout: options.call_timeout,
        heartbeat: options.heartbeat,
        idle: idle.then_some(idle_after),
    };
    Link::start(dialled, listener, &manner)
}

async fn register(link: &Link, options: &ZeoOptions, read_only: bool) -> Result<Tid> {
    let storage = options.storage.clone();
    let call = Call::Register { storage, read_only };
    match link.call(call).await? {
        Reply::Tid(last) => Ok(last),
        Reply::None => Ok(Tid::ZERO),
        Reply::Error(WireError::Value(text)) => Err(Fault::Unreachable(format!(
            "the server at {} has no storage `{}` ({text}); correct the member's `storage`",
            options.address, options.storage
        ))
        .into()),
        other => Err(errors::unexpected(other, "`register`")),
    }
}

fn not_registered(error: StorageError, options: &ZeoOptions) -> Fault {
    match error {
        StorageError::Fault(fault) => fault,
        StorageError::Answer(answer) => Fault::Unreachable(format!(
            "the server at {} does not let us in: {answer}",
            options.address
        )),
    }
}

impl ZeoStorage {
    /// Connects and registers.
    ///
    /// # Errors
    /// See [`Opener::open`].
    pub async fn open(options: ZeoOptions) -> Result<Self, Fault> {
        let dialled = dial(&options).await?;
        Self::on(dialled, options).await
    }

    async fn on(dialled: Dialled, options: ZeoOptions) -> Result<Self, Fault> {
        let heard = Arc::new(Heard {
            ledger: Ledger::default(),
            occupation: Occupation::new(),
            stop: Stop::new(),
            why: Mutex::new(None),
        });
        let tasks = Tasks::new("connections to a ZEO server");
        let listener = Arc::new(OnMain(Arc::clone(&heard)));
        let main = start(dialled, &options, "main", listener, &tasks, &heard, false);
        match Self::introduce(&main, &options).await {
            Ok((said, read_only, info)) => {
                let way = Way {
                    options: Arc::new(options.clone()),
                    tasks: tasks.clone(),
                    heard: Arc::clone(&heard),
                    read_only,
                };
                let offers = |name| info.interfaces.iter().any(|(_, known)| *known == name);
                heard.ledger.set_size(info.objects, info.bytes);
                let inner = Arc::new(Inner {
                    capabilities: Capabilities {
                        pipelined: false,
                        rewind: false,
                        undo: info.supports_undo,
                        blobs: offers("IBlobStorage"),
                        pack: true,
                        backup: false,
                        shared: true,
                        read_only,
                    },
                    readers: pool::Readers::new(way.clone(), options.read_connections),
                    blobs: blobs::Fetching::new(way),
                    slot: Arc::new(Semaphore::new(1)),
                    finishes: Arc::default(),
                    txn_ids: AtomicI64::new(1),
                    oids: Mutex::new(Oid(0)),
                    options,
                    main,
                    heard,
                    tasks,
                });
                match ending::look(&inner, said).await {
                    Ok(last) => inner.heard.ledger.begin(last),
                    Err(error) => {
                        let fault = not_registered(error, &inner.options);
                        inner.end(fault.clone());
                        return Err(fault);
                    }
                }
                Ok(ZeoStorage(inner))
            }
            Err(error) => {
                let fault = not_registered(error, &options);
                main.fail(fault.clone());
                Err(fault)
            }
        }
    }

    /// Registers: the last transaction as the server has it, whether it may be only read, and what it is.
    async fn introduce(main: &Link, options: &ZeoOptions) -> Result<(Tid, bool, Info)> {
        let (last, read_only) = match register(main, options, false).await {
            Ok(last) => (last, false),
            // The same connection may ask again.
            Err(StorageError::Answer(Answer::ReadOnly)) => {
                (register(main, options, true).await?, true)
            }
            Err(error) => return Err(error),
        };
        match main.call(Call::GetInfo).await? {
            Reply::Info(info) => Ok((last, read_only, info)),
            other => Err(errors::unexpected(other, "`get_info`")),
        }
    }
}

impl Inner {
    /// Ends what is under way, and every connection.
    fn end(&self, fault: Fault) {
        self.main.fail(fault.clone());
        self.heard.end(&fault);
    }
}

impl Drop for ZeoStorage {
    fn drop(&mut self) {
        self.0.end(closed("by its owner"));
    }
}
