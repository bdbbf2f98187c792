//! A recipe, as it is after `extends`, and after the additions to it.
//!
//! ```yaml
//! description: one daemon with copies of its own
//! extends: base                  # or a list; what follows adds to it and replaces by name
//! options:
//!   - name: members              # asked in this order
//!     prompt: How many complete copies
//!     kind: count                # text, word, count, flag, choice, address, addresses, path, paths
//!     default: 2                 # a template may name earlier options: "{{name}}.fs"
//!     check: {min: 1, max: 9}
//! folders: {var: "0750"}         # made where missing, never removed with something in them
//! parts:
//!   config:
//!     template: zeoraid.yaml     # from templates/
//!     target: etc/zeoraid.yaml   # within the instance
//!     mode: "0644"
//!     when: members              # left out where this option is empty or no
//!     values: {socket: "{{instance}}/var/zeoraid.sock"}
//!   server:
//!     template: zeo.conf
//!     target: "etc/zeo{{index}}.conf"
//!     each: servers              # one for each: of a count, of a list, or of the files of another part
//! ```
//!
//! A part's values, and its `target`, are `{{config.socket}}` and `{{config.target}}` in every template;
//! those of all files of a part are `{{#each config.each}}{{this.socket}}{{/each}}`.
//!
//! A recipe with `addition: true` makes no instance by itself. It is combined with one that does, comes
//! after it, and sees its options and values. What it cannot do without, it says:
//! `needs: {admin_address: "127.0.0.1:8101"}` makes that option one that must be answered, with this
//! default. All of it is described for people in `zeoraid-recipe(5)`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::when::When;

/// A recipe whose `extends` is resolved, or several that are combined.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub name: String,
    pub description: String,
    /// It makes no instance by itself.
    pub addition: bool,
    /// The additions that it is combined with.
    pub with: Vec<String>,
    /// In the order in which they are asked.
    pub options: Vec<OptionSpec>,
    pub folders: Vec<Folder>,
    pub parts: Vec<Part>,
    /// Of an addition: options of what it is combined with, and their defaults.
    pub(super) needs: Vec<Need>,
}

/// An option that an addition cannot do without.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Need {
    pub(super) option: String,
    pub(super) default: String,
    pub(super) place: Place,
}

/// Something that a person decides.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key that recipes have"
)]
pub struct OptionSpec {
    pub name: String,
    pub prompt: String,
    /// A person is asked for it, and not only may answer it.
    pub ask: bool,
    /// More than fits into the prompt.
    pub help: Option<String>,
    pub kind: Kind,
    /// A template over earlier options; none where it must be answered.
    pub default: Option<String>,
    /// May be empty.
    pub optional: bool,
    pub min: Option<u64>,
    pub max: Option<u64>,
    /// A list that has as many entries as this count says.
    pub as_many_as: Option<String>,
    /// A path that must be an existing file.
    pub must_exist: bool,
    /// A path that must be a `Data.fs` with something in it.
    pub data_fs: bool,
    /// Not asked (and empty) where this is not met.
    pub when: When,
    /// The addition that cannot do without it.
    pub needed_by: Option<String>,
    pub place: Place,
}

/// What kind of value an option has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Letters, digits, `-`, `_`, `.`: what may be part of a name.
    Word,
    Count,
    Flag,
    Choice(Vec<String>),
    /// `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
    Address,
    /// Several, with commas between.
    Addresses,
    /// Absolute, or relative to the instance.
    Path,
    /// Several, with commas between.
    Paths,
}

/// A folder of the instance, or several.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// A template; absolute, or relative to the instance.
    pub path: String,
    pub mode: u32,
    pub when: When,
    pub each: Option<String>,
    pub place: Place,
}

/// One file of the instance, or one for each of something.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub name: String,
    pub template: String,
    /// A template; relative to the instance.
    pub target: String,
    pub mode: u32,
    pub when: When,
    /// An option (a count or a list), or a part.
    pub each: Option<String>,
    pub values: BTreeMap<String, String>,
    /// A process that runs by the file.
    pub process: Option<Process>,
    pub place: Place,
}

/// A process that runs by a file. All are templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The Unix socket on which it answers while it runs.
    pub socket: String,
    /// The command that starts it, for a shell.
    pub start: String,
    /// The command that ends it.
    pub stop: String,
    /// Where it listens for others, as options name addresses: nobody else may be there when it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The file with its copy of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// Where something is written, for messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: Option<usize>,
}

impl Recipe {
    pub fn option(&self, name: &str) -> Option<&OptionSpec> {
        self.options.iter().find(|option| option.name == name)
    }

    /// Whether the default of an option is made of other answers.
    pub fn follows_others(&self, option: &OptionSpec) -> bool {
        let default = option.default.as_deref().unwrap_or_default();
        let mut words = default.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        default.contains("{{") && words.any(|word| self.option(word).is_some())
    }

    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// The names of it and of its additions, for people.
    pub fn title(&self) -> String {
        match self.with.as_slice() {
            [] => self.name.clone(),
            with => format!("{} with {}", self.name, with.join(", ")),
        }
    }
}
