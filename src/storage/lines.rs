//! How much the lines of a history or of an undo log may be, in one answer.
//!
//! Each has the texts of a transaction, which may be 192 KiB. Pages are asked for by number, so that an answer that
//! is cut short would look like the end: it is an error instead, and who asks for fewer lines gets them.

use bytes::Bytes;

use crate::zodb::Answer;

/// What all lines of one answer may take, in bytes: no more than a large record.
const MOST: usize = 64 << 20;

/// What a line takes beside its texts.
const LINE: usize = 128;

/// Counts the lines of one answer.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: usize,
}

impl Lines {
    /// A line with these texts.
    pub(super) fn add(&mut self, texts: [&Bytes; 3]) {
        self.bytes += LINE + texts.into_iter().map(Bytes::len).sum::<usize>();
    }

    /// Whether no more need to be looked for: the answer is an error.
    pub(super) fn are_too_many(&self) -> bool {
        self.bytes > MOST
    }

    /// # Errors
    /// They are too much for one answer.
    pub(super) fn check(&self) -> Result<(), Answer> {
        if self.are_too_many() {
            let most = MOST >> 20;
            let text =
                format!("the lines asked for are more than {most} MiB; ask for fewer at a time");
            return Err(Answer::Invalid(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_their_texts() {
        let (none, large) = (Bytes::new(), Bytes::from(vec![b'x'; 60_000]));
        let mut lines = Lines::default();
        for _ in 0..MOST / (60_000 + LINE) {
            lines.add([&large, &none, &none]);
        }
        assert_eq!(lines.check(), Ok(()));
        lines.add([&none, &large, &none]);
        let Err(Answer::Invalid(text)) = lines.check() else {
            panic!("no error");
        };
        assert!(text.contains("ask for fewer"), "{text}");
        // Ordinary lines are as many as a client gets at all.
        let mut lines = Lines::default();
        let short = Bytes::from_static(b"/Plone/some/where/else edited by somebody, who says why");
        for _ in 0..100_000 {
            lines.add([&short, &short, &short]);
        }
        assert_eq!(lines.check(), Ok(()));
    }
}
