//! Status and events tell the truth.
//!
//! What a daemon tells (its events, as an operator follows them) is put together and compared with what it says
//! when it is asked (its report). And there are events that nothing in a history gives a reason for: no copy is
//! damaged, no member lies, nobody touches a file behind a daemon's back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::trace;
use super::world::World;
use crate::admin::api::{Event, Events, Level};
use crate::raid::{ArrayReport, ArrayState, MemberState, RecoveryOutcome, Serving};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many times less often files are read.
const COPIES_EVERY: u32 = 10;

/// By daemon: what it has told in this life.
#[derive(Default)]
pub(super) struct Heard(Mutex<BTreeMap<usize, Told>>);

/// The picture that events alone give.
#[derive(Default, Debug)]
struct Told {
    /// Of this life.
    number: u64,
    /// The last event.
    last: u64,
    serving: bool,
    in_sync: BTreeSet<String>,
    /// Whose recovery has begun. One that is interrupted, and tried again, has no event of its end.
    recovering: Option<String>,
}

impl World {
    /// Looks at everything from outside, as long as the history goes on.
    pub(super) async fn look_on(self: Arc<Self>) {
        let mut looks = 0;
        while !self.is_over() {
            for daemon in 0..self.daemons() {
                self.hear(daemon);
            }
            if looks % COPIES_EVERY == 0 {
                self.look_at_copies();
            }
            looks += 1;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Takes in what a daemon has told since, and compares.
    fn hear(&self, daemon: usize) {
        let Some(whole) = self.whole(daemon) else {
            return;
        };
        let mut heard = self.heard.0.lock();
        let told = heard.entry(daemon).or_default();
        if told.number != whole.number() {
            *told = Told {
                number: whole.number(),
                ..Told::default()
            };
        }
        // Nothing goes on between the last event and the report.
        let stream = whole
            .api()
            .events(Events::Kept { after: told.last })
            .now_or_never();
        let Some(Ok(mut stream)) = stream else {
            return trace::fail("events are not given at once");
        };
        while let Some(Some(Ok(event))) = stream.next().now_or_never() {
            told.last = event.id;
            if let Err(why) = self
                .must_be_possible(daemon, &event)
                .and(told.take_in(&event))
            {
                trace::fail(format!(
                    "d{} tells `{}` of {:?}, {}: {why}",
                    daemon + 1,
                    event.kind,
                    event.member,
                    event.message
                ));
            }
        }
        if let Err(why) = told.compare(&whole.report()) {
            trace::fail(format!(
                "d{} says otherwise than it told: {why}",
                daemon + 1
            ));
        }
    }

    /// What has no reason in a history.
    fn must_be_possible(&self, daemon: usize, event: &Event) -> Result<(), &'static str> {
        match event.kind.as_str() {
            "disagreement" => Err("no member lies"),
            "member-degraded" if event.message.contains("voted differently") => {
                Err("no member lies")
            }
            "scrub-done" if event.level == Level::Error => Err("no copy is damaged"),
            "blobs-missing" => Err("no blob is lost"),
            "displaced" => Err("no file is touched"),
            "record-failed" if !self.excuses.has(&format!("d{}", daemon + 1)) => {
                Err("its disk is well")
            }
            _ => Ok(()),
        }
    }
}

impl Told {
    fn take_in(&mut self, event: &Event) -> Result<(), &'static str> {
        let member = || event.member.clone().ok_or("of which member?");
        match event.kind.as_str() {
            "serving" => {
                let from = event.message.strip_prefix("serving from ");
                let names = from.and_then(|from| from.split(" as of ").next());
                let names = names.ok_or("from whom?")?;
                self.in_sync = names.split(", ").map(str::to_owned).collect();
                self.serving = true;
            }
            "not-serving" => self.serving = false,
            "member-degraded" => {
                let was = self.in_sync.remove(&member()?);
                if self.serving && !was {
                    return Err("it was out already");
                }
            }
            "member-optimal" => {
                let was = !self.in_sync.insert(member()?);
                if was && self.serving {
                    return Err("it was optimal already");
                }
            }
            "member-added" | "member-removed" => {
                self.in_sync.remove(&member()?);
            }
            "recovery-started" => {
                let member = member()?;
                if self.serving && self.in_sync.contains(&member) {
                    return Err("it is optimal");
                }
                self.recovering = Some(member);
            }
            "recovery-done" | "recovery-cancelled" | "recovery-failed" => {
                let was = self.recovering.take();
                if event.kind == "recovery-done" && was != Some(member()?) {
                    return Err("it was never started");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// With what it says when it is asked.
    fn compare(&self, report: &ArrayReport) -> Result<(), String> {
        if is_shutting_down(report) {
            return Ok(());
        }
        let serves = report.serving == Serving::Yes;
        if serves != self.serving {
            return Err(format!("serving is {:?}", report.serving));
        }
        let optimal = report.members.iter();
        let optimal = optimal.filter(|member| member.state == MemberState::Optimal);
        let optimal: BTreeSet<&str> = optimal.map(|member| member.name.as_str()).collect();
        let all = optimal.len() == report.members.len();
        // Who joins is told of when the record is durable.
        let running = report.recovery.as_ref();
        let joins = running.filter(|recovery| recovery.outcome == RecoveryOutcome::Running);
        let joins = joins.map(|recovery| recovery.member.as_str());
        let state = report.state;
        let is_so = match state {
            ArrayState::Optimal => serves && all,
            // Who joins counts a moment before the record is durable, and is recovering until then.
            ArrayState::Recovering => joins.is_some() || serves && !all,
            ArrayState::Degraded => serves && !all,
            ArrayState::Failed => !serves,
        };
        if !is_so {
            return Err(format!("it is {state:?} with {optimal:?}, {serves}"));
        }
        if !serves {
            return Ok(());
        }
        let told: BTreeSet<&str> = self.in_sync.iter().map(String::as_str).collect();
        let differs: Vec<_> = told.symmetric_difference(&optimal).collect();
        let is_excused = |name: &str| joins == Some(name) && optimal.contains(name);
        if differs.iter().any(|name| !is_excused(name)) {
            return Err(format!("{optimal:?} are optimal, and {told:?} were told"));
        }
        Ok(())
    }
}

/// That is told to nobody, who would hear it a moment before the end of all events.
fn is_shutting_down(report: &ArrayReport) -> bool {
    let (Serving::No { reason } | Serving::ReadOnly { reason }) = &report.serving else {
        return false;
    };
    reason.contains("shutting down")
}
