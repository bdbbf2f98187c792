//! What `import` shows: where clients connect, the arrays with their members, and every note.

use serde::Serialize;

use super::{ImportArgs, Target};
use crate::cli::commands::check_config::MistakeView;
use crate::cli::output::table::{Row, columns, wrap};
use crate::cli::output::{Paint, Screen, View, escape};
use crate::config::zconfig::{Imported, ImportedArray, ImportedMember, Note, NoteKind, Place};

/// What writing it does to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Create,
    Replace,
    Unchanged,
}

#[derive(Serialize)]
pub(super) struct ImportView {
    files: Vec<String>,
    /// Of a buildout.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_parts: Vec<String>,
    pub(super) to: String,
    pub(super) action: Action,
    pub(super) written: bool,
    listen: Vec<String>,
    arrays: Vec<ArrayView>,
    notes: Vec<NoteView>,
    pub(super) mistakes: Vec<MistakeView>,
    pub(super) warnings: Vec<MistakeView>,
    configuration: String,
    /// For people only what needs them.
    #[serde(skip)]
    pub(super) quiet: bool,
}

#[derive(Serialize)]
struct ArrayView {
    name: String,
    /// Other names by which clients can ask for it.
    aliases: Vec<String>,
    cluster_mode: &'static str,
    members: Vec<MemberView>,
}

#[derive(Serialize)]
struct MemberView {
    name: String,
    /// `file` or `zeo`.
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "where")]
    at: String,
    /// By which name a ZEO server knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob_dir: Option<String>,
    from: String,
}

#[derive(Serialize)]
struct NoteView {
    /// `to-do` or `known`: whether a person must do something.
    kind: &'static str,
    places: Vec<String>,
    what: String,
    mend: String,
}

/// Places beyond this are counted.
const PLACES: usize = 3;

impl ImportView {
    pub(super) fn new(
        args: &ImportArgs,
        target: &Target,
        imported: &Imported,
        action: Action,
    ) -> Self {
        let files = args.files.iter().map(|file| file.display().to_string());
        ImportView {
            files: files.collect(),
            part: imported.part.clone(),
            other_parts: imported.other_parts.clone(),
            to: target.file.display().to_string(),
            action,
            written: false,
            listen: imported.listen.clone(),
            arrays: imported.arrays.iter().map(ArrayView::from).collect(),
            notes: imported.notes.iter().map(NoteView::from).collect(),
            mistakes: Vec::new(),
            warnings: Vec::new(),
            configuration: imported.text.clone(),
            quiet: false,
        }
    }

    /// Whether a person must do something before it is started.
    pub(super) fn has_to_do(&self) -> bool {
        self.notes.iter().any(|note| note.kind == "to-do")
    }

    /// What it is made of.
    pub(super) fn from(&self) -> String {
        let files = self.files.join(" and ");
        match &self.part {
            Some(part) => format!("[{part}] of {files}"),
            None => files,
        }
    }
}

impl From<&ImportedArray> for ArrayView {
    fn from(array: &ImportedArray) -> Self {
        ArrayView {
            name: array.name.clone(),
            aliases: array.aliases.clone(),
            cluster_mode: array.cluster_mode.word(),
            members: array.members.iter().map(MemberView::from).collect(),
        }
    }
}

impl From<&ImportedMember> for MemberView {
    fn from(member: &ImportedMember) -> Self {
        MemberView {
            name: member.name.clone(),
            kind: member.kind,
            at: member.at.clone(),
            storage: member.storage.clone(),
            blob_dir: member.blob_dir.clone(),
            from: member.from.to_string(),
        }
    }
}

impl From<&Note> for NoteView {
    fn from(note: &Note) -> Self {
        NoteView {
            kind: match note.kind {
                NoteKind::ToDo => "to-do",
                NoteKind::Known => "known",
            },
            places: note.places.iter().map(Place::to_string).collect(),
            what: note.what.clone(),
            mend: note.mend.clone(),
        }
    }
}

