//! The end of the faults: every daemon compares its members with each other, and finds nothing.
//!
//! No copy is damaged in a history, so whatever a scrub finds is a mistake: of what was written, of what a
//! recovery copied, or of the scrub itself. What scrubs of operators have found before is kept until it is mended,
//! and would be told of as what needs attention.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::trace;
use super::world::World;
use crate::admin::api::{AdminApi, JobMemberState, JobState, ScrubRequest};

/// How long it may take, with all that has to end before one can begin.
const SCRUBBED_AFTER: Duration = Duration::from_mins(5);

impl World {
    /// One daemon after the other, while clients go on.
    pub(super) async fn scrub_all(self: &Arc<Self>) {
        for daemon in 0..self.daemons() {
            let Some(whole) = self.whole(daemon) else {
                return trace::fail(format!("d{} does not run any more", daemon + 1));
            };
            let (ended, waits) = tokio::sync::oneshot::channel();
            let api = whole.api();
            let members = self.shape.members.len();
            let scrubbing = self.in_daemon(daemon, async move {
                ended.send(scrub(&*api, members).await).ok();
            });
            let told = match scrubbing {
                Some(_) => waits
                    .await
                    .unwrap_or_else(|_| Err("it has died".to_owned())),
                None => Err("it does not run any more".to_owned()),
            };
            match told {
                Ok(what) => trace::note(format!("d{} has scrubbed: {what}", daemon + 1)),
                Err(why) => trace::fail(format!("the scrub of d{}: {why}", daemon + 1)),
            }
        }
    }
}

/// Says what was compared, or what is wrong.
async fn scrub(api: &dyn AdminApi, members: usize) -> Result<String, String> {
    let deadline = Instant::now() + SCRUBBED_AFTER;
    // A pack, a recovery or an operator's scrub may have to end first.
    let begun = loop {
        match api.scrub("main", ScrubRequest::default()).await {
            Ok(job) => break job.id,
            Err(problem) if Instant::now() > deadline => return Err(problem.to_string()),
            Err(_) => sleep(Duration::from_millis(500)).await,
        }
    };
    let job = loop {
        let job = api.job(&begun).await.map_err(|error| error.to_string())?;
        if job.ended.is_some() {
            break job;
        }
        if Instant::now() > deadline {
            return Err(format!("it does not end: {job:?}"));
        }
        sleep(Duration::from_millis(50)).await;
    };
    let compared = job.members.iter();
    let compared = compared.filter(|member| member.state == JobMemberState::Done);
    let (compared, found) = (compared.count(), job.scrub.as_ref());
    let clean = found.is_some_and(|found| found.differences == 0 && found.suspects.is_empty());
    if job.state != JobState::Done || compared != members || !clean {
        return Err(format!("{job:?}"));
    }
    let status = api.status().await.map_err(|error| error.to_string())?;
    for array in &status.arrays {
        if let Some(attention) = &array.attention {
            return Err(format!("it wants attention: {attention}"));
        }
    }
    let found = found.map_or((0, 0), |found| (found.transactions, found.blobs));
    let (transactions, blobs) = found;
    Ok(format!(
        "{transactions} transactions and {blobs} blobs of {compared} members"
    ))
}
