//! Refusals that come again and again: a client that is refused tries again at once, a hundred times in a
//! second. The log says it once in a while for each host, and how often it went unsaid.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const EVERY: Duration = Duration::from_mins(1);

/// How many are remembered. Beyond that the one that was told of first is forgotten, and told of again.
const REMEMBERED: usize = 64;

/// What was told of the last refusals.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<VecDeque<Told>>);

#[derive(Debug)]
struct Told {
    host: String,
    reason: String,
    at: Instant,
    unsaid: u64,
}

impl Refused {
    /// Whether this is to be told now, and how often it was not since the last time.
    pub(crate) fn tell(&self, peer: &str, reason: &str, now: Instant) -> Option<u64> {
        let host = host(peer);
        let mut told = self.0.lock();
        let known = told
            .iter()
            .position(|told| told.host == host && told.reason == reason);
        let mut unsaid = 0;
        if let Some(place) = known {
            let known = &mut told[place];
            if now < known.at + EVERY {
                known.unsaid += 1;
                return None;
            }
            unsaid = known.unsaid;
            told.remove(place);
        }
        if told.len() >= REMEMBERED {
            told.pop_front();
        }
        told.push_back(Told {
            host: host.to_owned(),
            reason: reason.to_owned(),
            at: now,
            unsaid: 0,
        });
        Some(unsaid)
    }
}

/// A peer without what is different each time: its port, or its process.
fn host(peer: &str) -> &str {
    let end = if peer.starts_with("unix:") || peer.starts_with("uid ") {
        peer.rfind(" (")
    } else {
        peer.rfind(':')
    };
    &peer[..end.unwrap_or(peer.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_host_and_reason_is_told_once_in_a_while() {
        let refused = Refused::default();
        let tell = |peer: &str, reason: &str| refused.tell(peer, reason, Instant::now());
        assert_eq!(tell("[::1]:5001", "expired"), Some(0));
        assert_eq!(tell("[::1]:5002", "expired"), None);
        assert_eq!(tell("[::1]:5003", "expired"), None);
        assert_eq!(tell("[::1]:5004", "unknown"), Some(0), "another reason");
        assert_eq!(tell("10.0.0.1:5005", "expired"), Some(0), "another host");
        assert_eq!(tell("unix:/run/zeo.sock (process 7)", "expired"), Some(0));
        assert_eq!(tell("unix:/run/zeo.sock (process 8)", "expired"), None);
        assert_eq!(tell("uid 1000 (pid 7)", "expired"), Some(0));
        assert_eq!(tell("uid 1000 (pid 8)", "expired"), None);
        assert_eq!(tell("uid 1000", "expired"), None);
        assert_eq!(tell("uid 1001 (pid 8)", "expired"), Some(0));
        tokio::time::advance(EVERY).await;
        assert_eq!(tell("[::1]:5006", "expired"), Some(2));
        assert_eq!(tell("[::1]:5007", "expired"), None);
        for number in 0..10 * REMEMBERED {
            assert_eq!(tell(&format!("10.1.0.{number}:1"), "expired"), Some(0));
        }
        assert_eq!(refused.0.lock().len(), REMEMBERED);
    }
}