impl View for ImportView {
    fn table(&self, screen: &Screen) -> String {
        if self.quiet {
            return self.needs_somebody(screen).trim_start().to_owned();
        }
        let style = screen.style;
        let did = match (self.action, self.written) {
            (Action::Unchanged, _) => ": up to date",
            (Action::Create, true) => " is written",
            (Action::Create, false) => " would be written",
            (Action::Replace, true) => " is replaced; what was there is beside it, as .old",
            (Action::Replace, false) => " would be replaced",
        };
        let to = style.paint(Paint::Strong, &escape(&self.to));
        let mut text = format!("{to}{did}, from {}\n", escape(&self.from()));
        if self.action == Action::Unchanged {
            text = format!("{to}{did} with {}\n", escape(&self.from()));
        }
        text += &format!("  clients connect to {}\n", escape(&self.listen.join(", ")));
        for array in &self.arrays {
            text += &array.lines(screen);
        }
        if !self.other_parts.is_empty() {
            text += &format!(
                "\nOther parts, for instances of their own: {}\n",
                escape(&self.other_parts.join(", "))
            );
        }
        text += &self.note_lines("to-do", "To do", Paint::Warning, screen);
        text += &self.note_lines("known", "Nothing to do", Paint::Faint, screen);
        text + &self.found_lines(screen)
    }
}

impl ImportView {
    /// What is to do, and what is wrong.
    fn needs_somebody(&self, screen: &Screen) -> String {
        self.note_lines("to-do", "To do", Paint::Warning, screen) + &self.found_lines(screen)
    }

    fn found_lines(&self, screen: &Screen) -> String {
        let style = screen.style;
        let mut text = String::new();
        for (found, title, paint) in [
            (&self.warnings, "Warnings of `check-config`", Paint::Warning),
            (&self.mistakes, "Mistakes", Paint::Bad),
        ] {
            if !found.is_empty() {
                text += &format!("\n{}\n", style.paint(paint, &format!("{title}:")));
                text.extend(found.iter().map(|found| found.lines(screen)));
            }
        }
        text
    }

    fn note_lines(&self, kind: &str, title: &str, paint: Paint, screen: &Screen) -> String {
        let notes: Vec<&NoteView> = self.notes.iter().filter(|note| note.kind == kind).collect();
        if notes.is_empty() {
            return String::new();
        }
        let mut text = format!("\n{}\n", screen.style.paint(paint, &format!("{title}:")));
        for note in notes {
            let mut places = note
                .places
                .iter()
                .take(PLACES)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            if note.places.len() > PLACES {
                places += &format!(" and {} more", note.places.len() - PLACES);
            }
            let what = format!("{places}: {}", note.what);
            for (index, line) in wrap(&escape(&what), screen.width.saturating_sub(4))
                .iter()
                .enumerate()
            {
                let indent = if index == 0 { 2 } else { 4 };
                text += &format!("{:indent$}{line}\n", "");
            }
            for line in wrap(&escape(&note.mend), screen.width.saturating_sub(6)) {
                text += &format!("      {}\n", screen.style.paint(Paint::Faint, &line));
            }
        }
        text
    }
}

impl ArrayView {
    fn lines(&self, screen: &Screen) -> String {
        let name = screen.style.paint(Paint::Strong, &escape(&self.name));
        let mut text = format!("\nArray {name}, cluster mode {}", self.cluster_mode);
        if !self.aliases.is_empty() {
            text += &format!("; answers to {} as well", escape(&self.aliases.join(", ")));
        }
        text.push('\n');
        let rows = self.members.iter().map(|member| {
            let at = match &member.storage {
                Some(storage) if storage != "1" => format!("{}, storage {storage}", member.at),
                _ => member.at.clone(),
            };
            let below = member
                .blob_dir
                .iter()
                .map(|folder| format!("blobs in {}", escape(folder)));
            Row {
                cells: vec![
                    escape(&member.name).into_owned(),
                    member.kind.to_owned(),
                    escape(&at).into_owned(),
                    escape(&member.from).into_owned(),
                ],
                below: below.collect(),
            }
        });
        let rows = rows.collect();
        text + &columns(
            &["MEMBER", "TYPE", "WHERE", "FROM"],
            rows,
            Some(2),
            screen.width,
            screen.style,
        )
    }
}
