//! What members answer to a vote, and which answers say the same.
//!
//! INVARIANT 8 compares what members say. Members of different makes say the same thing in different
//! words: a ZEO server that does not leave conflicts to its clients answers with the first conflict, a
//! file storage lists them all; texts differ, and so does the order of objects.

use std::collections::HashSet;

use super::Ballot;
use crate::storage::{Answer, may_be_a_part};
use crate::zodb::{Conflict, Oid, Tid};

impl Ballot {
    /// Whether both say the same to the client.
    pub(super) fn agrees_with(&self, other: &Ballot) -> bool {
        match (self, other) {
            (Ballot::Ready { resolved: ours }, Ballot::Ready { resolved: theirs }) => {
                sorted(ours) == sorted(theirs)
            }
            (Ballot::Conflicts(ours), Ballot::Conflicts(theirs)) => same_conflicts(ours, theirs),
            (Ballot::Conflicts(conflicts), Ballot::No(Answer::Conflict(one)))
            | (Ballot::No(Answer::Conflict(one)), Ballot::Conflicts(conflicts)) => {
                conflicts.iter().any(|conflict| conflict.oid == one.oid)
            }
            (Ballot::No(ours), Ballot::No(theirs)) => same_refusal(ours, theirs),
            _ => false,
        }
    }

    /// Whether one has resolved a conflict that the other leaves to the client: the members are set up
    /// differently, and neither is wrong.
    pub(super) fn resolves_otherwise(&self, other: &Ballot) -> bool {
        let resolved = |ballot: &Ballot| match ballot {
            Ballot::Ready { resolved } => resolved.clone(),
            _ => Vec::new(),
        };
        let left = |ballot: &Ballot| match ballot {
            Ballot::Conflicts(conflicts) => conflicts.iter().map(|it| it.oid).collect(),
            Ballot::No(Answer::Conflict(conflict)) => vec![conflict.oid],
            _ => Vec::new(),
        };
        let overlap =
            |resolved: Vec<Oid>, left: Vec<Oid>| left.iter().any(|oid| resolved.contains(oid));
        overlap(resolved(self), left(other)) || overlap(resolved(other), left(self))
    }

    /// The refusal, where one can undo what the other cannot: what one member has packed away and the other
    /// has not yet. Neither is wrong, and it is not undone.
    pub(super) fn undoes_otherwise(&self, other: &Ballot) -> Option<Answer> {
        match (self, other) {
            (
                Ballot::Ready { .. },
                Ballot::No(answer @ (Answer::Undo { .. } | Answer::MultipleUndo(_))),
            )
            | (
                Ballot::No(answer @ (Answer::Undo { .. } | Answer::MultipleUndo(_))),
                Ballot::Ready { .. },
            ) => Some(answer.clone()),
            _ => None,
        }
    }

    /// The refusal, where it is that of a whole transaction, which one can undo and the other has packed: members
    /// are packed one after the other, and who was out meanwhile is not. That is no disagreement.
    pub(super) fn has_packed_what_is_undone(&self, other: &Ballot) -> Option<Answer> {
        let answer = self.undoes_otherwise(other)?;
        matches!(answer, Answer::Undo { oid: None, .. }).then_some(answer)
    }

    /// The one of two that agree which the client is told: a conflict that one member does not leave to
    /// the client is none that the client may resolve.
    pub(super) fn stricter(self, other: Ballot) -> Ballot {
        match (&self, &other) {
            (Ballot::Conflicts(_), Ballot::No(_)) => other,
            _ => self,
        }
    }

    /// The last transaction that a refusal names as what the member holds.
    pub(super) fn names(&self) -> Option<Tid> {
        match self {
            Ballot::Conflicts(conflicts) => conflicts.iter().map(|it| it.committed).max(),
            Ballot::No(Answer::Conflict(conflict) | Answer::ReadConflict(conflict)) => {
                Some(conflict.committed)
            }
            Ballot::Ready { .. } | Ballot::No(_) => None,
        }
    }

    pub(super) fn in_words(&self) -> String {
        match self {
            Ballot::Ready { resolved } if resolved.is_empty() => "yes".into(),
            Ballot::Ready { resolved } => format!("yes, {} resolved or undone", resolved.len()),
            Ballot::Conflicts(conflicts) => {
                crate::counted::counted(conflicts.len() as u64, "conflict")
            }
            Ballot::No(answer) => format!("no: {answer}"),
        }
    }
}

fn sorted(oids: &[Oid]) -> Vec<Oid> {
    let mut oids = oids.to_vec();
    oids.sort_unstable();
    oids.dedup();
    oids
}

/// One may list all where the other lists as many as a client is told at once.
fn same_conflicts(ours: &[Conflict], theirs: &[Conflict]) -> bool {
    let (fewer, more) = if ours.len() <= theirs.len() {
        (ours, theirs)
    } else {
        (theirs, ours)
    };
    if fewer.len() < more.len() && !may_be_a_part(fewer) {
        return false;
    }
    let what = |conflict: &Conflict| (conflict.oid, conflict.committed, conflict.read);
    let more: HashSet<_> = more.iter().map(what).collect();
    fewer.iter().all(|conflict| more.contains(&what(conflict)))
}

