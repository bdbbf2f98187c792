//! What the last scrub found, kept until it is mended: a copy that the others contradict must not be
//! forgotten because nobody looked at the answer, or because the daemon was started again.
//!
//! It lies beside the membership record and says nothing of membership: who is contradicted stays in the
//! in-sync set until an operator takes it out.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::raid::RecordStore;
use crate::raid::runner::Runner;
use crate::zodb::Tid;

/// The last scrub that came to its end, and what is left of what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    pub ended: Timestamp,
    /// Up to here was compared.
    pub head: Tid,
    pub transactions: u64,
    pub blobs: u64,
    /// How many it found.
    pub differences: u64,
    /// Those that were compared to the end.
    pub members: Vec<String>,
    /// Those that were not.
    pub left_out: Vec<String>,
    /// Members that more than half of the others contradict, or that cannot read what they hold; of an
    /// earlier scrub where this one did not compare them to the end.
    pub suspects: Vec<String>,
    /// Members of which as many say one thing as another. One of them alone contradicts nobody.
    pub undecided: Vec<String>,
    /// Those that were made anew since.
    pub mended: Vec<String>,
}

impl Scrubbed {
    /// Whether something is left that an operator has to mend.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        !self.suspects.is_empty() || self.undecided.len() > 1
    }

    /// What an operator has to mend, in a sentence.
    #[must_use]
    pub fn attention(&self) -> Option<String> {
        let (names, what) = match (self.suspects.as_slice(), self.needs_attention()) {
            (_, false) => return None,
            ([], true) => (&self.undecided, "differ"),
            ([_], true) => (&self.suspects, "is wrong"),
            (_, true) => (&self.suspects, "are wrong"),
        };
        Some(format!(
            "the last scrub found that {} {what}",
            names.join(", ")
        ))
    }

    /// Takes over what an earlier one found of members that this one did not compare.
    pub(super) fn after(mut self, earlier: Option<&Scrubbed>) -> Self {
        let Some(earlier) = earlier else { return self };
        let was_compared = |name: &String| self.members.contains(name);
        let more = earlier.suspects.iter().filter(|name| !was_compared(name));
        let more: Vec<String> = more.cloned().collect();
        if !earlier.undecided.iter().all(was_compared) {
            add(&mut self.undecided, &earlier.undecided);
        }
        add(&mut self.suspects, &more);
        self
    }

    /// A member was compared with another one, or made anew from it, as a whole: it is as right as that.
    /// Says whether that changes anything.
    pub(super) fn mend(&mut self, member: &str, source: &str) -> bool {
        let before = self.clone();
        if self.suspects.iter().any(|name| name == source) {
            add(&mut self.suspects, &[member.to_owned()]);
        } else if self.doubts(member) {
            self.suspects.retain(|name| name != member);
            self.undecided.retain(|name| name != member);
            add(&mut self.mended, &[member.to_owned()]);
        }
        if self.undecided.len() < 2 {
            self.undecided.clear();
        }
        *self != before
    }

    pub(super) fn doubts(&self, member: &str) -> bool {
        let mut names = self.suspects.iter().chain(&self.undecided);
        names.any(|name| name == member)
    }

    /// The same, of members that there still are.
    pub(in crate::raid) fn of(mut self, is_member: impl Fn(&str) -> bool) -> Self {
        self.suspects.retain(|name| is_member(name));
        self.undecided.retain(|name| is_member(name));
        self
    }

    pub(in crate::raid) fn load(path: &Path) -> std::io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Kept::V1(kept) = serde_json::from_str(&text)?;
        Ok(Some(kept.into()))
    }

    pub(in crate::raid) fn save(self, path: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&Kept::V1(self.into()))?;
        text.push(b'\n');
        crate::durable::write(path, &text)
    }
}

/// Writes what the last scrub found whenever that changes. That it cannot be written is told in the log: then
/// it is known until the daemon ends.
pub(in crate::raid) async fn keep_scrubbed(
    runner: Arc<Runner>,
    store: Arc<dyn RecordStore>,
    mut found: watch::Receiver<Option<Scrubbed>>,
) {
    let stop = runner.tasks.stop().clone();
    loop {
        // Nothing is lost where a branch is dropped: the channel keeps the newest.
        tokio::select! {
            biased;
            changed = found.changed() => if changed.is_err() { return },
            () = stop.requested() => return,
        }
        let Some(scrubbed) = found.borrow_and_update().clone() else {
            continue;
        };
        let writer = Arc::clone(&store);
        let written = crate::task::blocking(move || writer.save_scrubbed(&scrubbed)).await;
        let written = written.unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
        if let Err(error) = written {
            let array = runner.options.name.as_str();
            tracing::warn!(array, %error, "what the last scrub found could not be written");
        }
    }
}

