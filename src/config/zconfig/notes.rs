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

/// What was found on the way.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) notes: Vec<Note>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Findings {
    pub(super) fn to_do(
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