/// The text of a refusal is each make's own.
fn same_refusal(ours: &Answer, theirs: &Answer) -> bool {
    match (ours, theirs) {
        (Answer::Conflict(ours), Answer::Conflict(theirs))
        | (Answer::ReadConflict(ours), Answer::ReadConflict(theirs)) => same_conflict(ours, theirs),
        (
            Answer::Undo { .. } | Answer::MultipleUndo(_),
            Answer::Undo { .. } | Answer::MultipleUndo(_),
        ) => true,
        (Answer::Other { class: ours, .. }, Answer::Other { class: theirs, .. }) => ours == theirs,
        (Answer::NoSuchObject(ours), Answer::NoSuchObject(theirs)) => ours == theirs,
        (ours, theirs) => std::mem::discriminant(ours) == std::mem::discriminant(theirs),
    }
}

/// With several conflicts each member may name another one first.
fn same_conflict(ours: &Conflict, theirs: &Conflict) -> bool {
    ours.oid != theirs.oid || ours == theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(oid: u64) -> Conflict {
        Conflict::new(Oid(oid), Tid(7), Tid(5))
    }

    fn ready(resolved: &[u64]) -> Ballot {
        let resolved = resolved.iter().copied().map(Oid).collect();
        Ballot::Ready { resolved }
    }

    #[test]
    fn what_is_said_in_other_words_is_the_same() {
        let listed = Ballot::Conflicts(vec![conflict(1), conflict(2)]);
        let other_order = Ballot::Conflicts(vec![conflict(2), conflict(1)]);
        let first = Ballot::No(Answer::Conflict(conflict(2)));
        assert!(listed.agrees_with(&other_order));
        assert!(listed.agrees_with(&first) && first.agrees_with(&listed));
        assert!(!listed.agrees_with(&Ballot::Conflicts(vec![conflict(1)])));
        assert!(!listed.agrees_with(&ready(&[])));
        assert!(ready(&[1, 2]).agrees_with(&ready(&[2, 1])));
        assert!(!ready(&[1]).agrees_with(&ready(&[])));
        assert_eq!(listed.stricter(first.clone()), first);
        let undo = |reason: &str| {
            Ballot::No(Answer::Undo {
                reason: reason.into(),
                oid: None,
            })
        };
        assert!(undo("one text").agrees_with(&undo("another")));
        assert!(!undo("one text").agrees_with(&Ballot::No(Answer::ReadOnly)));
    }

    #[test]
    fn who_lists_as_many_conflicts_as_are_told_at_once_agrees_with_who_lists_all() {
        let conflicts = |count: u64| Ballot::Conflicts((0..count).map(conflict).collect());
        let (part, all) = (conflicts(1 << 16), conflicts(100_000));
        assert!(part.agrees_with(&all) && all.agrees_with(&part));
        let others = Ballot::Conflicts((1..=1 << 16).map(conflict).collect());
        assert!(others.agrees_with(&all));
        assert!(!others.agrees_with(&conflicts(1 << 16)));
        assert!(
            !conflicts(60_000).agrees_with(&all),
            "it would have told more"
        );
    }

    #[test]
    fn who_resolves_and_who_does_not_are_told_apart_from_who_is_wrong() {
        let left = Ballot::Conflicts(vec![conflict(1)]);
        assert!(ready(&[1]).resolves_otherwise(&left));
        assert!(left.resolves_otherwise(&ready(&[1])));
        assert!(!ready(&[2]).resolves_otherwise(&left));
        assert!(!ready(&[]).resolves_otherwise(&left));
    }

    #[test]
    fn who_has_packed_and_who_has_not_are_both_right() {
        let reason = "Invalid transaction id".to_owned();
        let refusal = Answer::Undo { reason, oid: None };
        let packed = Ballot::No(refusal.clone());
        assert_eq!(ready(&[1]).undoes_otherwise(&packed), Some(refusal.clone()));
        assert_eq!(packed.undoes_otherwise(&ready(&[1])), Some(refusal));
        assert_eq!(packed.undoes_otherwise(&Ballot::No(Answer::ReadOnly)), None);
        assert_eq!(ready(&[1]).undoes_otherwise(&ready(&[])), None);
    }

    #[test]
    fn only_who_refuses_a_whole_transaction_may_have_packed_it() {
        let refusal = |oid| {
            Ballot::No(Answer::Undo {
                reason: "a text".to_owned(),
                oid,
            })
        };
        let whole = ready(&[1]).has_packed_what_is_undone(&refusal(None));
        assert!(matches!(whole, Some(Answer::Undo { .. })), "{whole:?}");
        let changed = ready(&[1]).has_packed_what_is_undone(&refusal(Some(Oid(1))));
        assert_eq!(changed, None, "an object was changed on one of them only");
        let several = Ballot::No(Answer::MultipleUndo(Vec::new()));
        assert_eq!(several.has_packed_what_is_undone(&ready(&[1])), None);
    }
}
