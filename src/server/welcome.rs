//! The beginning of a connection: the encoding is chosen, and a storage is registered for.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::ended::Ended;
use super::limits::{Limit, Passed};
use super::reads::{self, Done};
use super::session::is_of_transaction;
use super::start::{Served, Serving, Shared};
use crate::storage::Invalidations;
use crate::wire::connection::{Reader, Writer};
use crate::wire::handshake::{self, Choice};
use crate::wire::{Call, FromClient, Reply, Request, WireError};
use crate::zodb::{Answer, Tid};

/// Nobody who has not registered has more to say in one message, in bytes: a method and a storage's name.
pub(super) const REGISTER_FRAME: usize = 64 << 10;

/// How long a storage may take to say its last TID to who only asks for the status.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// A client that has registered.
pub(super) struct Registered<'a, W> {
    pub(super) writer: Writer<W>,
    pub(super) served: &'a Served,
    pub(super) invalidations: Invalidations,
    /// The last transaction that the client was told of.
    pub(super) last: Tid,
    pub(super) read_only: bool,
}

/// From the handshake to the registration.
pub(super) async fn start<'a, R, W>(
    reader: &mut Reader<R>,
    mut writer: Writer<W>,
    peer: &str,
    since: Instant,
    shared: &'a Shared,
) -> Result<Registered<'a, W>, Ended>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let options = &shared.options;
    let choosing = handshake::accept(reader, &mut writer, options.offer);
    // What TLS took counts.
    let limit = Limit::Handshake;
    let wait = (since, options.handshake_timeout);
    let choice = within("choose an encoding", limit, wait, choosing).await??;
    match choice {
        Choice::Dialect(dialect) => debug!(%peer, ?dialect, "encoding chosen"),
        Choice::Status => {
            tell_status(&mut writer, shared).await?;
            return Err(Ended::StatusAsked);
        }
    }
    let frame = reader.limit();
    reader.set_limit(frame.min(REGISTER_FRAME));
    let registering = register(reader, writer, shared);
    let wait = (Instant::now(), options.register_timeout);
    let registered = within("register", Limit::Register, wait, registering).await??;
    reader.set_limit(frame);
    reader.pass_over(is_of_transaction);
    Ok(registered)
}

/// The answer to `ruok`. A storage that does not answer counts as empty rather than as no storage: who
/// watches the server gets the other figures.
pub(super) async fn tell_status<W: AsyncWrite + Unpin>(
    writer: &mut Writer<W>,
    shared: &Shared,
) -> Result<(), Ended> {
    let mut statuses = Vec::new();
    for served in shared.served.values() {
        let last = timeout(STATUS_WAIT, served.storage.last_tid()).await;
        let last = last.ok().and_then(Result::ok).unwrap_or(Tid::ZERO);
        statuses.push((served.name.as_str(), served.stats.status(last)));
    }
    let statuses = statuses.iter().map(|(name, status)| (*name, status));
    writer.raw(&handshake::status_json(statuses));
    writer.close().await.map_err(Ended::Write)
}

/// Reads until the client has registered. What can be mended by another registration is answered with
/// an error, and the connection lives on.
async fn register<'a, R, W>(
    reader: &mut Reader<R>,
    mut writer: Writer<W>,
    shared: &'a Shared,
) -> Result<Registered<'a, W>, Ended>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let Some(frame) = reader.next_frame().await? else {
            return Err(Ended::ClientLeft);
        };
        let FromClient::Request(request) = reader.dialect().decode_from_client(frame)? else {
            continue;
        };
        let Request { id, one_way, call } = request;
        let error = match call {
            Call::Register { storage, read_only } => {
                match admit(shared, &storage, read_only).await? {
                    Ok((served, invalidations, last)) => {
                        if !one_way {
                            writer.reply(&id, &Reply::Tid(last));
                        }
                        return Ok(Registered {
                            writer,
                            served,
                            invalidations,
                            last,
                            read_only,
                        });
                    }
                    Err(error) => error,
                }
            }
            Call::Malformed {
                method: method @ "register",
                why,
            } => reads::malformed(method, &why),
            Call::Unknown { method } => return Err(Ended::UnknownMethod(method)),
            call => return Err(Ended::Unregistered(call.method())),
        };
        if one_way {
            let method = "register";
            return Err(Ended::OneWay { method, error });
        }
        writer.reply(&id, &Reply::Error(error));
        writer.flush().await.map_err(Ended::Write)?;
    }
}

/// Whether a client may have the storage, and from which transaction on it will be told of others.
async fn admit<'a>(
    shared: &'a Shared,
    storage: &str,
    read_only: bool,
) -> Result<Result<(&'a Served, Invalidations, Tid), WireError>, Ended> {
    let Some(served) = shared.served.get(storage) else {
        let error = WireError::Value(format!("unknown storage: {storage}"));
        return Ok(Err(error));
    };
    let mut serving = served.serving.clone();
    let waiting = serving.wait_for(|serving| serving.refusal().is_none());
    // Whether it serves or not is read below; here it is only given some time.
    drop(timeout(shared.options.register_wait, waiting).await);
    let now = served.serving.borrow().clone();
    if let Some(why) = now.refusal() {
        return Err(Ended::NotServing(why.to_owned()));
    }
    let is_read_only = served.read_only || served.storage.capabilities().read_only;
    let writable = now == Serving::Yes && !is_read_only;
    if !read_only && !writable {
        return Ok(Err(WireError::Answer(Answer::ReadOnly)));
    }
    // In this order: whatever is finished after the answer is in the queue. What is in it and not
    // later than the answer is passed over by the outbox.
    let invalidations = served.storage.subscribe();
    match served.storage.newest_tid().await {
        Ok(last) => Ok(Ok((served, invalidations, last))),
        Err(failed) => match reads::error(failed) {
            Done::Reply(Reply::Error(error)) => Ok(Err(error)),
            _ => Err(Ended::NotServing("it has no last transaction".to_owned())),
        },
    }
}

async fn within<T>(
    what: &'static str,
    limit: Limit,
    (since, after): (Instant, Duration),
    future: impl Future<Output = T>,
) -> Result<T, Ended> {
    timeout_at(since + after, future).await.map_err(|_| {
        let what = format!("the client did not {what} within {} s", after.as_secs_f64());
        Ended::Limit(Passed::new(limit, what))
    })
}
