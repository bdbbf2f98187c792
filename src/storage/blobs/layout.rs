//! How a folder of blobs is laid out, and how to tell.
//!
//! Source: `ZODB/blob.py`, `auto_layout_select`, `BushyLayout`, `LawnLayout`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::durable;
use crate::zodb::{Oid, Tid};

/// The file that names the layout.
const MARKER: &str = ".layout";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A folder for each byte of the oid.
    Bushy,
    /// One folder for each oid.
    Lawn,
}

impl Layout {
    const fn name(self) -> &'static str {
        match self {
            Layout::Bushy => "bushy",
            Layout::Lawn => "lawn",
        }
    }

    /// Whose folder this is, below the root.
    pub(super) fn oid_of(self, folder: &Path) -> Option<Oid> {
        let mut names = folder.iter().map(|name| name.to_str());
        match self {
            Layout::Bushy => {
                let bytes: Option<Vec<u8>> = names.map(|name| byte_of(name?)).collect();
                Some(Oid::from_bytes(bytes?.try_into().ok()?))
            }
            Layout::Lawn => {
                let digits = names.next()??.strip_prefix("0x")?;
                names.next().is_none().then_some(())?;
                u64::from_str_radix(digits, 16).ok().map(Oid)
            }
        }
    }

    /// The folder of an oid, below the root.
    pub(super) fn folder(self, oid: Oid) -> PathBuf {
        match self {
            Layout::Bushy => oid
                .to_bytes()
                .iter()
                .map(|byte| format!("0x{byte:02x}"))
                .collect(),
            Layout::Lawn => PathBuf::from(repr(oid.to_bytes())),
        }
    }
}

/// A byte of an oid, as its folder is named in the bushy layout.
fn byte_of(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("0x")?;
    u8::from_str_radix(digits, 16).ok()
}

/// The name of a revision's file.
pub(super) fn file_name(tid: Tid) -> String {
    repr(tid.to_bytes()) + ".blob"
}

/// Whose file has this name.
pub(super) fn tid_of(name: &str) -> Option<Tid> {
    let digits = name.strip_prefix("0x")?.strip_suffix(".blob")?;
    u64::from_str_radix(digits, 16).ok().map(Tid)
}

/// `oid_repr` and `tid_repr` of ZODB: as many whole bytes as are needed.
fn repr(bytes: [u8; 8]) -> String {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    let mut name = String::from("0x");
    for byte in &bytes[first..] {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

/// The layout of a folder that is there: what the marker says, or what is in it.
pub(super) fn detect(root: &Path) -> io::Result<Layout> {
    let marker = root.join(MARKER);
    match fs::read_to_string(&marker) {
        Ok(name) => {
            return match name.trim() {
                "bushy" => Ok(Layout::Bushy),
                "lawn" => Ok(Layout::Lawn),
                other => Err(nonsense(format!(
                    "{} names the layout `{}`, which is neither `bushy` nor `lawn`",
                    marker.display(),
                    other.escape_debug()
                ))),
            };
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // ZODB takes any folder that has something in it for a lawn. What is no lawn would be written into,
    // and blobs of a bushy folder that lost its marker would not be found: better to ask.
    let mut layout = Layout::Bushy;
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "tmp" {
            continue;
        }
        // `0x00` alone is the top of a bushy tree, or the root object in a lawn, which is no blob.
        if name == "0x00" || !is_lawn_name(&name) {
            return Err(nonsense(format!(
                "{} is not empty, has no file {MARKER}, and `{}` in it is no blob's folder of the old \
                 layout: if it is a folder of blobs, write `bushy` or `lawn` into {}",
                root.display(),
                name.escape_debug(),
                marker.display()
            )));
        }
        layout = Layout::Lawn;
    }
    Ok(layout)
}

fn is_lawn_name(name: &str) -> bool {
    name.strip_prefix("0x").is_some_and(|digits| {
        (1..=16).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Writes the marker, where there is none.
pub(super) fn mark(root: &Path, layout: Layout) -> io::Result<()> {
    let marker = root.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    durable::write_with_mode(&marker, layout.name().as_bytes(), 0o644)
}

fn nonsense(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}
