//! Whether a member's file can be a `Data.fs`. What it begins with says so, and nothing else is read: what
//! comes after that is for whoever opens it, and for `inspect`.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use super::mistake::Mistake;
use super::model::{ArrayConfig, Config, MemberConfig, MemberStorage, Origin};
use super::section::shown;
use crate::zodb::is_data_fs;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A file without a byte, or one whose making was cut short: the daemon, and Python, begin in it.
    Empty,
    DataFs,
    /// Why it is none.
    Other(String),
    /// Whoever may read it will tell.
    Unreadable,
}

/// Looks at the first bytes of a file. Blocks.
pub(crate) fn look(path: &Path) -> Found {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Found::Nothing,
        Err(_) => return Found::Unreadable,
    };
    if !metadata.is_file() {
        return Found::Other("is not a file".into());
    }
    let mut begins = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut begins));
    match read {
        Err(_) => Found::Unreadable,
        Ok(_) if is_data_fs(&begins) => Found::DataFs,
        Ok(_) if metadata.len() <= 4 && begins.iter().all(|byte| *byte == 0) => Found::Empty,
        Ok(_) => Found::Other(format!(
            "is not a Data.fs: it begins with \"{}\"",
            begins.escape_ascii()
        )),
    }
}

/// What is wrong with the members' files, each with the line that names it.
pub(super) fn check(config: &Config) -> Vec<Mistake> {
    let arrays = config.arrays.iter();
    let members = arrays.flat_map(|array| array.members.iter().map(move |member| (array, member)));
    let mistakes = members.filter_map(|(array, member)| check_member(config, array, member));
    mistakes.collect()
}

fn check_member(config: &Config, array: &ArrayConfig, member: &MemberConfig) -> Option<Mistake> {
    let MemberStorage::File { file, .. } = &member.storage else {
        return None;
    };
    let (what, mend) = match look(file) {
        Found::Other(what) => {
            let rebuild = format!("zeoraidctl recover --rebuild {}", member.name);
            let mend = format!("the path of a Data.fs; of one that is damaged: {rebuild}");
            (what, mend)
        }
        // Later the membership record says who must be there.
        Found::Nothing if member.adopted && !array.record.exists() => {
            let mend = "the path of the Data.fs to take over; for a new one remove `adopted`";
            ("is not there".to_owned(), mend.to_owned())
        }
        _ => return None,
    };
    let key = format!("arrays.{}.members.{}.file", array.name, member.name);
    let setting = config.explain().iter().find(|setting| setting.key == key);
    let line = setting.and_then(|setting| match setting.origin {
        Origin::Line(line) => Some(line),
        Origin::Default | Origin::Environment(_) => None,
    });
    let path = shown(&config.instance, file);
    let mut mistake = Mistake::at(line.unwrap_or(0), 1, format!("{key}: {path} {what}"), mend);
    mistake.file = super::shown(&config.instance, &config.file);
    Some(mistake)
}
