//! Finds the ZEO servers of a buildout: parts that hold a `zeo.conf` (`zc.zodbrecipes:server`,
//! `gocept.zeoraid:server`), and parts that wrote one (`plone.recipe.zeoserver` and its like).
//!
//! `${section:option}` is put in as `zc.buildout` does it, with what the recipes of those servers add:
//! `location` of every part, `path` of `zc.recipe.filestorage`.

mod ini;

use std::path::{Path, PathBuf};

use super::ImportError;
use super::include::{Line, Source};
use crate::config::Mistake;
use ini::Ini;

/// A part that holds a server's configuration.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) source: Source,
    /// The other parts that do.
    pub(super) others: Vec<String>,
}

/// References that refer to references deeper than this go in circles.
const DEEPEST: usize = 16;

/// Whether a file is a buildout's: its first line begins a section with `[`.
pub(super) fn is_buildout(source: &Source) -> bool {
    let lines = source.lines.iter().filter_map(|line| line.text.as_deref());
    let mut lines = lines
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    lines.next().is_some_and(|line| line.starts_with('['))
}

/// The part that was named, or the only one.
pub(super) fn part(
    source: &Source,
    named: Option<&str>,
) -> Result<Result<Part, Vec<Mistake>>, ImportError> {
    let (ini, mistakes) = Ini::read(source);
    if !mistakes.is_empty() {
        return Ok(Err(mistakes));
    }
    let buildout = Buildout {
        directory: std::path::absolute(&source.folder).unwrap_or_else(|_| source.folder.clone()),
        ini,
    };
    let parts: Vec<String> = buildout.parts();
    let path = source.file.to_path_buf();
    let name = match (named, parts.as_slice()) {
        (Some(name), parts) if parts.iter().any(|part| part == name) => name.to_owned(),
        (Some(name), _) => {
            let part = name.to_owned();
            return Err(ImportError::NoSuchPart { path, part, parts });
        }
        (None, [only]) => only.clone(),
        (None, [_, ..]) if buildout.installed(&parts).len() == 1 => {
            buildout.installed(&parts).remove(0)
        }
        (None, []) => {
            let mut mistake = Mistake::at(
                0,
                0,
                "no part of this buildout holds a ZEO server's configuration",
                "name the zeo.conf itself; the recipes known are zc.zodbrecipes:server, gocept.zeoraid:server and \
                 plone.recipe.zeoserver",
            );
            mistake.file = path;
            return Ok(Err(vec![mistake]));
        }
        (None, _) => {
            let parts = Some(buildout.installed(&parts))
                .filter(|installed| !installed.is_empty())
                .unwrap_or(parts);
            return Err(ImportError::WhichPart { path, parts });
        }
    };
    let others = buildout
        .installed(&parts)
        .into_iter()
        .filter(|part| *part != name)
        .collect();
    Ok(buildout.source(&name, &path).map(|source| Part {
        name,
        source,
        others,
    }))
}

struct Buildout {
    directory: PathBuf,
    ini: Ini,
}

impl Buildout {
    fn parts(&self) -> Vec<String> {
        let names = self.ini.sections.iter().map(|(name, _)| name);
        let is_server =
            |name: &&String| self.ini.option(name, "zeo.conf").is_some() || self.writes_one(name);
        names.filter(is_server).cloned().collect()
    }

    /// Those that are made, and not only referred to.
    fn installed(&self, parts: &[String]) -> Vec<String> {
        let made = self
            .ini
            .option("buildout", "parts")
            .map(ini::Value::text)
            .unwrap_or_default();
        let made: Vec<&str> = made.split_whitespace().collect();
        parts
            .iter()
            .filter(|part| made.contains(&part.as_str()))
            .cloned()
            .collect()
    }

    /// Whether a part's recipe writes a `zeo.conf` of many options.
    fn writes_one(&self, part: &str) -> bool {
        let recipe = self
            .ini
            .option(part, "recipe")
            .map(ini::Value::text)
            .unwrap_or_default();
        [
            "plone.recipe.zeoserver",
            "plone.recipe.zope2zeoserver",
            "isotoma.recipe.zeo",
        ]
        .contains(&recipe.as_str())
    }

