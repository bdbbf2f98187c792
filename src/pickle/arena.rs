//! What a pickle has built so far.
//!
//! Pickles share: a list that was memoized while empty is filled later, and every reference to it
//! sees that. So containers live in an arena and are referred to by number while the pickle is read;
//! [`Arena::freeze`] makes the tree, and counts: what is referred to twice is built twice, so a few
//! bytes could otherwise become any amount of memory. A container that contains itself ends at the
//! limit of depth.

use bytes::Bytes;

use super::literal;
use super::read::{Limits, Problem, Strings};
use super::value::Value;

/// A piece of the pickle, or of what was decoded from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// 0 is the pickle itself, `n` the `n - 1`th decoded piece.
    source: u32,
    start: u32,
    length: u32,
}

/// One value on the stack or in a container. Small and `Copy`: what is large is elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    None,
    Bool(bool),
    Int(i64),
    BigInt(Span),
    Float(f64),
    Bytes(Span),
    /// A byte string of Python 2.
    Native(Span),
    /// Valid UTF-8.
    Text(Span),
    /// Index of a global.
    Global(u32),
    /// Index of a container.
    Node(u32),
}

#[derive(Debug)]
pub(super) enum Node {
    Tuple(Vec<Slot>),
    List(Vec<Slot>),
    Dict(Vec<(Slot, Slot)>),
    Set(Vec<Slot>),
    Object {
        class: u32,
        arguments: Vec<Slot>,
        state: Option<Slot>,
        /// It was given items (a subclass of list or dict), which no [`Value`] can say.
        items: bool,
    },
}

/// What a global means to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// `ZopeUndo.Prefix.Prefix`: an instance is an object with state.
    Prefix,
    /// `bytes`, `bytearray`, `zodbpickle.binary`.
    Bytes,
    Set,
    FrozenSet,
    /// `dict`, `list`, `tuple`: by these, instances of their subclasses may say what they hold.
    Dict,
    List,
    Tuple,
    /// `object`
    Object,
    /// `copyreg._reconstructor`
    Reconstructor,
    /// `copyreg.__newobj__`
    NewObj,
    /// `_codecs.encode`
    Encode,
    /// Anything else, by name.
    Other,
}

impl Known {
    pub(super) fn of(module: &str, name: &str) -> Self {
        match (module, name) {
            ("ZopeUndo.Prefix", "Prefix") => Known::Prefix,
            ("builtins" | "__builtin__", "bytes" | "bytearray") | ("zodbpickle", "binary") => {
                Known::Bytes
            }
            ("builtins" | "__builtin__", "set") => Known::Set,
            ("builtins" | "__builtin__", "frozenset") => Known::FrozenSet,
            ("builtins" | "__builtin__", "dict") => Known::Dict,
            ("builtins" | "__builtin__", "list") => Known::List,
            ("builtins" | "__builtin__", "tuple") => Known::Tuple,
            ("builtins" | "__builtin__", "object") => Known::Object,
            ("copyreg" | "copy_reg", "_reconstructor") => Known::Reconstructor,
            ("copyreg" | "copy_reg", "__newobj__") => Known::NewObj,
            ("_codecs", "encode") => Known::Encode,
            _ => Known::Other,
        }
    }
}

#[derive(Debug)]
pub(super) struct Arena {
    pickle: Bytes,
    decoded: Vec<Bytes>,
    nodes: Vec<Node>,
    globals: Vec<(String, String)>,
    limits: Limits,
    /// Bytes that may still be made from those of the pickle, or stand in its values.
    budget: usize,
}

impl Arena {
    pub(super) fn new(pickle: Bytes, limits: Limits) -> Self {
        Arena {
            // Escapes shrink and Latin-1 at most doubles, so honest pickles stay below; but the memo
            // may repeat the same short texts many times, for two bytes each.
            budget: {
                let many = pickle.len().saturating_mul(16).saturating_add(64 << 10);
                let large = pickle.len().saturating_mul(2).saturating_add(16 << 20);
                many.min(large)
            },
            pickle,
            decoded: Vec::new(),
            nodes: Vec::new(),
            globals: Vec::new(),
            limits,
        }
    }

    /// A piece of the pickle.
    pub(super) fn span(start: usize, length: usize) -> Result<Span, Problem> {
        Ok(Span {
            source: 0,
            start: u32::try_from(start).map_err(|_| Problem::TooLarge)?,
            length: u32::try_from(length).map_err(|_| Problem::TooLarge)?,
        })
    }

    /// Keeps what was decoded.
    pub(super) fn keep(&mut self, bytes: Vec<u8>) -> Result<Span, Problem> {
        self.spend(bytes.len())?;
        let length = u32::try_from(bytes.len()).map_err(|_| Problem::TooLarge)?;
        self.decoded.push(bytes.into());
        Ok(Span {
            source: u32::try_from(self.decoded.len()).map_err(|_| Problem::TooLarge)?,
            start: 0,
            length,
        })
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        let range = span.start as usize..(span.start + span.length) as usize;
        &self.source(span)[range]
    }

    pub(super) fn add(&mut self, node: Node) -> Result<Slot, Problem> {
        let index = u32::try_from(self.nodes.len()).map_err(|_| Problem::TooLarge)?;
        self.nodes.push(node);
        Ok(Slot::Node(index))
    }

    pub(super) fn node(&self, slot: Slot) -> Option<&Node> {
        match slot {
            Slot::Node(index) => self.nodes.get(index as usize),
            _ => None,
        }
    }

    pub(super) fn node_mut(&mut self, slot: Slot) -> Option<&mut Node> {
        match slot {
            Slot::Node(index) => self.nodes.get_mut(index as usize),
            _ => None,
        }
    }

