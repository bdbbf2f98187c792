//! Watching a job of the daemon to its end: a bar, and what Ctrl-C means meanwhile.

use std::time::Duration;

use super::leaving::{self, Wish};
use crate::admin::api::{AdminApi, Job, JobKind, JobState};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::progress;

/// Jobs take minutes, or hours.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What kind of job is watched.
pub(super) struct Kind {
    pub(super) of: JobKind,
    /// `the pack`.
    pub(super) name: &'static str,
    /// The command that comes back to it with `--attach`, and ends it with `--cancel`.
    pub(super) command: &'static str,
}

/// How the watching ended.
pub(super) enum Followed {
    Ended(Box<Job>),
    /// It goes on without us; that was said.
    Left,
    /// It was cancelled from here, which is not said yet; it may go on for a while.
    Cancelled(Box<Job>),
}

impl Kind {
    /// The one that runs, where one does.
    pub(super) async fn running(
        &self,
        api: &dyn AdminApi,
        array: &str,
    ) -> Result<Option<Job>, CliError> {
        let jobs = api.jobs().await?;
        let is_it =
            |job: &Job| job.kind == self.of && job.array == array && job.state == JobState::Running;
        Ok(jobs.into_iter().find(is_it))
    }

    /// The one that runs, or the last.
    pub(super) async fn last(
        &self,
        api: &dyn AdminApi,
        array: &str,
    ) -> Result<Option<Job>, CliError> {
        let jobs = api.jobs().await?;
        let is_it = |job: &Job| job.kind == self.of && job.array == array;
        Ok(jobs.into_iter().find(is_it))
    }

    /// Shows how far it is until it has ended, or the person leaves.
    pub(super) async fn follow(
        &self,
        api: &dyn AdminApi,
        mut job: Job,
        context: &Context,
    ) -> Result<Followed, CliError> {
        let mut ctrl_c = context.interrupts.claim()?;
        let mut display = progress::display(&context.printer, "");
        while job.state == JobState::Running {
            display.show(&(&job).into());
            // Both may be dropped: a sleep holds nothing, and a press is kept until it is asked for.
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = ctrl_c.pressed() => {
                    display.end(false);
                    match leaving::ask(self.name, self.command, context)? {
                        Wish::Leave => return Ok(Followed::Left),
                        Wish::Cancel => {
                            api.cancel_job(&job.id).await?;
                            return Ok(Followed::Cancelled(Box::new(job)));
                        }
                        Wish::GoOn => display = progress::display(&context.printer, ""),
                    }
                    // A new claim: presses that the question has dealt with are not told again.
                    ctrl_c = context.interrupts.claim()?;
                }
            }
            job = api.job(&job.id).await?;
        }
        display.end(job.state == JobState::Done);
        Ok(Followed::Ended(Box::new(job)))
    }
}
