//! Globals and instances: what calling something would give, without calling it.

use super::arena::{Arena, Known, Node, Slot, Span};
use super::machine::Machine;
use super::read::{Globals, Problem};

impl Machine<'_> {
    pub(super) fn global(&mut self, module: Span, name: Span) -> Result<Slot, Problem> {
        let text = |span| {
            std::str::from_utf8(self.arena.bytes(span))
                .map(str::to_owned)
                .map_err(|_| Problem::NotText)
        };
        let (module, name) = (text(module)?, text(name)?);
        // `GLOBAL`, by which we write it, ends each of them with a line break.
        if [&module, &name]
            .iter()
            .any(|text| text.contains(['\n', '\r']))
        {
            return Err(Problem::Unsupported(
                "a global with a line break in its name",
            ));
        }
        if self.limits.globals == Globals::Known && Known::of(&module, &name) == Known::Other {
            return Err(Problem::Global { module, name });
        }
        self.arena.add_global(&module, &name)
    }

    /// What calling a global would give, where that is known; else an object by name.
    pub(super) fn call(&mut self, callable: Slot, arguments: Vec<Slot>) -> Result<Slot, Problem> {
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
            Known::Dict => {
                let entries = self.entries(&arguments)?;
                self.arena.add(Node::Dict(entries))
            }
            Known::List => {
                let items = self.iterable(&arguments)?;
                self.arena.add(Node::List(items))
            }
            Known::Tuple => {
                let items = self.iterable(&arguments)?;
                self.arena.add(Node::Tuple(items))
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

    pub(super) fn new_object(
        &mut self,
        class: Slot,
        mut arguments: Vec<Slot>,
    ) -> Result<Slot, Problem> {
        let Slot::Global(index) = class else {
            return Err(Problem::Stack);
        };
        match self.arena.known(index) {
            Known::Prefix => self.object(index, arguments),
            Known::Bytes
            | Known::Set
            | Known::FrozenSet
            | Known::Dict
            | Known::List
            | Known::Tuple => self.call(class, arguments),
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

    pub(super) fn frozen_set(&mut self, items: Vec<Slot>) -> Result<Slot, Problem> {
        let Slot::Global(class) = self.arena.add_global("builtins", "frozenset")? else {
            return Err(Problem::Stack);
        };
        let items = self.arena.add(Node::List(items))?;
        self.object(class, vec![items])
    }

    /// `bytes()`, `bytes(b'…')`, `bytearray('…', 'latin-1')`.
    fn call_bytes(&mut self, arguments: &[Slot]) -> Result<Slot, Problem> {
        match *arguments {
            [] => Ok(Slot::Bytes(Arena::span(0, 0)?)),
            [Slot::Bytes(span) | Slot::Native(span)] => Ok(Slot::Bytes(span)),
            [Slot::Text(_), _] => self.call_encode(arguments),
            _ => Err(Problem::Unsupported("bytes made of something else")),
        }
    }

    /// `_codecs.encode('…', 'latin1')`: bytes in protocols that know no bytes.
    fn call_encode(&mut self, arguments: &[Slot]) -> Result<Slot, Problem> {
        let [Slot::Text(text), Slot::Text(codec) | Slot::Native(codec)] = *arguments else {
            return Err(Problem::Unsupported("encoding something else than text"));
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

    /// What `dict` makes of its argument: the entries of a dictionary, or of a sequence of pairs.
    fn entries(&mut self, arguments: &[Slot]) -> Result<Vec<(Slot, Slot)>, Problem> {
        if let [container] = *arguments
            && let Some(Node::Dict(entries)) = self.arena.node(container)
        {
            let entries = entries.clone();
            self.count(2 * entries.len())?;
            return Ok(entries);
        }
        let items = self.iterable(arguments)?;
        self.count(items.len())?;
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            match self.arena.node(item) {
                Some(Node::Tuple(pair) | Node::List(pair)) => match pair[..] {
                    [key, value] => entries.push((key, value)),
                    _ => return Err(Problem::Stack),
                },
                _ => return Err(Problem::Stack),
            }
        }
        Ok(entries)
    }

    pub(super) fn named_global(&mut self) -> Result<Slot, Problem> {
        let module = self.line_span()?;
        let name = self.line_span()?;
        self.global(module, name)
    }
}
