//! The handle of an array.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::options::{ArrayOptions, MemberSpec};
use super::report::{AnalysisReport, ArrayReport, Refused, Serving, Strategy};
use super::{NoticeSink, RecordError, RecordStore};
use crate::job::Rate;
use crate::task::StillRunning;

/// An array. Clones are handles of the same one.
#[derive(Clone)]
pub struct Array {}

impl Array {
    /// Starts the array: reads the membership record and opens the members in the background. It
    /// serves when [`serving`](Self::serving) says so.
    ///
    /// # Errors
    /// Where the membership record cannot be read or is another array's.
    pub async fn start(
        options: ArrayOptions,
        members: Vec<MemberSpec>,
        record: Arc<dyn RecordStore>,
        notices: NoticeSink,
    ) -> Result<Array, RecordError> {
        let _ = (options, members, record, notices);
        Ok(Array {})
    }

    /// Whether clients can be served, and its changes.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<Serving> {
        unreachable!()
    }

    /// Everything that there is to say.
    #[must_use]
    pub fn report(&self) -> ArrayReport {
        unreachable!()
    }

    /// Recovers a member, at once or after the recoveries that were asked for before.
    pub async fn recover(
        &self,
        member: &str,
        strategy: Strategy,
        rate: Option<Rate>,
    ) -> Result<(), Refused> {
        let _ = (member, strategy, rate);
        unreachable!()
    }

    /// Changes the speed of the recovery that runs.
    pub async fn set_recovery_rate(&self, rate: Rate) -> Result<(), Refused> {
        let _ = rate;
        unreachable!()
    }

    /// Cancels the recovery that runs, and those that wait.
    pub async fn cancel_recovery(&self) -> Result<(), Refused> {
        unreachable!()
    }

    /// Finds out what a recovery of this member would have to do, and changes nothing.
    pub async fn analyse(&self, member: &str) -> Result<AnalysisReport, Refused> {
        let _ = member;
        unreachable!()
    }

    /// Takes a member out until an operator recovers it, and closes it.
    pub async fn disable(&self, member: &str) -> Result<(), Refused> {
        let _ = member;
        unreachable!()
    }

    /// Adds and removes members so that they are these: new ones are degraded and recovered, those
    /// with another fingerprint are opened anew. With `dry_run` only says what it would do.
    ///
    /// # Errors
    /// Where no optimal member would remain; then nothing is done.
    pub async fn set_members(
        &self,
        members: Vec<MemberSpec>,
        dry_run: bool,
    ) -> Result<(Vec<String>, Vec<String>), Refused> {
        let _ = (members, dry_run);
        unreachable!()
    }

    /// Stops: no commit begins, those in hand are finished, jobs and members are closed.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), StillRunning> {
        let _ = deadline;
        unreachable!()
    }
}
