//! The pickle machine: opcodes in, a plain value out.
//!
//! All opcodes of protocols 0 to 5 are understood except those that leave the pickle (persistent
//! ids, extension codes, out-of-band buffers), which are refused. Nothing is called: the few
//! globals that stand for plain values (`bytes`, `set`, `_codecs.encode` …) are understood, others
//! are refused or kept by name ([`Globals`]). Source: Python's `pickletools`, `opcodes`.
//!
//! Bounds: every pushed value counts ([`Limits::values`]), and so does every value of the resulting
//! tree, where the memo multiplies; depth is limited when the tree is made. See [`super::arena`].

use std::collections::HashMap;

use bytes::Bytes;

use super::arena::{Arena, Known, Node, Slot, Span};
use super::literal;
use super::value::Value;

/// What a pickle may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How deep containers may be nested.
    pub depth: usize,
    /// How many values may be made, on the way or in the result.
    pub values: usize,
    pub globals: Globals,
    pub strings: Strings,
}

impl Limits {
    /// For what strangers send.
    pub const STRANGER: Limits = Limits {
        depth: 100,
        values: 200_000,
        globals: Globals::Known,
        strings: Strings::Bytes,
    };
    /// For what a server says, and for extensions of stored transactions: whoever wrote them was
    /// trusted with the database.
    pub const TRUSTED: Limits = Limits {
        depth: 100,
        values: 8_000_000,
        globals: Globals::Any,
        strings: Strings::Bytes,
    };
}

/// Which globals are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Globals {
    /// Those that stand for plain values, and `ZopeUndo.Prefix`.
    Known,
    /// Any, by name.
    Any,
}

/// What the byte strings of Python 2 become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strings {
    Bytes,
    /// Text where they are UTF-8. (Python 3 takes ASCII for text and fails at the rest.)
    Text,
}

/// Why a pickle was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at byte {offset} of a pickle")]
pub struct PickleError {
    /// Where the opcode begins.
    pub offset: usize,
    pub problem: Problem,
}

/// What is wrong with a pickle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the pickle ends too early")]
    Truncated,
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    #[error("opcode {0:#04x} is unknown")]
    UnknownOpcode(u8),
    #[error("protocol {0} is not supported")]
    Protocol(u8),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error("the global `{module}.{name}` is not allowed")]
    Global { module: String, name: String },
    #[error("the stack holds too little, or something else than is needed")]
    Stack,
    #[error("the memo has no entry {0}")]
    Memo(u32),
    #[error("not a number")]
    NotNumber,
    #[error("not a text")]
    NotText,
    #[error("too deeply nested")]
    TooDeep,
    #[error("too many values")]
    TooMany,
    #[error("larger than 4 GiB")]
    TooLarge,
}

/// Reads a pickle. Byte strings share its memory.
pub fn read(pickle: &Bytes, limits: Limits) -> Result<Value, PickleError> {
    let mut machine = Machine::new(pickle, limits);
    let slot = machine.run()?;
    let offset = machine.opcode;
    machine
        .arena
        .freeze(slot)
        .map_err(|problem| PickleError { offset, problem })
}

/// Reads a pickle and forgets what it is: whether it can stand in the middle of another one. True
/// where it is a dictionary.
pub fn check(pickle: &Bytes, limits: Limits) -> Result<bool, PickleError> {
    let mut machine = Machine::new(pickle, limits);
    let slot = machine.run()?;
    Ok(matches!(machine.arena.node(slot), Some(Node::Dict(_))))
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    /// Where the present opcode begins.
    opcode: usize,
    arena: Arena,
    stack: Vec<Slot>,
    marks: Vec<usize>,
    memo: HashMap<u32, Slot>,
    limits: Limits,
    /// Values that may still be pushed.
    pushes: usize,
}

impl<'a> Machine<'a> {
    fn new(pickle: &'a Bytes, limits: Limits) -> Self {
        Machine {
            input: pickle,
            at: 0,
            opcode: 0,
            arena: Arena::new(pickle.clone(), limits),
            stack: Vec::with_capacity(16),
            marks: Vec::new(),
            memo: HashMap::new(),
            limits,
            pushes: limits.values,
        }
    }

