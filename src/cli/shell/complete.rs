//! What could stand where the cursor is: commands, options, their values, arrays, members, files.
//!
//! The words before it are followed through the same definition that parses the line: into commands, over
//! options and their values. Names of arrays and members are asked for only where one can stand.

use clap::{Arg, Command, CommandFactory as _, ValueHint};

use super::state::{PATIENCE, quiet};
use crate::admin::api::AdminApi as _;
use crate::cli::args::{Cli, GlobalArgs};
use crate::cli::exit::Exit;

/// What can be completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// These take the place of what stands from `start`, in bytes, to the cursor.
    Words { start: usize, words: Vec<String> },
    /// Names of files.
    Files,
}

/// Names that the daemon knows.
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    pub(super) arrays: Vec<String>,
    /// Of the chosen array, else of all.
    pub(super) members: Vec<String>,
}

/// Completes the end of `line`. `names` is asked for the names, given the array that the line chooses.
pub(super) fn complete(line: &str, names: &dyn Fn(Option<&str>) -> Names) -> Completion {
    let mut root = Cli::command();
    // Hands the global options down to the commands.
    root.build();
    let start = last_word(line);
    let (before, word) = line.split_at(start);
    let Ok(before) = shell_words::split(before) else {
        return Completion::Files;
    };
    let at = Position::after(&root, &before);
    let expected = if let Some(option) = at.option {
        values(option, &root)
    } else if let Some((name, _)) = word.split_once('=').filter(|_| word.starts_with("--")) {
        let Some(option) = by_long(at.command, &name[2..]) else {
            return none(start);
        };
        // Only what stands after the sign is replaced.
        let start = start + name.len() + 1;
        return found(line, start, values(option, &root), &at, names);
    } else if word.starts_with('-') {
        Expected::These(options(at.command))
    } else {
        at.next(&root)
    };
    found(line, start, expected, &at, names)
}

/// The names, from the daemon where it answers at once, else from the configuration.
pub(super) fn names(global: &GlobalArgs, array: Option<&str>) -> Names {
    let context = quiet(global);
    let array = array.or(global.array.as_deref());
    let mut known: Vec<(String, Vec<String>)> = Vec::new();
    let asked = crate::cli::in_runtime(
        async {
            let client = context.client()?.with_timeout(PATIENCE);
            for array in client.arrays().await? {
                let members = array.members.into_iter().map(|member| member.name);
                known.push((array.name, members.collect()));
            }
            Ok(Exit::Done)
        },
        &context,
    );
    if asked.is_err()
        && let Ok(config) = context.config()
    {
        known = config
            .arrays
            .into_iter()
            .map(|array| {
                let members = array.members.into_iter().map(|member| member.name);
                (array.name, members.collect())
            })
            .collect();
    }
    let chosen = |(name, _): &&(String, Vec<String>)| array.is_none_or(|array| array == name);
    let members = known.iter().filter(chosen);
    Names {
        members: members.flat_map(|(_, members)| members.clone()).collect(),
        arrays: known.into_iter().map(|(name, _)| name).collect(),
    }
}

/// What may stand somewhere.
enum Expected {
    These(Vec<String>),
    Arrays,
    Members,
    Files,
}

fn found(
    line: &str,
    start: usize,
    expected: Expected,
    at: &Position<'_>,
    names: &dyn Fn(Option<&str>) -> Names,
) -> Completion {
    let words = match expected {
        Expected::Files => return Completion::Files,
        Expected::These(words) => words,
        Expected::Arrays => names(None).arrays,
        Expected::Members => {
            let mut members = names(at.array.as_deref()).members;
            // Nobody names one twice.
            members.retain(|member| !at.positionals.contains(member));
            members
        }
    };
    let word = &line[start..];
    let mut words: Vec<String> = words;
    words.retain(|candidate| candidate.starts_with(word));
    words.sort();
    words.dedup();
    Completion::Words { start, words }
}

fn none(start: usize) -> Completion {
    Completion::Words {
        start,
        words: Vec::new(),
    }
}

/// Where a line has come to.
struct Position<'a> {
    command: &'a Command,
    /// An option whose value comes next.
    option: Option<&'a Arg>,
    positionals: Vec<String>,
    /// The array that the line chooses.
    array: Option<String>,
}

impl<'a> Position<'a> {
    fn after(root: &'a Command, words: &[String]) -> Self {
        let mut at = Position {
            command: root,
            option: None,
            positionals: Vec::new(),
            array: None,
        };
        for word in words {
            at.step(word);
        }
        at
    }

