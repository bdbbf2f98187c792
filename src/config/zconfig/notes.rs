//! What an import has to say besides the configuration: nothing of the old file is left out silently.

use crate::config::Mistake;

use super::tree::Place;

/// Something in the old file that has no place in the new one, or means something else there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub kind: NoteKind,
    /// What it was.
    pub what: String,
    /// What to do, or why there is nothing to do.
    pub mend: String,
    /// Where; of several that say the same, all.
    pub places: Vec<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// A person must do, or decide, something.
    ToDo,
    /// Nothing needs to be done.
    Known,
}

/// What is said of what nobody knows.
const UNKNOWN: &str = "not known here, and not carried over: see what it was for";

/// What was found on the way.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) notes: Vec<Note>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Findings {
    pub(super) fn must_do(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.note(NoteKind::ToDo, place, what.into(), mend.into());
    }

    pub(super) fn known(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.note(NoteKind::Known, place, what.into(), mend.into());
    }

    pub(super) fn unknown(&mut self, place: &Place, what: impl Into<String>) {
        self.must_do(place, what, UNKNOWN);
    }

    /// Every mistake in the order of the lines; none where all is well. Beside mistakes, what nobody knows
    /// is one as well: it may be the missing key, misspelt.
    pub(super) fn all_mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.clone();
        if mistakes.is_empty() {
            return mistakes;
        }
        for note in self.notes.iter().filter(|note| note.mend == UNKNOWN) {
            for place in &note.places {
                let mut mistake =
                    Mistake::at(place.line, 1, format!("{} is not known", note.what), "");
                mistake.file = place.file.to_path_buf();
                mistakes.push(mistake);
            }
        }
        mistakes.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        mistakes
    }

    /// The same words again are the same note, of one more place.
    fn note(&mut self, kind: NoteKind, place: &Place, what: String, mend: String) {
        let same = |note: &&mut Note| note.kind == kind && note.what == what && note.mend == mend;
        if let Some(note) = self.notes.iter_mut().find(same) {
            if !note.places.contains(place) {
                note.places.push(place.clone());
            }
            return;
        }
        self.notes.push(Note {
            kind,
            what,
            mend,
            places: vec![place.clone()],
        });
    }

    pub(super) fn mistake(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let mut mistake = Mistake::at(place.line, 1, what, mend);
        mistake.file = place.file.to_path_buf();
        self.mistakes.push(mistake);
    }
}