    fn run(&mut self) -> Result<Slot, PickleError> {
        loop {
            self.opcode = self.at;
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

    /// Carries out one opcode; the result, where it was `STOP`.
    fn step(&mut self) -> Result<Option<Slot>, Problem> {
        match self.byte()? {
            b'.' => {
                let result = self.pop()?;
                let left = self.input.len() - self.at;
                if left > 0 {
                    return Err(Problem::Trailing(left));
                }
                return Ok(Some(result));
            }
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return Err(Problem::Protocol(protocol));
                }
            }
            // FRAME: a hint for readers of files.
            0x95 => {
                self.length(8)?;
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
                let index = u32::from(self.byte()?);
                self.put(index)?;
            }
            b'r' => {
                let index = self.u32()?;
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
                let index = u32::from(self.byte()?);
                self.get(index)?;
            }
            b'j' => {
                let index = self.u32()?;
                self.get(index)?;
            }

            // Scalars.
            b'N' => self.push(Slot::None)?,
            0x88 => self.push(Slot::Bool(true))?,
            0x89 => self.push(Slot::Bool(false))?,
            b'I' => match self.line()? {
                b"00" => self.push(Slot::Bool(false))?,
                b"01" => self.push(Slot::Bool(true))?,
                digits => self.push_decimal(digits)?,
            },
            b'L' => {
                let line = self.line()?;
                self.push_decimal(line.strip_suffix(b"L").unwrap_or(line))?;
            }
            b'J' => {
                let int = i32::from_le_bytes(self.array()?);
                self.push(Slot::Int(int.into()))?;
            }
            b'K' => {
                let int = self.byte()?;
                self.push(Slot::Int(int.into()))?;
            }
            b'M' => {
                let int = u16::from_le_bytes(self.array()?);
                self.push(Slot::Int(int.into()))?;
            }
            0x8a => {
                let length = self.length(1)?;
                self.push_long(length)?;
            }
            0x8b => {
                let length = i32::from_le_bytes(self.array()?);
                let length = usize::try_from(length).map_err(|_| Problem::NotNumber)?;
                self.push_long(length)?;
            }
            b'F' => {
                let text = std::str::from_utf8(self.line()?).map_err(|_| Problem::NotNumber)?;
                let float = text.trim().parse().map_err(|_| Problem::NotNumber)?;
                self.push(Slot::Float(float))?;
            }
            b'G' => {
                let float = f64::from_be_bytes(self.array()?);
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
                let bytes = literal::quoted(self.line()?).ok_or(Problem::NotText)?;
                let span = self.arena.keep(bytes)?;
                self.push(Slot::Native(span))?;
            }
            0x8c => self.push_span(1, Slot::Text)?,
            b'X' => self.push_span(4, Slot::Text)?,
            0x8d => self.push_span(8, Slot::Text)?,
            b'V' => {
                let text = literal::raw_unicode(self.line()?).ok_or(Problem::NotText)?;
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

    // Instances.

    fn global(&mut self, module: Span, name: Span) -> Result<Slot, Problem> {
        let text = |span| {
            std::str::from_utf8(self.arena.bytes(span))
                .map(str::to_owned)
                .map_err(|_| Problem::NotText)
        };
        let (module, name) = (text(module)?, text(name)?);
        if self.limits.globals == Globals::Known && Known::of(&module, &name) == Known::Other {
            return Err(Problem::Global { module, name });
        }
        self.arena.add_global(&module, &name)
    }

    /// What calling a global would give, where that is known; else an object by name.
    fn call(&mut self, callable: Slot, arguments: Vec<Slot>) -> Result<Slot, Problem> {
        let Slot::Global(class) = callable else {
            return Err(Problem::Stack);
        };
        match self.arena.known(class) {
            Known::Bytes => self.call_bytes(&arguments),
            Known::Encode => self.call_encode(&arguments),
            Known::Set => {
                let items = self.iterable(&arguments)?;
                self.arena.add(Node::Set(items))
            }
            Known::FrozenSet => {
                let items = self.iterable(&arguments)?;
                self.frozen_set(items)
            }
            Known::NewObj => {
                let (class, arguments) = arguments.split_first().ok_or(Problem::Stack)?;
                self.new_object(*class, arguments.to_vec())
            }
            Known::Reconstructor => match arguments[..] {
                [class, Slot::Global(base), Slot::None]
                    if self.arena.known(base) == Known::Object =>
                {
                    self.new_object(class, Vec::new())
                }
                _ if self.limits.globals == Globals::Any => self.object(class, arguments),
                _ => Err(Problem::Unsupported("an instance of a subclass")),
            },
            Known::Prefix | Known::Other => self.object(class, arguments),
            Known::Object => Err(Problem::Unsupported("a bare object")),
        }
    }

    fn new_object(&mut self, class: Slot, mut arguments: Vec<Slot>) -> Result<Slot, Problem> {
        let Slot::Global(index) = class else {
            return Err(Problem::Stack);
        };
        match self.arena.known(index) {
            Known::Prefix => self.object(index, arguments),
            Known::Bytes | Known::Set | Known::FrozenSet => self.call(class, arguments),
            Known::Other => {
                let Slot::Global(new) = self.arena.add_global("copyreg", "__newobj__")? else {
                    return Err(Problem::Stack);
                };
                arguments.insert(0, class);
                self.object(new, arguments)
            }
            _ => Err(Problem::Unsupported("an instance of such a class")),
        }
    }

    fn object(&mut self, class: u32, arguments: Vec<Slot>) -> Result<Slot, Problem> {
        self.arena.add(Node::Object {
            class,
            arguments,
            state: None,
            items: false,
        })
    }

    fn frozen_set(&mut self, items: Vec<Slot>) -> Result<Slot, Problem> {
        let Slot::Global(class) = self.arena.add_global("builtins", "frozenset")? else {
            return Err(Problem::Stack);
        };
        let items = self.arena.add(Node::List(items))?;
        self.object(class, vec![items])
    }

    /// `bytes()`, `bytes(b'…')`, `bytearray('…', 'latin-1')`.
    fn call_bytes(&mut self, arguments: &[Slot]) -> Result<Slot, Problem> {
        match *arguments {
            [] => Ok(Slot::Bytes(self.arena.span(0, 0)?)),
            [Slot::Bytes(span) | Slot::Native(span)] => Ok(Slot::Bytes(span)),
            [Slot::Text(_), _] => self.call_encode(arguments),
            _ => Err(Problem::Unsupported("bytes made of something else")),
        }
    }

    /// `_codecs.encode('…', 'latin1')`: bytes in protocols that know no bytes.
    fn call_encode(&mut self, arguments: &[Slot]) -> Result<Slot, Problem> {
        let (text, codec) = match *arguments {
            [Slot::Text(text), Slot::Text(codec) | Slot::Native(codec)] => (text, codec),
            _ => return Err(Problem::Unsupported("encoding something else than text")),
        };
        if !matches!(
            self.arena.bytes(codec),
            b"latin1" | b"latin-1" | b"iso-8859-1"
        ) {
            return Err(Problem::Unsupported(
                "encoding to something else than Latin-1",
            ));
        }
        let text = std::str::from_utf8(self.arena.bytes(text)).map_err(|_| Problem::NotText)?;
        let bytes = text
            .chars()
            .map(|character| u8::try_from(u32::from(character)).map_err(|_| Problem::NotText))
            .collect::<Result<Vec<u8>, _>>()?;
        Ok(Slot::Bytes(self.arena.keep(bytes)?))
    }

    /// The items of the one container that is an argument; nothing, of none.
    fn iterable(&mut self, arguments: &[Slot]) -> Result<Vec<Slot>, Problem> {
        let items = match *arguments {
            [] => Vec::new(),
            [container] => match self.arena.node(container) {
                Some(Node::List(items) | Node::Tuple(items) | Node::Set(items)) => items.clone(),
                _ => return Err(Problem::Stack),
            },
            _ => return Err(Problem::Stack),
        };
        self.count(items.len())?;
        Ok(items)
    }

    fn named_global(&mut self) -> Result<Slot, Problem> {
        let module = self.line_span()?;
        let name = self.line_span()?;
        self.global(module, name)
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

    fn count(&mut self, values: usize) -> Result<(), Problem> {
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

    // The input.

    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let end = self.at.checked_add(length).ok_or(Problem::Truncated)?;
        let bytes = self.input.get(self.at..end).ok_or(Problem::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| Problem::Truncated)
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        let byte = *self.input.get(self.at).ok_or(Problem::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A length of one, four or eight bytes.
    fn length(&mut self, size: usize) -> Result<usize, Problem> {
        let mut all = [0; 8];
        all[..size].copy_from_slice(self.take(size)?);
        usize::try_from(u64::from_le_bytes(all)).map_err(|_| Problem::Truncated)
    }

    fn line(&mut self) -> Result<&'a [u8], Problem> {
        let rest = &self.input[self.at..];
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or(Problem::Truncated)?;
        self.at += end + 1;
        let line = &rest[..end];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn line_span(&mut self) -> Result<Span, Problem> {
        let start = self.at;
        let length = self.line()?.len();
        self.arena.span(start, length)
    }

    fn line_index(&mut self) -> Result<u32, Problem> {
        let line = std::str::from_utf8(self.line()?).map_err(|_| Problem::NotNumber)?;
        line.parse().map_err(|_| Problem::NotNumber)
    }

    fn push_span(&mut self, size: usize, slot: fn(Span) -> Slot) -> Result<(), Problem> {
        let length = self.length(size)?;
        let start = self.at;
        self.take(length)?;
        let span = self.arena.span(start, length)?;
        self.push(slot(span))
    }

    fn push_long(&mut self, length: usize) -> Result<(), Problem> {
        let start = self.at;
        let bytes = self.take(length)?;
        match literal::small_integer(bytes) {
            Some(int) => self.push(Slot::Int(int)),
            None => {
                let span = self.arena.span(start, length)?;
                self.push(Slot::BigInt(span))
            }
        }
    }

    fn push_decimal(&mut self, digits: &[u8]) -> Result<(), Problem> {
        let bytes = literal::decimal(digits.trim_ascii()).ok_or(Problem::NotNumber)?;
        match literal::small_integer(&bytes) {
            Some(int) => self.push(Slot::Int(int)),
            None => {
                let span = self.arena.keep(bytes)?;
                self.push(Slot::BigInt(span))
            }
        }
    }
}

fn pairs(items: &[Slot]) -> Result<Vec<(Slot, Slot)>, Problem> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Problem::Stack);
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}
