//! `man`: the manual pages, made of the same definition as `--help`.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::args::{Cli, usage};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::manual;

/// Print a manual page
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl man | man -l -
  zeoraidctl man recover | man -l -
  zeoraidctl man zeoraid.yaml | man -l -      the configuration
  zeoraidctl man zeoraid-recipe | man -l -    recipes and their templates
  zeoraidctl man zeoraid-json | man -l -      the keys of -o json
  zeoraidctl man --folder /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The page of this command, or zeoraid.yaml, zeoraid-recipe, zeoraid-json [default: of zeoraidctl]
    command: Option<String>,

    /// Write all pages into this folder; where it is called man1, those of section 5 into man5 beside it
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    folder: Option<PathBuf>,
}

pub fn run(args: &ManArgs, context: &Context) -> Result<Exit, CliError> {
    let pages = pages()?;
    if let Some(folder) = &args.folder {
        for (name, page) in &pages {
            let path = place(folder, name);
            let failed =
                |error| CliError::new(format!("could not write {}: {error}", path.display()));
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(failed)?;
            }
            std::fs::write(&path, page).map_err(failed)?;
        }
        let count = pages.len();
        context
            .printer
            .success(&format!("{count} pages in {}", folder.display()));
        return Ok(Exit::Done);
    }
    let wanted = match &args.command {
        Some(file) if FILES.iter().any(|(name, _)| name == file) => format!("{file}.5"),
        Some(command) => format!("zeoraidctl-{command}.1"),
        None => "zeoraidctl.1".to_owned(),
    };
    let page = pages.into_iter().find(|(name, _)| *name == wanted);
    let Some((_, page)) = page else {
        let command = args.command.as_deref().unwrap_or_default();
        return Err(CliError::usage(format!("there is no command `{command}`"))
            .with_next("zeoraidctl help"));
    };
    context.printer.write_bytes(&page)?;
    Ok(Exit::Done)
}

type PageOf = fn() -> Vec<u8>;

/// The pages about files that people write, and documents that programs read.
const FILES: &[(&str, PageOf)] = &[
    ("zeoraid.yaml", manual::config::page),
    ("zeoraid-recipe", manual::recipe::page),
    ("zeoraid-json", manual::answers::page),
];

/// `man` looks for a section in a folder of its own.
fn place(folder: &Path, name: &str) -> PathBuf {
    if name.ends_with(".5") && folder.file_name().is_some_and(|last| last == "man1") {
        return folder.with_file_name("man5").join(name);
    }
    folder.join(name)
}

/// Every page: the name of its file, and its text.
fn pages() -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut command = Cli::command();
    // Builds the names of the commands within commands, and hands the global options down.
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, "zeoraidctl", &mut pages)?;
    pages.extend(
        FILES
            .iter()
            .map(|(name, page)| (format!("{name}.5"), page())),
    );
    pages.sort();
    Ok(pages)
}

fn add_pages(
    command: &Command,
    name: &str,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), CliError> {
    let shown = command.clone().disable_help_subcommand(true);
    let mut page = Vec::new();
    clap_mangen::Man::new(shown).render(&mut page)?;
    let page = with_synopsis(&page, &usage(command));
    pages.push((format!("{name}.1"), page));
    let below = command
        .get_subcommands()
        .filter(|below| below.get_name() != "help" && !below.is_hide_set());
    for below in below {
        add_pages(below, &format!("{name}-{}", below.get_name()), pages)?;
    }
    Ok(())
}

/// The synopsis as `--help` has the usage. Of itself it would be all options, the global ones among them, in the order
/// of their definitions.
fn with_synopsis(page: &[u8], usage: &str) -> Vec<u8> {
    const TITLE: &str = ".SH SYNOPSIS\n";
    let page = String::from_utf8_lossy(page);
    let Some((before, rest)) = page.split_once(TITLE) else {
        return page.into_owned().into_bytes();
    };
    let after = rest.find(".SH ").map_or("", |at| &rest[at..]);
    let mut synopsis = Roff::new();
    let arguments = usage.find(['[', '<']).unwrap_or(usage.len());
    let (name, arguments) = usage.split_at(arguments);
    synopsis.text([bold(name.trim_end()), roman(" "), roman(arguments)]);
    format!("{before}{TITLE}{}{after}", synopsis.to_roff()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_5_lies_where_man_looks_for_it() {
        let place = |folder: &str, name: &str| place(Path::new(folder), name).display().to_string();
        assert_eq!(place("/s/man1", "zeoraidctl.1"), "/s/man1/zeoraidctl.1");
        assert_eq!(place("/s/man1", "zeoraid.yaml.5"), "/s/man5/zeoraid.yaml.5");
        assert_eq!(place("man", "zeoraid.yaml.5"), "man/zeoraid.yaml.5");
    }

    /// `ZEORAID_UPDATE_MAN=1 cargo test man_pages` writes them anew.
    #[test]
    fn the_man_pages_in_the_repository_are_up_to_date() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
        let pages = pages().unwrap();
        if std::env::var_os("ZEORAID_UPDATE_MAN").is_some() {
            for (name, page) in &pages {
                std::fs::write(folder.join(name), page).unwrap();
            }
        }
        for (name, page) in &pages {
            let there = std::fs::read(folder.join(name)).unwrap_or_default();
            assert!(
                there == *page,
                "man/{name} is out of date; run: ZEORAID_UPDATE_MAN=1 cargo test man_pages"
            );
        }
        let there = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(
            there,
            pages.len(),
            "man/ holds pages of commands that are gone"
        );
    }
}
