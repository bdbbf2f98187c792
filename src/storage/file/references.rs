//! Which objects a record refers to, read from its pickles without running code.
//!
//! A record is two pickles, the class and the state, which share one memo. A reference is a persistent
//! id: an oid, or a tuple of an oid and a class. Lists stand for weak references and for those into
//! other databases, which keep nothing alive. Of what the pickles build, only what can become a
//! reference is followed; the rest is counted on and off the stack. Source: ZODB, `serialize.py`,
//! `referencesf`; Python's `pickletools`, `opcodes`.

use crate::zodb::Oid;

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at byte {at} of the record")]
pub(in crate::storage) struct Unreadable {
    at: usize,
    problem: &'static str,
}

/// What is on the stack, as far as it matters.
#[derive(Debug, Clone, Copy)]
enum Slot {
    /// A string: where it is in the record.
    String {
        at: usize,
        len: usize,
    },
    /// A tuple that begins with a string.
    Tuple {
        at: usize,
        len: usize,
    },
    List,
    Other,
    /// Of the memo: not there.
    Absent,
}

/// Reads records, one after the other, without allocating for each.
#[derive(Debug, Default)]
pub(in crate::storage) struct References {
    stack: Vec<Slot>,
    marks: Vec<usize>,
    /// Numbered from 0 on by who writes pickles.
    memo: Vec<Slot>,
}

impl References {
    /// Calls `found` with each object that a record refers to.
    pub(in crate::storage) fn of(
        &mut self,
        record: &[u8],
        mut found: impl FnMut(Oid),
    ) -> Result<(), Unreadable> {
        self.memo.clear();
        let mut at = 0;
        for _ in 0..2 {
            self.stack.clear();
            self.marks.clear();
            let mut reader = Reader {
                record,
                at,
                state: self,
            };
            loop {
                let opcode = reader.at;
                match reader.step(&mut found) {
                    Ok(false) => {}
                    Ok(true) => break,
                    Err(problem) => {
                        return Err(Unreadable {
                            at: opcode,
                            problem,
                        });
                    }
                }
            }
            at = reader.at;
        }
        Ok(())
    }
}

struct Reader<'a> {
    record: &'a [u8],
    at: usize,
    state: &'a mut References,
}

type Step<T> = Result<T, &'static str>;

const SHORT: &str = "the pickle ends too early";
const STACK: &str = "the pickle takes what is not there";

