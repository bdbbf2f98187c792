//! The list of transactions that can be undone: newest first, down to the first that was packed.
//! Source: ZODB, `FileStorage.undoLog`.

use super::far::Pace;
use super::history::Walk;
use crate::storage::undo_search::UndoSearch;
use crate::storage::{Fault, Undoable};
use crate::zodb::TxnStatus;

/// As in [`super::undo`]: nothing is looked for before here.
const FIRST_FOUND: u64 = 39;

impl Walk {
    /// The transactions that can be undone. Waits for the disk.
    pub(super) fn undo_info(
        &self,
        mut search: UndoSearch,
        pace: &Pace<'_>,
    ) -> Result<UndoSearch, Fault> {
        if search.missing() == 0 || self.end < FIRST_FOUND {
            return Ok(search);
        }
        for step in self.backwards() {
            let (begin, header) = step?;
            match header.txn_status() {
                Some(TxnStatus::Packed) => break,
                Some(TxnStatus::Normal) => {
                    let [user, description, extension] = self.texts(begin, &header)?;
                    search.meet(Undoable {
                        tid: header.tid,
                        user,
                        description,
                        extension,
                        size: Some(header.len),
                    });
                }
                _ => {}
            }
            if search.missing() == 0 || begin < FIRST_FOUND {
                break;
            }
            pace.step()?;
        }
        Ok(search)
    }
}
