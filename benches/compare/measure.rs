//! Rounds, medians and percentiles.

use std::time::Duration;

use serde::Serialize;

use crate::sides::{Side, cpu_of};

/// What was done in one round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// How long each operation took, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
    pub(crate) took: Duration,
    pub(crate) server_cpu: Duration,
    pub(crate) client_cpu: Duration,
}

/// What some rounds have come to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// The median of the rounds.
    pub(crate) per_second: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    /// Medians of the rounds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time for each operation, in microseconds.
    pub(crate) server_cpu_us: f64,
    pub(crate) client_cpu_us: f64,
    /// How many processors the server kept busy.
    pub(crate) server_cores: f64,
    pub(crate) operations: usize,
}

impl Round {
    /// Does a round and measures it.
    pub(crate) async fn of<F>(side: &Side, round: F) -> anyhow::Result<Round>
    where
        F: Future<Output = anyhow::Result<Vec<u32>>>,
    {
        let (server, client) = (side.cpu()?, cpu_of(std::process::id())?);
        let start = std::time::Instant::now();
        let latencies = round.await?;
        Ok(Round {
            latencies,
            took: start.elapsed(),
            server_cpu: side.cpu()?.saturating_sub(server),
            client_cpu: cpu_of(std::process::id())?.saturating_sub(client),
        })
    }

    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    fn percentile(&mut self, percent: usize) -> f64 {
        if self.latencies.is_empty() {
            return 0.0;
        }
        let at = (self.latencies.len() - 1) * percent / 100;
        let (_, value, _) = self.latencies.select_nth_unstable(at);
        f64::from(*value) / 1000.0
    }
}

impl Figures {
    pub(crate) fn of(mut rounds: Vec<Round>) -> Figures {
        let operations: usize = rounds.iter().map(|round| round.latencies.len()).sum();
        let each = |total: Duration| total.as_secs_f64() * 1e6 / operations.max(1) as f64;
        let mut rates: Vec<f64> = rounds.iter().map(Round::per_second).collect();
        let took: Duration = rounds.iter().map(|round| round.took).sum();
        let server: Duration = rounds.iter().map(|round| round.server_cpu).sum();
        let client: Duration = rounds.iter().map(|round| round.client_cpu).sum();
        let mut p50: Vec<f64> = rounds
            .iter_mut()
            .map(|round| round.percentile(50))
            .collect();
        let mut p99: Vec<f64> = rounds
            .iter_mut()
            .map(|round| round.percentile(99))
            .collect();
        Figures {
            per_second: median(&mut rates),
            lowest: rates.first().copied().unwrap_or_default(),
            highest: rates.last().copied().unwrap_or_default(),
            p50_us: median(&mut p50),
            p99_us: median(&mut p99),
            server_cpu_us: each(server),
            client_cpu_us: each(client),
            server_cores: server.as_secs_f64() / took.as_secs_f64(),
            operations,
        }
    }
}

/// Sorts, and gives the middle.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Nanoseconds since `start`.
pub(crate) fn since(start: std::time::Instant) -> u32 {
    u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX)
}
