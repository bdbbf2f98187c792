//! Loads: one at a time, and many in flight on several connections.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use zeoraidctl::wire::{Expected, FromServer, Reply};
use zeoraidctl::zodb::{Oid, Tid};

use crate::measure::since;
use crate::peer::{Peer, record};

/// Every so many replies one is looked into as a whole; of the others only the size is looked at, so
/// that the generator costs little.
const LOOK_INTO: usize = 64;

/// A set of objects of the same size, in the database of a server.
pub(crate) struct Objects {
    pub(crate) size: usize,
    pub(crate) oids: Vec<Oid>,
}

impl Objects {
    /// Stores `count` objects of `size` bytes.
    pub(crate) async fn store(
        address: SocketAddr,
        count: usize,
        size: usize,
    ) -> anyhow::Result<Objects> {
        let mut random = fastrand::Rng::with_seed(size as u64);
        let mut peer = Peer::connect(address).await?;
        let oids = peer.oids(count).await?;
        for some in oids.chunks(100) {
            peer.commit(some, Tid::ZERO, &record(size, &mut random))
                .await?;
        }
        Ok(Objects { size, oids })
    }
}

/// Loads objects at random for a time; gives how long each load took.
pub(crate) async fn load(
    address: SocketAddr,
    objects: &Objects,
    connections: usize,
    in_flight: usize,
    time: Duration,
) -> anyhow::Result<Vec<u32>> {
    let mut peers = Vec::new();
    for _ in 0..connections {
        peers.push(Peer::connect(address).await?);
    }
    let end = Instant::now() + time;
    let loading = peers
        .iter_mut()
        .enumerate()
        .map(|(seed, peer)| load_on(peer, objects, in_flight, end, seed as u64));
    Ok(try_join_all(loading).await?.concat())
}

async fn load_on(
    peer: &mut Peer,
    objects: &Objects,
    in_flight: usize,
    end: Instant,
    seed: u64,
) -> anyhow::Result<Vec<u32>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut asked = VecDeque::with_capacity(in_flight);
    let mut latencies = Vec::new();
    let mut next = |peer: &mut Peer, asked: &mut VecDeque<Instant>| {
        let oid = objects.oids[random.usize(..objects.oids.len())];
        asked.push_back(Instant::now());
        peer.load(oid)
    };
    for _ in 0..in_flight {
        next(peer, &mut asked)?;
    }
    while !asked.is_empty() {
        peer.writer.flush().await?;
        let mut frame = peer.reader.next_frame().await?;
        let more = Instant::now() < end;
        // All replies that are there, before anything is written.
        while let Some(reply) = frame {
            if reply.len() < objects.size {
                bail!("a reply of {} bytes", reply.len());
            }
            if latencies.len().is_multiple_of(LOOK_INTO) {
                let reply = peer.reader.dialect().decode_from_server(reply)?;
                let FromServer::Reply(reply) = reply else {
                    bail!("not a reply: {reply:?}");
                };
                let Reply::Loaded(Some(_)) = reply.expect(Expected::Loaded)? else {
                    bail!("not a record");
                };
            }
            // Replies may overtake each other; then two latencies are exchanged.
            let start = asked.pop_front().context("more replies than calls")?;
            latencies.push(since(start));
            if more {
                next(peer, &mut asked)?;
            }
            frame = peer.reader.buffered()?;
        }
    }
    Ok(latencies)
}
