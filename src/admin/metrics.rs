//! `GET /metrics`: figures for Prometheus.
//!
//! What is counted where it happens goes through the `metrics` facade into the recorder that
//! [`Metrics::install`] sets. What describes the present state is made new at each scrape from the
//! same details that the commands show, so that both agree and a member that is gone leaves nothing
//! behind.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::api::{ArrayDetails, ArrayState, MemberState, Status};

/// The recorder's other end. Clones are the same one.
#[derive(Clone, Default)]
pub struct Metrics {
    recorded: Option<PrometheusHandle>,
}

/// Histograms are of seconds, from a tenth of a millisecond to ten seconds.
const BUCKETS: &[f64] = &[
    0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0,
];

const ARRAY_STATES: &[(ArrayState, &str)] = &[
    (ArrayState::Optimal, "optimal"),
    (ArrayState::Recovering, "recovering"),
    (ArrayState::Degraded, "degraded"),
    (ArrayState::Failed, "failed"),
];

const MEMBER_STATES: &[(MemberState, &str)] = &[
    (MemberState::Optimal, "optimal"),
    (MemberState::Recovering, "recovering"),
    (MemberState::Degraded, "degraded"),
];

impl Metrics {
    /// Collects what this process counts from now on. Only the first in a process does; a later one
    /// shows the present state alone.
    #[must_use]
    pub fn install() -> Metrics {
        let recorder = PrometheusBuilder::new()
            .set_buckets(BUCKETS)
            .unwrap_or_default()
            .build_recorder();
        let handle = recorder.handle();
        let installed = metrics::set_global_recorder(recorder).is_ok();
        Metrics {
            recorded: installed.then_some(handle),
        }
    }

    /// The text of a scrape.
    pub(super) fn render(&self, status: &Status, arrays: &[ArrayDetails]) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            describe();
            state_of_daemon(status);
            arrays.iter().for_each(state_of_array);
        });
        let mut text = recorder.handle().render();
        if let Some(recorded) = &self.recorded {
            recorded.run_upkeep();
            text.push_str(&recorded.render());
        }
        text
    }
}

fn state_of_daemon(status: &Status) {
    gauge!("zeoraid_build_info", "version" => status.version.clone()).set(1.0);
    gauge!("zeoraid_uptime_seconds").set(status.uptime_s as f64);
    gauge!("zeoraid_ready").set(f64::from(u8::from(status.ready)));
    for (limit, count) in &status.limits_passed {
        counter!("zeoraid_limits_passed_total", "limit" => limit.clone()).absolute(*count);
    }
}

fn state_of_array(array: &ArrayDetails) {
    let name = || array.name.clone();
    for (state, word) in ARRAY_STATES {
        let is = f64::from(u8::from(array.state == *state));
        gauge!("zeoraid_array_state", "array" => name(), "state" => *word).set(is);
    }
    for (state, word) in MEMBER_STATES {
        let members = array.members.iter();
        let count = members.filter(|member| member.state == *state).count();
        gauge!("zeoraid_array_members", "array" => name(), "state" => *word).set(count as f64);
    }
    gauge!("zeoraid_array_serving", "array" => name()).set(f64::from(u8::from(array.serving)));
    gauge!("zeoraid_array_epoch", "array" => name()).set(array.epoch as f64);
    gauge!("zeoraid_array_objects", "array" => name()).set(array.objects as f64);
    gauge!("zeoraid_array_size_bytes", "array" => name()).set(array.bytes as f64);
    // Where nothing was ever compared nothing is known to be wrong; an alert on it must find the figure.
    let unmended = array.last_scrub.as_ref();
    let unmended = unmended.map_or(0, |scrub| scrub.suspects.len() + scrub.undecided.len());
    gauge!("zeoraid_scrub_unmended_members", "array" => name()).set(unmended as f64);
    if let Some(scrub) = &array.last_scrub {
        let ended = scrub.ended.as_millisecond() as f64 / 1000.0;
        gauge!("zeoraid_scrub_ended_timestamp_seconds", "array" => name()).set(ended);
        gauge!("zeoraid_scrub_differences", "array" => name()).set(scrub.differences as f64);
    }
    gauge!("zeoraid_clients", "array" => name()).set(array.clients as f64);
    let lock = &array.commit_lock;
    gauge!("zeoraid_commit_lock_waiters", "array" => name()).set(lock.waiting as f64);
    counter!("zeoraid_loads_total", "array" => name()).absolute(array.loads);
    counter!("zeoraid_commits_total", "array" => name()).absolute(array.commits);
    for member in &array.members {
        let labels = || [("array", name()), ("member", member.name.clone())];
        for (state, word) in MEMBER_STATES {
            let is = f64::from(u8::from(member.state == *state));
            let [array, member] = labels();
            gauge!(
                "zeoraid_member_state",
                &[array, member, ("state", (*word).to_owned())]
            )
            .set(is);
        }
        if let Some(lag) = member.lag {
            gauge!("zeoraid_member_lag_transactions", &labels()).set(lag.transactions as f64);
            gauge!("zeoraid_member_lag_bytes", &labels()).set(lag.bytes as f64);
        } else if member.state == MemberState::Optimal {
            gauge!("zeoraid_member_lag_transactions", &labels()).set(0.0);
            gauge!("zeoraid_member_lag_bytes", &labels()).set(0.0);
        }
        if let Some(time) = member.last.as_ref().and_then(|last| last.time) {
            let seconds = time.as_millisecond() as f64 / 1000.0;
            gauge!("zeoraid_member_last_tid_timestamp_seconds", &labels()).set(seconds);
        }
        if let Some(latency) = member.latency_ms {
            gauge!("zeoraid_member_latency_seconds", &labels()).set(latency / 1000.0);
        }
        counter!("zeoraid_member_reads_total", &labels()).absolute(member.reads);
        counter!("zeoraid_member_faults_total", &labels()).absolute(member.faults);
    }
    if let Some(recovery) = &array.recovery {
        let labels = || [("array", name()), ("member", recovery.member.clone())];
        let total = recovery.total.bytes.max(1) as f64;
        let ratio = (recovery.done.bytes as f64 / total).min(1.0);
        gauge!("zeoraid_recovery_progress_ratio", &labels()).set(ratio);
        gauge!("zeoraid_recovery_done_bytes", &labels()).set(recovery.done.bytes as f64);
        if let Some(left) = recovery.time_left_s {
            gauge!("zeoraid_recovery_eta_seconds", &labels()).set(left as f64);
        }
    }
}