impl Reader<'_> {
    /// Carries out one opcode; whether it was the last.
    fn step(&mut self, found: &mut impl FnMut(Oid)) -> Step<bool> {
        match self.bytes(1)?[0] {
            b'.' => {
                self.pop()?;
                return Ok(true);
            }
            // PROTO; FRAME
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,

            // The stack and the memo.
            b'(' => self.state.marks.push(self.state.stack.len()),
            // POP takes a mark as well.
            b'0' => {
                if self.state.marks.last() == Some(&self.state.stack.len()) {
                    self.state.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.take_to_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.push(top);
            }
            b'p' => {
                let index = self.index()?;
                self.put(index)?;
            }
            b'q' => {
                let index = self.number(1)?;
                self.put(index)?;
            }
            b'r' => {
                let index = self.number(4)?;
                self.put(index)?;
            }
            0x94 => self.put(self.state.memo.len() as u64)?,
            b'g' => {
                let index = self.index()?;
                self.get(index)?;
            }
            b'h' => {
                let index = self.number(1)?;
                self.get(index)?;
            }
            b'j' => {
                let index = self.number(4)?;
                self.get(index)?;
            }

            // References.
            b'Q' => {
                let id = self.pop()?;
                self.reference(id, found)?;
                self.push(Slot::Other);
            }
            b'P' => {
                let (at, len) = self.line()?;
                self.reference(Slot::String { at, len }, found)?;
                self.push(Slot::Other);
            }

            // Strings of any kind.
            b'U' | b'C' | 0x8c => self.string(1)?,
            b'T' | b'B' | b'X' => self.string(4)?,
            0x8d | 0x8e | 0x96 => self.string(8)?,
            b'S' => {
                let (at, len) = self.line()?;
                // Quoted; what is escaped in there cannot be compared, and is no oid.
                let plain = len >= 2 && !self.record[at..at + len].contains(&b'\\');
                self.push(if plain {
                    Slot::String {
                        at: at + 1,
                        len: len - 2,
                    }
                } else {
                    Slot::Other
                });
            }
            b'V' => {
                let (at, len) = self.line()?;
                self.push(Slot::String { at, len });
            }

            // Other scalars, and containers that are empty.
            b'N' | 0x88 | 0x89 | 0x97 | b')' | b'}' | 0x8f => self.push(Slot::Other),
            b'K' | 0x82 => self.scalar(1)?,
            b'M' | 0x83 => self.scalar(2)?,
            b'J' | 0x84 => self.scalar(4)?,
            b'G' => self.scalar(8)?,
            b'I' | b'L' | b'F' => {
                self.line()?;
                self.push(Slot::Other);
            }
            0x8a => {
                let len = self.len(1)?;
                self.scalar(len)?;
            }
            0x8b => {
                let len = self.len(4)?;
                self.scalar(len)?;
            }

            // Containers.
            b't' => {
                let first = self.take_to_mark()?;
                self.tuple(first);
            }
            length @ 0x85..=0x87 => {
                let mut first = Slot::Other;
                for _ in 0x85..=length {
                    first = self.pop()?;
                }
                self.tuple(Some(first));
            }
            b']' => self.push(Slot::List),
            b'l' => {
                self.take_to_mark()?;
                self.push(Slot::List);
            }
            b'd' | 0x91 | b'o' => {
                self.take_to_mark()?;
                self.push(Slot::Other);
            }
            b'a' | b'b' => {
                self.pop()?;
                self.top()?;
            }
            b's' => {
                self.pop()?;
                self.pop()?;
                self.top()?;
            }
            b'e' | b'u' | 0x90 => {
                self.take_to_mark()?;
                self.top()?;
            }

            // Globals and instances.
            b'c' => {
                self.line()?;
                self.line()?;
                self.push(Slot::Other);
            }
            b'i' => {
                self.line()?;
                self.line()?;
                self.take_to_mark()?;
                self.push(Slot::Other);
            }
            0x93 | b'R' | 0x81 => self.replace(2)?,
            0x92 => self.replace(3)?,
            // READONLY_BUFFER
            0x98 => {
                self.top()?;
            }
            _ => return Err("the opcode is unknown"),
        }
        Ok(false)
    }

    fn reference(&self, id: Slot, found: &mut impl FnMut(Oid)) -> Step<()> {
        let (at, len) = match id {
            Slot::String { at, len } | Slot::Tuple { at, len } => (at, len),
            // Weak, or into another database.
            Slot::List => return Ok(()),
            Slot::Other | Slot::Absent => return Err("the reference is of an unknown kind"),
        };
        let oid = self.record[at..at + len].first_chunk::<8>();
        match oid.filter(|_| len == 8) {
            Some(oid) => found(Oid(u64::from_be_bytes(*oid))),
            None => return Err("the reference has no oid of eight bytes"),
        }
        Ok(())
    }

    // The stack and the memo.

    fn push(&mut self, slot: Slot) {
        self.state.stack.push(slot);
    }

    fn floor(&self) -> usize {
        self.state.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Slot> {
        if self.state.stack.len() <= self.floor() {
            return Err(STACK);
        }
        self.state.stack.last().copied().ok_or(STACK)
    }

    fn pop(&mut self) -> Step<Slot> {
        let top = self.top()?;
        self.state.stack.pop();
        Ok(top)
    }

    fn replace(&mut self, count: usize) -> Step<()> {
        for _ in 0..count {
            self.pop()?;
        }
        self.push(Slot::Other);
        Ok(())
    }

    /// Takes everything from the last mark on; what was first there.
    fn take_to_mark(&mut self) -> Step<Option<Slot>> {
        let mark = self.state.marks.pop().ok_or(STACK)?;
        let first = self.state.stack.get(mark).copied();
        self.state.stack.truncate(mark);
        Ok(first)
    }

    fn tuple(&mut self, first: Option<Slot>) {
        self.push(match first {
            Some(Slot::String { at, len }) => Slot::Tuple { at, len },
            _ => Slot::Other,
        });
    }

    fn put(&mut self, index: u64) -> Step<()> {
        let top = self.top()?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if index > self.record.len() {
            return Err("the memo is larger than the record");
        }
        let memo = &mut self.state.memo;
        if memo.len() <= index {
            memo.resize(index + 1, Slot::Absent);
        }
        memo[index] = top;
        Ok(())
    }

    fn get(&mut self, index: u64) -> Step<()> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match self.state.memo.get(index) {
            None | Some(Slot::Absent) => Err("the memo has no such entry"),
            Some(slot) => {
                let slot = *slot;
                self.push(slot);
                Ok(())
            }
        }
    }

    // The bytes.

    fn bytes(&mut self, len: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(len).ok_or(SHORT)?;
        let bytes = self.record.get(self.at..end).ok_or(SHORT)?;
        self.at = end;
        Ok(bytes)
    }

    fn skip(&mut self, len: usize) -> Step<()> {
        self.bytes(len).map(drop)
    }

    fn number(&mut self, size: usize) -> Step<u64> {
        let mut all = [0; 8];
        all[..size].copy_from_slice(self.bytes(size)?);
        Ok(u64::from_le_bytes(all))
    }

    fn len(&mut self, size: usize) -> Step<usize> {
        usize::try_from(self.number(size)?).map_err(|_| SHORT)
    }

    fn string(&mut self, size: usize) -> Step<()> {
        let len = self.len(size)?;
        let at = self.at;
        self.skip(len)?;
        self.push(Slot::String { at, len });
        Ok(())
    }

    fn scalar(&mut self, len: usize) -> Step<()> {
        self.skip(len)?;
        self.push(Slot::Other);
        Ok(())
    }

    /// A line: where it is, and how long, without its end.
    fn line(&mut self) -> Step<(usize, usize)> {
        let at = self.at;
        let rest = self.record.get(at..).ok_or(SHORT)?;
        let len = rest.iter().position(|byte| *byte == b'\n').ok_or(SHORT)?;
        self.at += len + 1;
        Ok((at, len))
    }

    fn index(&mut self) -> Step<u64> {
        let (at, len) = self.line()?;
        let digits = std::str::from_utf8(&self.record[at..at + len]).ok();
        let index = digits.and_then(|digits| digits.trim().parse().ok());
        index.ok_or("the place in the memo is no number")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(record: &[u8]) -> Result<Vec<u64>, Unreadable> {
        let mut all = Vec::new();
        References::default().of(record, |oid| all.push(oid.0))?;
        Ok(all)
    }

    #[test]
    fn the_memo_is_shared_by_both_pickles() {
        let record =
            b"\x80\x03cm\nC\nq\x00C\x08\0\0\0\0\0\0\0\x07q\x010.\x80\x03h\x01h\x00\x86Qh\x01Q\x86.";
        assert_eq!(of(record), Ok(vec![7, 7]));
        let without = b"N.\x80\x03h\x01h\x00\x86Qh\x01Q\x86.";
        assert!(of(without).is_err());
    }

    #[test]
    fn what_is_no_record_says_where() {
        assert_eq!(
            of(b"").unwrap_err().to_string(),
            "the pickle ends too early, at byte 0 of the record"
        );
        assert!(of(b"N.").is_err());
        assert!(of(b"N.N").is_err());
        assert!(of(b"N.NQ.").is_err());
        assert!(of(b"N.U\x07aaaaaaaQ.").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(record in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(of(&record));
        }
    }
}
