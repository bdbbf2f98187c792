//! The lines of a file, and of those that `%include` names.
//!
//! A name is taken from the folder of the file that names it, as ZConfig joins URLs: `%20` is a blank,
//! `file:` may stand before it. Other schemes are not fetched. Comments need not be UTF-8: the files
//! are old.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::define::Wrong;

/// Longer than this is no configuration.
const LARGEST: u64 = 4 << 20;

/// Lines, and where they are from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// As it is named in messages.
    pub(super) file: Arc<Path>,
    /// What names in it are relative to.
    pub(super) folder: PathBuf,
    /// What relative paths of its server are taken from, which ran in a folder that no file names.
    pub(super) base: PathBuf,
    pub(super) lines: Vec<Line>,
}

#[derive(Debug, Clone)]
pub(super) struct Line {
    /// A part of a buildout may have lines of several.
    pub(super) file: Arc<Path>,
    /// Counted from 1.
    pub(super) number: usize,
    /// None where it is not UTF-8.
    pub(super) text: Option<String>,
}

impl Source {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> std::io::Result<Source> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Err(std::io::Error::other("it is too large for a configuration"));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        let file: Arc<Path> = path.into();
        let lines = lines.map(|(index, line)| Line {
            file: file.clone(),
            number: index + 1,
            text: match std::str::from_utf8(line) {
                Ok(text) => Some(text.to_owned()),
                Err(_) if line.trim_ascii_start().starts_with(b"#") => Some(String::new()),
                Err(_) => None,
            },
        });
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        // The old instances have their `etc` as ours.
        let base = match folder.parent() {
            Some(above) if folder.ends_with("etc") => above.to_owned(),
            _ => folder.clone(),
        };
        Ok(Source {
            lines: lines.collect(),
            file,
            folder,
            base,
        })
    }
}

/// The file that `%include` names, seen from a folder.
pub(super) fn resolve(folder: &Path, name: &str) -> Result<PathBuf, Wrong> {
    let local = |mend: &str| {
        Err((
            format!("`{name}` is no file of this machine"),
            mend.to_owned(),
        ))
    };
    let name_of_file = match scheme(name) {
        None => name,
        Some(scheme) if scheme.eq_ignore_ascii_case("file") => {
            let rest = &name["file:".len()..];
            match rest.strip_prefix("//") {
                Some(rest) if rest.starts_with('/') => rest,
                Some(rest) if rest.starts_with("localhost/") => &rest["localhost".len()..],
                Some(_) => return local("write its path, or copy it here"),
                None => rest,
            }
        }
        Some(_) => return local("copy its lines here, or into a file beside this one"),
    };
    if name_of_file.contains('#') {
        return Err((
            format!("`{name}` has a `#`, which ZConfig takes for a fragment"),
            "give the file a name without it".into(),
        ));
    }
    Ok(folder.join(unquoted(name_of_file)))
}

/// `http` of `http://…`.
fn scheme(name: &str) -> Option<&str> {
    let (scheme, _) = name.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    is_scheme.then_some(scheme)
}

/// `a%20b` is `a b`. What is no such code stays as it is.
fn unquoted(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| name.get(at + 1..at + 3))
            .flatten();
        let byte = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if let Some(byte) = byte.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            plain.push(byte);
            at += 3;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(plain).unwrap_or_else(|_| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_from_the_folder_of_the_file() {
        for (name, path) in [
            ("a.conf", "/srv/etc/a.conf"),
            ("../a.conf", "/srv/etc/../a.conf"),
            ("/a/b.conf", "/a/b.conf"),
            ("a%20b.conf", "/srv/etc/a b.conf"),
            ("a%2.conf", "/srv/etc/a%2.conf"),
            ("file:///a.conf", "/a.conf"),
            ("file:/a.conf", "/a.conf"),
            ("FILE://localhost/a.conf", "/a.conf"),
        ] {
            assert_eq!(
                resolve(Path::new("/srv/etc"), name),
                Ok(path.into()),
                "{name}"
            );
        }
        for name in [
            "http://example.org/a.conf",
            "package:zope:a.conf",
            "a.conf#b",
            "file://host/a",
        ] {
            assert!(resolve(Path::new("/srv/etc"), name).is_err(), "{name}");
        }
    }
}
