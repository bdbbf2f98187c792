//! What each way of recovering costs: transactions and bytes, and about how long that takes.
//!
//! The time is an estimate and says by what: the speed of the last recovery that this daemon made, the limit
//! that was asked for, else a moderate disk's.

use std::time::Duration;

use crate::admin::api::{
    AdminApi, Analysis, ArrayDetails, Finding, Lag, RateLimit, RecoveryState, Strategy,
};
use crate::cli::output::{escape, format};

/// Where nothing was measured: a disk that does other things as well.
const ASSUMED: f64 = 50.0 * 1024.0 * 1024.0;
/// Smaller recoveries say nothing about speed.
const TELLING: u64 = 1 << 20;

pub(super) struct Costs {
    bytes_per_second: f64,
    /// The array as a whole, in bytes.
    whole: u64,
}

impl Costs {
    /// With the speed that can be expected.
    pub(super) async fn measured(
        api: &dyn AdminApi,
        limit: Option<RateLimit>,
        array: &ArrayDetails,
    ) -> Costs {
        let last = api.recovery(&array.name).await.ok();
        let measured = last.and_then(|last| {
            let took = last.ended?.duration_since(last.started);
            let took = Duration::try_from(took).ok()?.as_secs_f64();
            let tells = last.state == RecoveryState::Done && last.done.bytes >= TELLING;
            // One that was held back says how fast it was allowed to be.
            let free = last.rate == RateLimit::default();
            (tells && free && took > 0.0).then(|| last.done.bytes as f64 / took)
        });
        let most = limit.and_then(|limit| limit.bytes_per_second);
        let speed = measured.unwrap_or(ASSUMED);
        Costs {
            bytes_per_second: most.map_or(speed, |most| speed.min(most as f64)),
            whole: array.bytes,
        }
    }

    /// What the times are taken at.
    pub(super) fn line(&self) -> String {
        let speed = format::bytes(self.bytes_per_second as u64);
        format!("times are estimates, at {speed}/s")
    }

    /// `1 402 tx, 31 MiB; about 1 s`.
    pub(super) fn of(&self, strategy: Strategy, analyses: &[Analysis]) -> String {
        let mut lag = Lag {
            transactions: 0,
            bytes: 0,
        };
        let (mut cut, mut afresh) = (0, 0);
        for found in analyses {
            let lacks = match &found.finding {
                Finding::UpToDate => continue,
                Finding::Behind { lag, .. } | Finding::Empty { lag } => lag,
                Finding::Diverged {
                    lag,
                    only_here_count,
                    ..
                } => {
                    cut += only_here_count;
                    lag
                }
                Finding::Damaged { .. } => {
                    afresh += self.whole;
                    continue;
                }
            };
            lag.transactions += lacks.transactions;
            lag.bytes += lacks.bytes;
        }
        let copied = lag.bytes + afresh;
        let copy = if copied == 0 || lag.transactions + afresh == 0 {
            "copies nothing".to_owned()
        } else if copied == lag.bytes {
            format::lag(lag, false)
        } else {
            format::bytes(copied)
        };
        if let (Strategy::Missing | Strategy::Verify, Some(why)) = (strategy, will_not_do(analyses))
        {
            return why;
        }
        let compared = self.whole * analyses.len() as u64;
        let (what, bytes) = match strategy {
            Strategy::Missing => (copy, lag.bytes),
            Strategy::Verify => {
                let compare = format!("reads both copies: {}", format::bytes(self.whole));
                (compare, lag.bytes + compared)
            }
            Strategy::Rebuild if cut > 0 => {
                (format!("cuts {} tx; {copy}", format::count(cut)), copied)
            }
            Strategy::Rebuild if afresh > 0 => (format!("sets aside; {copy}"), copied),
            Strategy::Rebuild => (format!("cuts if needed; {copy}"), copied),
        };
        format!("{what}; {}", self.time(bytes))
    }

    /// `about 1 s`.
    fn time(&self, bytes: u64) -> String {
        let seconds = (bytes as f64 / self.bytes_per_second).ceil().max(1.0) as u64;
        format!("about {}", format::duration(seconds))
    }
}

/// Why nothing is mended without cutting.
pub(super) fn will_not_do(analyses: &[Analysis]) -> Option<String> {
    analyses.iter().find_map(|found| {
        let why = match &found.finding {
            Finding::Diverged { .. } => "has diverged",
            Finding::Damaged { .. } => "cannot be read",
            Finding::UpToDate | Finding::Behind { .. } | Finding::Empty { .. } => return None,
        };
        Some(format!("will not do: {} {why}", escape(&found.member)))
    })
}
