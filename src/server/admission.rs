//! Who may connect: so many at the same time, and so many of them from one address.
//!
//! Whoever is let in has a [`Place`] for as long as its connection lasts. Who is not is told why, by the
//! protocol, as long as not too many are told at the same time ([`Admission::to_be_told`]); beyond that they
//! are hung up on.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::limits::{Limit, Passed};
use crate::counted::counted;

/// So many of those that are not let in are told why at the same time.
const TOLD: usize = 64;

/// Where a connection comes from, as far as it is counted by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Of IPv6, the network of its host, which has all its addresses.
    Ip(IpAddr),
    /// A user of this machine, over a Unix socket.
    User(u32),
    /// The system does not say.
    Unknown,
}

impl Source {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                let network = ip.to_bits() & (u128::MAX << 64);
                Source::Ip(Ipv6Addr::from_bits(network).into())
            }
            ip => Source::Ip(ip),
        }
    }
}

/// The places that there are.
#[derive(Debug)]
pub(super) struct Admission {
    most: usize,
    most_by_source: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_source: HashMap<Source, usize>,
    told: usize,
}

impl Admission {
    pub(super) fn new(most: usize, most_by_source: usize) -> Arc<Self> {
        Arc::new(Admission {
            most,
            most_by_source,
            taken: Mutex::default(),
        })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Which limit is passed.
    pub(super) fn enter(self: &Arc<Self>, source: Source) -> Result<Place, Passed> {
        let mut taken = self.taken.lock();
        if taken.total >= self.most {
            let most = counted(self.most as u64, "connection");
            let what = format!("the limit of {most} is reached");
            return Err(Passed::new(Limit::Connections, what));
        }
        let from_here = taken.by_source.get(&source).copied().unwrap_or(0);
        if from_here >= self.most_by_source {
            let most = counted(from_here as u64, "connection");
            let what = format!("the limit of {most} from this address is reached");
            return Err(Passed::new(Limit::ConnectionsByAddress, what));
        }
        taken.total += 1;
        taken.by_source.insert(source, from_here + 1);
        Ok(Place {
            admission: Arc::clone(self),
            source: Some(source),
        })
    }

    /// A place for being told why there is none; none where too many have one.
    pub(super) fn to_be_told(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.told >= TOLD {
            return None;
        }
        taken.told += 1;
        Some(Place {
            admission: Arc::clone(self),
            source: None,
        })
    }

    /// How many are there, without those that are only told.
    pub(super) fn len(&self) -> usize {
        self.taken.lock().total
    }
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    /// None: to be told.
    source: Option<Source>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.admission.taken.lock();
        let Some(source) = self.source else {
            taken.told -= 1;
            return;
        };
        taken.total -= 1;
        if let Some(count) = taken.by_source.get_mut(&source) {
            *count -= 1;
            // What nobody comes from takes no room.
            if *count == 0 {
                taken.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn a_place_is_taken_by_address_and_given_back() {
        let admission = Admission::new(4, 2);
        let limit = |source| admission.enter(source).map_err(|passed| passed.limit);
        let first = limit(ip("10.0.0.1")).unwrap();
        let second = limit(ip("10.0.0.1")).unwrap();
        assert_eq!(
            limit(ip("10.0.0.1")).err(),
            Some(Limit::ConnectionsByAddress)
        );
        let third = limit(Source::User(7)).unwrap();
        let fourth = limit(Source::User(8)).unwrap();
        assert_eq!(limit(Source::User(9)).err(), Some(Limit::Connections));
        drop(first);
        assert_eq!(admission.len(), 3);
        let again = limit(ip("10.0.0.1")).unwrap();
        drop((again, second, third, fourth));
        assert_eq!(admission.len(), 0);
        assert!(admission.taken.lock().by_source.is_empty());
    }

    #[test]
    fn not_too_many_are_told() {
        let admission = Admission::new(1, 1);
        let told: Vec<_> = std::iter::from_fn(|| admission.to_be_told()).collect();
        assert_eq!(told.len(), TOLD);
        drop(told);
        assert!(admission.to_be_told().is_some());
        assert_eq!(admission.len(), 0);
    }

    #[test]
    fn a_host_with_many_addresses_is_one() {
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
        assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
        assert_ne!(ip("::1"), ip("::2"));
    }
}