/// Adds those names that are not there yet.
fn add(names: &mut Vec<String>, more: &[String]) {
    for name in more {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
}

/// As it lies on the disk. A new version is a new variant, and `load` converts the old.
#[derive(Serialize, Deserialize)]
#[serde(tag = "version")]
enum Kept {
    #[serde(rename = "1")]
    V1(KeptV1),
}

#[derive(Serialize, Deserialize)]
struct KeptV1 {
    ended: Timestamp,
    head: u64,
    transactions: u64,
    blobs: u64,
    differences: u64,
    members: Vec<String>,
    left_out: Vec<String>,
    suspects: Vec<String>,
    undecided: Vec<String>,
    mended: Vec<String>,
}

impl From<Scrubbed> for KeptV1 {
    fn from(scrubbed: Scrubbed) -> Self {
        KeptV1 {
            ended: scrubbed.ended,
            head: scrubbed.head.0,
            transactions: scrubbed.transactions,
            blobs: scrubbed.blobs,
            differences: scrubbed.differences,
            members: scrubbed.members,
            left_out: scrubbed.left_out,
            suspects: scrubbed.suspects,
            undecided: scrubbed.undecided,
            mended: scrubbed.mended,
        }
    }
}

impl From<KeptV1> for Scrubbed {
    fn from(kept: KeptV1) -> Self {
        Scrubbed {
            ended: kept.ended,
            head: Tid(kept.head),
            transactions: kept.transactions,
            blobs: kept.blobs,
            differences: kept.differences,
            members: kept.members,
            left_out: kept.left_out,
            suspects: kept.suspects,
            undecided: kept.undecided,
            mended: kept.mended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(members: &[&str], suspects: &[&str], undecided: &[&str]) -> Scrubbed {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Scrubbed {
            ended: Timestamp::UNIX_EPOCH,
            head: Tid(7),
            transactions: 7,
            blobs: 1,
            differences: 2,
            members: names(members),
            left_out: Vec::new(),
            suspects: names(suspects),
            undecided: names(undecided),
            mended: Vec::new(),
        }
    }

    #[test]
    fn a_later_scrub_clears_what_it_compared_and_nothing_else() {
        let all = ["a", "b", "c"];
        let earlier = found(&all, &["c"], &[]);
        let later = found(&all, &[], &[]).after(Some(&earlier));
        assert!(!later.needs_attention());
        // `c` was out: nobody looked at it.
        let later = found(&["a", "b"], &[], &[]).after(Some(&earlier));
        assert_eq!(later.suspects, ["c"]);
        let undecided = found(&["a", "b"], &[], &["a", "b"]);
        let later = found(&["a", "c"], &[], &[]).after(Some(&undecided));
        assert_eq!(later.undecided, ["a", "b"]);
        assert!(
            !found(&["a", "b"], &[], &[])
                .after(Some(&undecided))
                .needs_attention()
        );
    }

    #[test]
    fn what_is_made_anew_is_as_right_as_where_it_comes_from() {
        let mut one = found(&["a", "b", "c"], &["c"], &[]);
        // `b` says now what `c` says.
        assert!(one.mend("b", "c"));
        assert_eq!(one.suspects, ["c", "b"]);
        assert!(one.mend("c", "a"));
        assert!(one.mend("b", "a"));
        assert!(!one.needs_attention());
        assert_eq!(one.mended, ["c", "b"]);
        assert!(!one.mend("b", "a"), "nothing was wrong with it");
        let mut two = found(&["a", "b"], &[], &["a", "b"]);
        assert_eq!(
            two.attention().as_deref(),
            Some("the last scrub found that a, b differ")
        );
        assert!(two.mend("b", "a"));
        assert_eq!((two.attention(), two.undecided.len()), (None, 0));
        let mut three = found(&["a", "b", "c"], &[], &["a", "b", "c"]);
        assert!(three.mend("b", "a"));
        assert!(three.needs_attention(), "a and c still differ");
    }

    #[test]
    fn it_is_read_as_it_was_written_and_only_members_that_there_are_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.membership.scrub.json");
        assert_eq!(Scrubbed::load(&path).unwrap(), None);
        let one = found(&["a", "b"], &["b"], &[]);
        one.clone().save(&path).unwrap();
        assert_eq!(Scrubbed::load(&path).unwrap(), Some(one.clone()));
        assert!(!one.of(|name| name != "b").needs_attention());
        std::fs::write(&path, "{}").unwrap();
        Scrubbed::load(&path).unwrap_err();
    }
}