fn describe() {
    describe_gauge!("zeoraid_build_info", "The version that runs");
    describe_gauge!(
        "zeoraid_uptime_seconds",
        Unit::Seconds,
        "Since the daemon started"
    );
    describe_gauge!("zeoraid_ready", "1 while every array serves clients");
    describe_counter!(
        "zeoraid_limits_passed_total",
        "How often clients have passed a limit"
    );
    describe_gauge!(
        "zeoraid_array_state",
        "1 for the state that the array is in"
    );
    describe_gauge!("zeoraid_array_members", "Members in each state");
    describe_gauge!("zeoraid_array_serving", "1 while clients are served");
    describe_gauge!("zeoraid_array_epoch", "Changes of the in-sync set");
    describe_gauge!(
        "zeoraid_scrub_ended_timestamp_seconds",
        Unit::Seconds,
        "When the last scrub ended, since 1970"
    );
    describe_gauge!("zeoraid_scrub_differences", "What the last scrub found");
    describe_gauge!(
        "zeoraid_scrub_unmended_members",
        "Members that the last scrub found wrong, or of which it could not tell, and that are not mended"
    );
    describe_gauge!("zeoraid_array_objects", "Objects in the array");
    describe_gauge!("zeoraid_array_size_bytes", Unit::Bytes, "Size of one copy");
    describe_gauge!("zeoraid_clients", "Clients that are connected");
    describe_gauge!(
        "zeoraid_commit_lock_waiters",
        "Transactions that wait for the commit lock"
    );
    describe_counter!("zeoraid_loads_total", "Records loaded by clients");
    describe_counter!("zeoraid_commits_total", "Transactions finished");
    describe_gauge!(
        "zeoraid_member_state",
        "1 for the state that the member is in"
    );
    describe_gauge!(
        "zeoraid_member_lag_transactions",
        "Transactions that the member lacks"
    );
    describe_gauge!(
        "zeoraid_member_lag_bytes",
        Unit::Bytes,
        "What the member lacks"
    );
    describe_gauge!(
        "zeoraid_member_last_tid_timestamp_seconds",
        Unit::Seconds,
        "Time of the member's last transaction"
    );
    describe_gauge!(
        "zeoraid_member_latency_seconds",
        Unit::Seconds,
        "Mean time of an answer"
    );
    describe_counter!("zeoraid_member_reads_total", "Reads answered by the member");
    describe_counter!("zeoraid_member_faults_total", "Faults of the member");
    describe_gauge!(
        "zeoraid_recovery_progress_ratio",
        "Done of the present phase"
    );
    describe_gauge!(
        "zeoraid_recovery_done_bytes",
        Unit::Bytes,
        "Done in the present phase"
    );
    describe_gauge!(
        "zeoraid_recovery_eta_seconds",
        Unit::Seconds,
        "Left of the present phase"
    );
}