    fn step(&mut self, word: &str) {
        if let Some(option) = self.option.take() {
            if option.get_id() == "array" {
                self.array = Some(word.to_owned());
            }
        } else if let Some(long) = word.strip_prefix("--") {
            match long.split_once('=') {
                Some(("array", array)) => self.array = Some(array.to_owned()),
                Some(_) => {}
                None => {
                    self.option = by_long(self.command, long).filter(|option| takes_value(option));
                }
            }
        } else if let Some(shorts) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            // The value of the first that takes one may be attached to it.
            let mut letters = shorts.chars();
            let taking = letters.find_map(|letter| {
                let mut options = self.command.get_arguments();
                options.find(|option| option.get_short() == Some(letter) && takes_value(option))
            });
            self.option = taking.filter(|_| letters.next().is_none());
        } else if let Some(command) = self.subcommand(word) {
            self.command = command;
        } else {
            self.positionals.push(word.to_owned());
        }
    }

    fn subcommand(&self, word: &str) -> Option<&'a Command> {
        self.positionals
            .is_empty()
            .then(|| self.command.find_subcommand(word))?
    }

    /// What may stand here: a command, or the next argument.
    fn next(&self, root: &Command) -> Expected {
        if self.command.has_subcommands() && self.positionals.is_empty() {
            let mut commands = commands(self.command);
            if self.command.get_name() == root.get_name() {
                commands.push("quit".to_owned());
            }
            return Expected::These(commands);
        }
        let mut positionals = self.command.get_positionals().collect::<Vec<_>>();
        let next = if self.positionals.len() < positionals.len() {
            Some(positionals.swap_remove(self.positionals.len()))
        } else {
            // The last may take several.
            let several = |arg: &&Arg| {
                arg.get_num_args()
                    .is_some_and(|count| count.max_values() > 1)
                    || matches!(arg.get_action(), clap::ArgAction::Append)
            };
            positionals.pop().filter(several)
        };
        next.map_or(Expected::These(Vec::new()), |arg| values(arg, root))
    }
}

fn values(arg: &Arg, root: &Command) -> Expected {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let shown = possible.iter().filter(|value| !value.is_hide_set());
        return Expected::These(shown.map(|value| value.get_name().to_owned()).collect());
    }
    match arg.get_id().as_str() {
        "array" => Expected::Arrays,
        "member" | "members" => Expected::Members,
        "command" => Expected::These(commands(root)),
        _ => match arg.get_value_hint() {
            ValueHint::Unknown | ValueHint::Other => Expected::These(Vec::new()),
            _ => Expected::Files,
        },
    }
}

fn commands(command: &Command) -> Vec<String> {
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    shown.map(|sub| sub.get_name().to_owned()).collect()
}

fn options(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let longs = shown.filter_map(|arg| arg.get_long());
    longs.map(|long| format!("--{long}")).collect()
}

fn by_long<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    let mut options = command.get_arguments();
    options.find(|option| option.get_long() == Some(long))
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Where the word at the end begins: after the last blank that is not quoted.
fn last_word(line: &str) -> usize {
    let (mut start, mut quote, mut escaped) = (0, None, false);
    for (at, c) in line.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            _ if c == '\\' && quote != Some('\'') => escaped = true,
            Some(mark) if c == mark => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => start = at + c.len_utf8(),
            _ => {}
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let names = |array: Option<&str>| Names {
            arrays: vec!["main".into(), "other".into()],
            members: match array {
                Some("other") => vec!["third".into()],
                _ => vec!["copy1".into(), "copy2".into()],
            },
        };
        match complete(line, &names) {
            Completion::Words { start, words } => {
                assert!(start <= line.len());
                words
            }
            Completion::Files => vec!["(files)".into()],
        }
    }

    #[test]
    fn what_can_stand_there_is_offered() {
        for (line, expected) in [
            ("stat", vec!["status"]),
            (
                "re",
                vec!["recipe", "recover", "reload", "reopen", "restart"],
            ),
            ("help det", vec!["details"]),
            ("man det", vec!["details"]),
            ("quit", vec!["quit"]),
            ("recover --rat", vec!["--rate"]),
            ("recover --array o", vec!["other"]),
            ("recover --array=o", vec!["other"]),
            ("-S ", vec!["main", "other"]),
            ("-S main dis", vec!["disable"]),
            ("recover ", vec!["copy1", "copy2"]),
            ("recover copy1 ", vec!["copy2"]),
            ("recover --rate 1MiB copy", vec!["copy1", "copy2"]),
            ("disable -qS other t", vec!["third"]),
            ("disable copy1 ", vec![]),
            ("status -o j", vec!["json"]),
            ("status --output=y", vec!["yaml"]),
            ("recipe sh", vec!["show"]),
            ("status x", vec![]),
            ("status --token-file /et", vec!["(files)"]),
            ("check-config etc/z", vec!["(files)"]),
            ("nonsense --no", vec![]),
            ("recover 'cop", vec![]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn every_option_of_a_command_is_offered_global_ones_too() {
        let offered = words("recover --");
        for option in ["--all", "--detach", "--array", "--output", "--help"] {
            assert!(offered.iter().any(|word| word == option), "{offered:?}");
        }
        assert!(
            !words("fg --").contains(&"--background".to_owned()),
            "it is hidden"
        );
    }
}
