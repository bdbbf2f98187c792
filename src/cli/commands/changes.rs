//! What would change, or has changed, in an instance: as a table, and line by line.

use std::path::Path;

use serde::Serialize;

use crate::cli::output::diff::unified;
use crate::cli::output::{Paint, Screen, Style, View, escape};
use crate::recipe::Recipe;
use crate::recipe::plan::{Plan, Step, What};

#[derive(Serialize)]
pub(super) struct Changes {
    instance: String,
    recipe: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    with: Vec<String>,
    #[serde(skip)]
    title: String,
    /// Nothing was written.
    dry_run: bool,
    folders: Vec<String>,
    pub(super) files: Vec<FileChange>,
}

#[derive(Serialize)]
pub(super) struct FileChange {
    target: String,
    action: &'static str,
    changes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) choice: Option<&'static str>,
}

impl Changes {
    pub(super) fn new(instance: &Path, recipe: &Recipe, plan: &Plan, dry_run: bool) -> Self {
        let files = plan.steps.iter().map(|step| FileChange {
            target: step.target.clone(),
            action: action(step.what),
            changes: step.what.is_change(),
            choice: None,
        });
        Changes {
            instance: instance.display().to_string(),
            recipe: recipe.name.clone(),
            with: recipe.with.clone(),
            title: recipe.title(),
            dry_run,
            folders: plan
                .folders
                .iter()
                .map(|(folder, _)| folder.clone())
                .collect(),
            files: files.collect(),
        }
    }
}

impl View for Changes {
    fn table(&self, screen: &Screen) -> String {
        let style = screen.style;
        let instance = style.paint(Paint::Strong, &escape(&self.instance));
        let changes = !self.folders.is_empty() || self.files.iter().any(|file| file.changes);
        let mut text = format!("Instance {instance}, recipe {}", escape(&self.title));
        text += if changes { "\n" } else { ": up to date\n" };
        for folder in &self.folders {
            text += &format!("  {:<10} {}/\n", "create", escape(folder));
        }
        for file in &self.files {
            if !file.changes && !changes && file.action == "unchanged" {
                continue;
            }
            let action = if file.changes {
                style.paint(Paint::Warning, &format!("{:<10}", file.action))
            } else {
                style.paint(Paint::Faint, &format!("{:<10}", file.action))
            };
            let choice = file
                .choice
                .map(|choice| format!("   {choice}"))
                .unwrap_or_default();
            text += &format!("  {action} {}{choice}\n", escape(&file.target));
        }
        text
    }
}

fn action(what: What) -> &'static str {
    match what {
        What::Create => "create",
        What::Rewrite => "rewrite",
        What::ChangeMode => "chmod",
        What::Unchanged => "unchanged",
        What::Kept => "edited",
        What::Edited => "conflict",
        What::Remove => "remove",
        What::Left => "leave",
        What::Forget => "gone",
    }
}

/// The unified diff of a file.
pub(super) fn diff(step: &Step, style: Style) -> String {
    let old = String::from_utf8_lossy(step.old.as_deref().unwrap_or_default());
    let new = String::from_utf8_lossy(&step.new);
    let name = step.target.as_str();
    let from = (step.what != What::Create).then_some(name);
    let to = (step.what != What::Remove).then_some(name);
    unified((from, &old), (to, &new), style)
}
