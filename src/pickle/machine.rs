//! The pickle machine: carries out opcodes on a stack, a memo and an arena.

use std::collections::HashMap;

use bytes::Bytes;

use super::arena::{Arena, Node, Slot, Span};
use super::input::Input;
use super::literal;
use super::read::{Limits, PickleError, Problem};
use super::value::Value;

pub(super) struct Machine<'a> {
    pub(super) input: Input<'a>,
    /// Where the present opcode begins.
    opcode: usize,
    pub(super) arena: Arena,
    stack: Vec<Slot>,
    marks: Vec<usize>,
    memo: HashMap<u32, Slot>,
    pub(super) limits: Limits,
    /// Values that may still be pushed.
    pushes: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(pickle: &'a Bytes, limits: Limits) -> Self {
        Machine {
            input: Input::new(pickle),
            opcode: 0,
            arena: Arena::new(pickle.clone(), limits),
            stack: Vec::with_capacity(16),
            marks: Vec::new(),
            memo: HashMap::new(),
            limits,
            pushes: limits.values,
        }
    }

    pub(super) fn run(&mut self) -> Result<Slot, PickleError> {
        loop {
            self.opcode = self.input.at();
            match self.step() {
                Ok(None) => {}
                Ok(Some(result)) => return Ok(result),
                Err(problem) => {
                    return Err(PickleError {
                        offset: self.opcode,
                        problem,
                    });
                }
            }
        }
    }

    /// What was built, as a value.
    pub(super) fn freeze(mut self, slot: Slot) -> Result<Value, PickleError> {
        let offset = self.opcode;
        let frozen = self.arena.freeze(slot);
        frozen.map_err(|problem| PickleError { offset, problem })
    }

    pub(super) fn is_dict(&self, slot: Slot) -> bool {
        matches!(self.arena.node(slot), Some(Node::Dict(_)))
    }

    /// Carries out one opcode; the result, where it was `STOP`.
    fn step(&mut self) -> Result<Option<Slot>, Problem> {
        match self.input.byte()? {
            b'.' => {
                let result = self.pop()?;
                let left = self.input.left();
                if left > 0 {
                    return Err(Problem::Trailing(left));
                }
                // Python does not mind. But what is put into another pickle as it is would bring more
                // than one value into it.
                if !self.stack.is_empty() || !self.marks.is_empty() {
                    return Err(Problem::Unsupported("a pickle of more than one value"));
                }
                return Ok(Some(result));
            }
            0x80 => {
                let protocol = self.input.byte()?;
                if protocol > 5 {
                    return Err(Problem::Protocol(protocol));
                }
            }
            // FRAME: a hint for readers of files.
            0x95 => {
                self.input.length(8)?;
            }

            // The stack and the memo.
            b'(' => {
                // Marks cost no push, and so could otherwise be as many as there are bytes.
                self.count(1)?;
                self.marks.push(self.stack.len());
            }
            b'0' => {
                // Python's POP takes a mark, too.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
            }
            b'2' => {
                let top = self.top()?;
                self.push(top)?;
            }
            b'p' => {
                let index = self.line_index()?;
                self.put(index)?;
            }
            b'q' => {
                let index = u32::from(self.input.byte()?);
                self.put(index)?;
            }
            b'r' => {
                let index = self.input.u32()?;
                self.put(index)?;
            }
            0x94 => {
                let index = u32::try_from(self.memo.len()).map_err(|_| Problem::TooMany)?;
                self.put(index)?;
            }
            b'g' => {
                let index = self.line_index()?;
                self.get(index)?;
            }
            b'h' => {
                let index = u32::from(self.input.byte()?);
                self.get(index)?;
            }
            b'j' => {
                let index = self.input.u32()?;
                self.get(index)?;
            }

            // Scalars.
            b'N' => self.push(Slot::None)?,
            0x88 => self.push(Slot::Bool(true))?,
            0x89 => self.push(Slot::Bool(false))?,
            b'I' => match self.input.line()? {
                b"00" => self.push(Slot::Bool(false))?,
                b"01" => self.push(Slot::Bool(true))?,
                digits => self.push_decimal(digits)?,
            },
            b'L' => {
                let line = self.input.line()?;
                self.push_decimal(line.strip_suffix(b"L").unwrap_or(line))?;
            }
            b'J' => {
                let int = i32::from_le_bytes(self.input.array()?);
                self.push(Slot::Int(int.into()))?;
            }
            b'K' => {
                let int = self.input.byte()?;
                self.push(Slot::Int(int.into()))?;
            }
            b'M' => {
                let int = u16::from_le_bytes(self.input.array()?);
                self.push(Slot::Int(int.into()))?;
            }
            0x8a => {
                let length = self.input.length(1)?;
                self.push_long(length)?;
            }
            0x8b => {
                let length = i32::from_le_bytes(self.input.array()?);
                let length = usize::try_from(length).map_err(|_| Problem::NotNumber)?;
                self.push_long(length)?;
            }
            b'F' => {
                let text =
                    std::str::from_utf8(self.input.line()?).map_err(|_| Problem::NotNumber)?;
                let float = text.trim().parse().map_err(|_| Problem::NotNumber)?;
                self.push(Slot::Float(float))?;
            }
            b'G' => {
                let float = f64::from_be_bytes(self.input.array()?);
                self.push(Slot::Float(float))?;
            }

            // Strings.
            b'C' => self.push_span(1, Slot::Bytes)?,
            b'B' => self.push_span(4, Slot::Bytes)?,
            // BYTEARRAY8 as well: it is data all the same.
            0x8e | 0x96 => self.push_span(8, Slot::Bytes)?,
            b'U' => self.push_span(1, Slot::Native)?,
            b'T' => self.push_span(4, Slot::Native)?,
            b'S' => {
                let bytes = literal::quoted(self.input.line()?).ok_or(Problem::NotText)?;
                let span = self.arena.keep(bytes)?;
                self.push(Slot::Native(span))?;
            }
            0x8c => self.push_span(1, Slot::Text)?,
            b'X' => self.push_span(4, Slot::Text)?,
            0x8d => self.push_span(8, Slot::Text)?,
            b'V' => {
                let text = literal::raw_unicode(self.input.line()?).ok_or(Problem::NotText)?;
                let span = self.arena.keep(text.into_bytes())?;
                self.push(Slot::Text(span))?;
            }

            // Containers.
            b')' => self.push_node(Node::Tuple(Vec::new()))?,
            b't' => {
                let items = self.items()?;
                self.push_node(Node::Tuple(items))?;
            }
            0x85 => self.push_tuple(1)?,
            0x86 => self.push_tuple(2)?,
            0x87 => self.push_tuple(3)?,
            b']' => self.push_node(Node::List(Vec::new()))?,
            b'l' => {
                let items = self.items()?;
                self.push_node(Node::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' => {
                let items = self.items()?;
                self.extend(&items)?;
            }
            b'}' => self.push_node(Node::Dict(Vec::new()))?,
            b'd' => {
                let entries = pairs(&self.items()?)?;
                self.push_node(Node::Dict(entries))?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.update(vec![(key, value)])?;
            }
            b'u' => {
                let entries = pairs(&self.items()?)?;
                self.update(entries)?;
            }
            0x8f => self.push_node(Node::Set(Vec::new()))?,
            0x90 => {
                let items = self.items()?;
                let set = self.top()?;
                match self.arena.node_mut(set) {
                    Some(Node::Set(set)) => set.extend_from_slice(&items),
                    Some(Node::Object { items, .. }) => *items = true,
                    _ => return Err(Problem::Stack),
                }
            }
            0x91 => {
                let items = self.items()?;
                let set = self.frozen_set(items)?;
                self.push(set)?;
            }

            // Globals and instances.
            b'c' => {
                let global = self.named_global()?;
                self.push(global)?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                let global = self.global(module, name)?;
                self.push(global)?;
            }
            b'R' => {
                let arguments = self.pop_tuple()?;
                let callable = self.pop()?;
                let result = self.call(callable, arguments)?;
                self.push(result)?;
            }
            b'i' => {
                let class = self.named_global()?;
                let arguments = self.items()?;
                let result = self.call(class, arguments)?;
                self.push(result)?;
            }
            b'o' => {
                let mut arguments = self.items()?;
                if arguments.is_empty() {
                    return Err(Problem::Stack);
                }
                let class = arguments.remove(0);
                let result = self.call(class, arguments)?;
                self.push(result)?;
            }
            0x81 => {
                let arguments = self.pop_tuple()?;
                let class = self.pop()?;
                let result = self.new_object(class, arguments)?;
                self.push(result)?;
            }
            0x92 => {
                let keywords = self.pop()?;
                match self.arena.node(keywords) {
                    Some(Node::Dict(entries)) if entries.is_empty() => {}
                    _ => return Err(Problem::Unsupported("an instance made with keywords")),
                }
                let arguments = self.pop_tuple()?;
                let class = self.pop()?;
                let result = self.new_object(class, arguments)?;
                self.push(result)?;
            }
            b'b' => {
                let new_state = self.pop()?;
                let object = self.top()?;
                match self.arena.node_mut(object) {
                    Some(Node::Object { state, .. }) => *state = Some(new_state),
                    _ => return Err(Problem::Stack),
                }
            }

            b'P' | b'Q' => return Err(Problem::Unsupported("a persistent reference")),
            0x82..=0x84 => return Err(Problem::Unsupported("an extension code")),
            0x97 | 0x98 => return Err(Problem::Unsupported("an out-of-band buffer")),
            other => return Err(Problem::UnknownOpcode(other)),
        }
        Ok(None)
    }

    // Containers.

    fn extend(&mut self, more: &[Slot]) -> Result<(), Problem> {
        let container = self.top()?;
        match self.arena.node_mut(container) {
            Some(Node::List(items)) => items.extend_from_slice(more),
            Some(Node::Object { items, .. }) => *items = true,
            _ => return Err(Problem::Stack),
        }
        Ok(())
    }

    fn update(&mut self, more: Vec<(Slot, Slot)>) -> Result<(), Problem> {
        let container = self.top()?;
        match self.arena.node_mut(container) {
            Some(Node::Dict(entries)) if entries.is_empty() => *entries = more,
            Some(Node::Dict(entries)) => entries.extend(more),
            Some(Node::Object { items, .. }) => *items = true,
            _ => return Err(Problem::Stack),
        }
        Ok(())
    }

    fn push_node(&mut self, node: Node) -> Result<(), Problem> {
        let slot = self.arena.add(node)?;
        self.push(slot)
    }

    fn push_tuple(&mut self, length: usize) -> Result<(), Problem> {
        let floor = self.floor();
        let start = self
            .stack
            .len()
            .checked_sub(length)
            .filter(|start| *start >= floor)
            .ok_or(Problem::Stack)?;
        let items = self.stack[start..].to_vec();
        self.stack.truncate(start);
        self.push_node(Node::Tuple(items))
    }

    fn pop_tuple(&mut self) -> Result<Vec<Slot>, Problem> {
        let tuple = self.pop()?;
        let items = match self.arena.node(tuple) {
            Some(Node::Tuple(items)) => items.clone(),
            _ => return Err(Problem::Stack),
        };
        // Copied, and the memo may offer the same tuple again and again.
        self.count(items.len())?;
        Ok(items)
    }

    fn pop_text(&mut self) -> Result<Span, Problem> {
        match self.pop()? {
            Slot::Text(span) | Slot::Native(span) => Ok(span),
            _ => Err(Problem::Stack),
        }
    }

    // The stack and the memo.

    fn push(&mut self, slot: Slot) -> Result<(), Problem> {
        self.count(1)?;
        self.stack.push(slot);
        Ok(())
    }

    pub(super) fn count(&mut self, values: usize) -> Result<(), Problem> {
        self.pushes = self.pushes.checked_sub(values).ok_or(Problem::TooMany)?;
        Ok(())
    }

    /// The last mark: nothing below it may be taken.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Slot, Problem> {
        if self.stack.len() <= self.floor() {
            return Err(Problem::Stack);
        }
        self.stack.last().copied().ok_or(Problem::Stack)
    }

    fn pop(&mut self) -> Result<Slot, Problem> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Result<usize, Problem> {
        self.marks.pop().ok_or(Problem::Stack)
    }

    fn items(&mut self) -> Result<Vec<Slot>, Problem> {
        let mark = self.mark()?;
        let items = self.stack[mark..].to_vec();
        self.stack.truncate(mark);
        Ok(items)
    }

    fn put(&mut self, index: u32) -> Result<(), Problem> {
        self.count(1)?;
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<(), Problem> {
        let slot = *self.memo.get(&index).ok_or(Problem::Memo(index))?;
        self.push(slot)
    }

    // Literals.

    pub(super) fn line_span(&mut self) -> Result<Span, Problem> {
        let start = self.input.at();
        let length = self.input.line()?.len();
        Arena::span(start, length)
    }

    fn line_index(&mut self) -> Result<u32, Problem> {
        let line = std::str::from_utf8(self.input.line()?).map_err(|_| Problem::NotNumber)?;
        line.parse().map_err(|_| Problem::NotNumber)
    }

    fn push_span(&mut self, size: usize, slot: fn(Span) -> Slot) -> Result<(), Problem> {
        let length = self.input.length(size)?;
        let start = self.input.at();
        self.input.take(length)?;
        let span = Arena::span(start, length)?;
        self.push(slot(span))
    }

    fn push_long(&mut self, length: usize) -> Result<(), Problem> {
        let start = self.input.at();
        let bytes = self.input.take(length)?;
        let slot = match literal::small_integer(bytes) {
            Some(int) => Slot::Int(int),
            None => Slot::BigInt(Arena::span(start, length)?),
        };
        self.push(slot)
    }

    fn push_decimal(&mut self, digits: &[u8]) -> Result<(), Problem> {
        let bytes = literal::decimal(digits.trim_ascii()).ok_or(Problem::NotNumber)?;
        let slot = match literal::small_integer(&bytes) {
            Some(int) => Slot::Int(int),
            None => Slot::BigInt(self.arena.keep(bytes)?),
        };
        self.push(slot)
    }
}

fn pairs(items: &[Slot]) -> Result<Vec<(Slot, Slot)>, Problem> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Problem::Stack);
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}
