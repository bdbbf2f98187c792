//! Commits: of one or more objects, on one or more connections at the same time. Nobody conflicts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use zeoraidctl::zodb::{Oid, Tid};

use crate::measure::since;
use crate::peer::{Peer, record};

/// The size of each object's record.
pub(crate) const RECORD: usize = 1024;

/// Commits for a time; gives how long each commit took, from its first call to its last reply.
pub(crate) async fn commit(
    address: SocketAddr,
    objects: usize,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Vec<u32>> {
    let mut writers = Vec::new();
    for seed in 0..connections {
        let mut peer = Peer::connect(address).await?;
        let oids = peer.oids(objects).await?;
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let data = record(RECORD, &mut random);
        let serial = peer.commit(&oids, Tid::ZERO, &data).await?;
        writers.push((peer, oids, serial, data));
    }
    let end = Instant::now() + time;
    let committing = writers
        .iter_mut()
        .map(|(peer, oids, serial, data)| commit_on(peer, oids, serial, data, end));
    Ok(try_join_all(committing).await?.concat())
}

async fn commit_on(
    peer: &mut Peer,
    oids: &[Oid],
    serial: &mut Tid,
    data: &Bytes,
    end: Instant,
) -> anyhow::Result<Vec<u32>> {
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        *serial = peer.commit(oids, *serial, data).await?;
        latencies.push(since(start));
    }
    Ok(latencies)
}