    pub(super) fn add_global(&mut self, module: &str, name: &str) -> Result<Slot, Problem> {
        self.spend(module.len() + name.len())?;
        let index = u32::try_from(self.globals.len()).map_err(|_| Problem::TooLarge)?;
        self.globals.push((module.to_owned(), name.to_owned()));
        Ok(Slot::Global(index))
    }

    pub(super) fn known(&self, global: u32) -> Known {
        let (module, name) = &self.globals[global as usize];
        Known::of(module, name)
    }

    /// The tree below a slot.
    ///
    /// A value that is not shared has a byte of its own at least; the memo repeats any number of them for two
    /// bytes, and honest pickles repeat few.
    pub(super) fn freeze(&mut self, slot: Slot) -> Result<Value, Problem> {
        let many = self.pickle.len().saturating_mul(2).saturating_add(2048);
        let mut values = self.limits.values.min(many);
        claim(&mut values, 1)?;
        self.value(slot, self.limits.depth, &mut values)
    }

    fn value(&mut self, slot: Slot, depth: usize, values: &mut usize) -> Result<Value, Problem> {
        Ok(match slot {
            Slot::None => Value::None,
            Slot::Bool(bool) => Value::Bool(bool),
            Slot::Int(int) => Value::Int(int),
            Slot::BigInt(span) => literal::integer(self.shared(span)?),
            Slot::Float(float) => Value::Float(float),
            Slot::Bytes(span) => Value::Bytes(self.shared(span)?),
            Slot::Native(span) => match (self.limits.strings, self.utf8(span)) {
                (Strings::Text, Ok(text)) => {
                    let text = text.to_owned();
                    self.spend(text.len())?;
                    Value::Text(text)
                }
                _ => Value::Bytes(self.shared(span)?),
            },
            Slot::Text(span) => {
                let text = self.utf8(span)?.to_owned();
                self.spend(text.len())?;
                Value::Text(text)
            }
            Slot::Global(index) => {
                let (module, name) = self.global(index)?;
                Value::Global { module, name }
            }
            Slot::Node(index) => {
                let depth = depth.checked_sub(1).ok_or(Problem::TooDeep)?;
                self.container(index as usize, depth, values)?
            }
        })
    }

    fn container(
        &mut self,
        index: usize,
        depth: usize,
        values: &mut usize,
    ) -> Result<Value, Problem> {
        // Items are fetched one by one, because the arena is borrowed for each of them. They are counted before
        // there is room for them: a list that contains itself would have that at every depth.
        let mut list = |arena: &mut Arena, length: usize| -> Result<Vec<Value>, Problem> {
            claim(values, length)?;
            let mut items = Vec::with_capacity(length);
            for at in 0..length {
                let (Node::Tuple(slots)
                | Node::List(slots)
                | Node::Set(slots)
                | Node::Object {
                    arguments: slots, ..
                }) = &arena.nodes[index]
                else {
                    break;
                };
                let slot = slots[at];
                items.push(arena.value(slot, depth, values)?);
            }
            Ok(items)
        };
        match &self.nodes[index] {
            Node::Tuple(slots) => {
                let length = slots.len();
                Ok(Value::Tuple(list(self, length)?))
            }
            Node::List(slots) => {
                let length = slots.len();
                Ok(Value::List(list(self, length)?))
            }
            Node::Set(slots) => {
                let length = slots.len();
                Ok(Value::Set(list(self, length)?))
            }
            Node::Dict(entries) => {
                let length = entries.len();
                claim(values, length.saturating_mul(2))?;
                let mut dict = Vec::with_capacity(length);
                for at in 0..length {
                    let Node::Dict(entries) = &self.nodes[index] else {
                        break;
                    };
                    let (key, value) = entries[at];
                    let key = self.value(key, depth, values)?;
                    dict.push((key, self.value(value, depth, values)?));
                }
                Ok(Value::Dict(dict))
            }
            Node::Object { items: true, .. } => Err(Problem::Unsupported("an object with items")),
            Node::Object {
                class,
                arguments,
                state,
                items: false,
            } => {
                let (class, length, state) = (*class, arguments.len(), *state);
                let arguments = list(self, length)?;
                let state = match state {
                    Some(state) => {
                        claim(values, 1)?;
                        Some(Box::new(self.value(state, depth, values)?))
                    }
                    None => None,
                };
                let (module, name) = self.global(class)?;
                Ok(Value::Object {
                    module,
                    name,
                    arguments,
                    state,
                })
            }
        }
    }

    fn global(&mut self, index: u32) -> Result<(String, String), Problem> {
        let (module, name) = self.globals[index as usize].clone();
        self.spend(module.len() + name.len())?;
        Ok((module, name))
    }

    fn utf8(&self, span: Span) -> Result<&str, Problem> {
        std::str::from_utf8(self.bytes(span)).map_err(|_| Problem::NotText)
    }

    fn share(&self, span: Span) -> Bytes {
        let range = span.start as usize..(span.start + span.length) as usize;
        self.source(span).slice(range)
    }

    /// Shared it takes no memory; but it does where the value is written again.
    fn shared(&mut self, span: Span) -> Result<Bytes, Problem> {
        self.spend(span.length as usize)?;
        Ok(self.share(span))
    }

    fn source(&self, span: Span) -> &Bytes {
        match span.source.checked_sub(1) {
            None => &self.pickle,
            Some(index) => &self.decoded[index as usize],
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Problem> {
        self.budget = self.budget.checked_sub(bytes).ok_or(Problem::TooMany)?;
        Ok(())
    }
}

/// Takes so many values from those that may still be built.
fn claim(values: &mut usize, many: usize) -> Result<(), Problem> {
    *values = values.checked_sub(many).ok_or(Problem::TooMany)?;
    Ok(())
}