    /// The lines of a part's `zeo.conf`.
    fn source(&self, part: &str, path: &Path) -> Result<Source, Vec<Mistake>> {
        if self.ini.option(part, "zeo.conf").is_none() {
            return self.written(part, path);
        }
        let value = self.ini.option(part, "zeo.conf");
        let mut mistakes = Vec::new();
        let mut lines = Vec::new();
        for line in value
            .map(|value| value.lines.as_slice())
            .unwrap_or_default()
        {
            let text = line.text.as_deref().unwrap_or("");
            match self.replace(text, part, 0) {
                // What is put in may be several lines; they stand where they are put in.
                Ok(text) => lines.extend(text.split('\n').map(|text| Line {
                    text: Some(text.to_owned()),
                    ..line.clone()
                })),
                Err((what, mend)) => {
                    let mut mistake = Mistake::at(line.number, 1, what, mend);
                    mistake.file = line.file.to_path_buf();
                    mistakes.push(mistake);
                }
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Source {
            file: path.into(),
            folder: self.directory.clone(),
            base: self.directory.clone(),
            lines,
        })
    }

    /// What the recipe wrote when the buildout was run.
    fn written(&self, part: &str, path: &Path) -> Result<Source, Vec<Mistake>> {
        let wrong = |what: String, mend: String| {
            let mut mistake = Mistake::at(0, 0, what, mend);
            path.clone_into(&mut mistake.file);
            Err(vec![mistake])
        };
        let own = self.ini.option(part, "zeo-conf").map(ini::Value::text);
        let file = match own.map(|text| self.replace(&text, part, 0)) {
            None => self.parts_directory().join(part).join("etc/zeo.conf"),
            Some(Ok(text)) => self.directory.join(text),
            Some(Err((what, mend))) => return wrong(format!("[{part}] zeo-conf: {what}"), mend),
        };
        match Source::read(&file) {
            Ok(source) => Ok(Source {
                base: self.directory.clone(),
                ..source
            }),
            Err(error) => wrong(
                format!(
                    "the recipe of [{part}] writes {}, which could not be read: {error}",
                    file.display()
                ),
                "run the buildout first, or name the zeo.conf itself".to_owned(),
            ),
        }
    }

    fn parts_directory(&self) -> PathBuf {
        let own = self.ini.option("buildout", "parts-directory");
        let own = own.and_then(|value| self.replace(&value.text(), "buildout", 0).ok());
        self.directory.join(own.as_deref().unwrap_or("parts"))
    }

    /// `${section:option}`, and `$${` for what is to stay `${`.
    fn replace(&self, text: &str, part: &str, depth: usize) -> Result<String, (String, String)> {
        let pieces: Result<Vec<String>, _> = text
            .split("$$")
            .map(|piece| self.replace_in(piece, part, depth))
            .collect();
        Ok(pieces?.join("$$").replace("$${", "${"))
    }

    fn replace_in(&self, text: &str, part: &str, depth: usize) -> Result<String, (String, String)> {
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            result.push_str(before);
            let reference = after
                .split_once('}')
                .and_then(|(reference, rest)| Some((reference.split_once(':')?, rest)));
            let Some(((section, option), after)) = reference else {
                return Err((
                    format!("`${{{after}` is no `${{section:option}}`"),
                    "for a `${name}` of ZConfig write `$${name}`".into(),
                ));
            };
            let section = if section.is_empty() { part } else { section };
            result.push_str(&self.value(section, option, depth)?);
            rest = after;
        }
        result.push_str(rest);
        Ok(result)
    }

    fn value(&self, section: &str, option: &str, depth: usize) -> Result<String, (String, String)> {
        if depth > DEEPEST {
            return Err((
                format!("`${{{section}:{option}}}` refers to itself in the end"),
                "write the value out".into(),
            ));
        }
        let written = self.ini.option(section, option);
        let value = written
            .map(|value| self.replace(&value.text(), section, depth + 1))
            .transpose()?;
        let recipe = self.ini.option(section, "recipe").map(ini::Value::text);
        let below = |folder: PathBuf| Ok(folder.display().to_string());
        match (section, option, value, recipe.as_deref()) {
            (_, "path", Some(path), Some("zc.recipe.filestorage")) => {
                below(self.directory.join(path))
            }
            (_, _, Some(value), _) => Ok(value),
            ("buildout", "directory", None, _) => below(self.directory.clone()),
            ("buildout", "parts-directory", None, _) => below(self.parts_directory()),
            ("buildout", "bin-directory", None, _) => below(self.directory.join("bin")),
            (part, "path", None, Some("zc.recipe.filestorage")) => {
                below(self.parts_directory().join(part).join("Data.fs"))
            }
            (part, "location", None, Some(_)) => below(self.parts_directory().join(part)),
            _ => {
                let mend = if self.ini.unread.is_empty() {
                    "write the value out, or import the zeo.conf that the buildout wrote".to_owned()
                } else {
                    format!(
                        "it may be in {}, which was not read: write the value out",
                        self.ini.unread.join(", ")
                    )
                };
                Err((format!("`${{{section}:{option}}}` is not known"), mend))
            }
        }
    }
}
