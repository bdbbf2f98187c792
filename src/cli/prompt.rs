//! Questions to a person.
//!
//! Behind a trait, so that tests answer them from a script. Every question names the flag that answers
//! it: without a terminal the error says it, and everything works in a script.

use std::{fmt, io};

use console::Term;
use dialoguer::theme::{ColorfulTheme, SimpleTheme, Theme};
use dialoguer::{Confirm, Input, MultiSelect, Select};

use super::output::table::wrap;

/// What is asked, and the flags that answer it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub text: &'a str,
    pub flags: &'a [&'a str],
}

/// Says why an answer will not do.
pub type Check<'a> = dyn Fn(&str) -> Result<(), String> + 'a;

/// Asks.
pub trait Prompt {
    /// Whether there is somebody to ask.
    fn can_ask(&self) -> bool;

    fn confirm(&self, question: Question<'_>, default: bool) -> Result<bool, PromptError>;

    /// One of these, by its index.
    fn select(
        &self,
        question: Question<'_>,
        items: &[String],
        default: usize,
    ) -> Result<usize, PromptError>;

    /// Some of these, by their indexes; each with whether it is chosen at first.
    fn multi_select(
        &self,
        question: Question<'_>,
        items: &[(String, bool)],
    ) -> Result<Vec<usize>, PromptError>;

    /// A line; asked again until the check passes.
    fn input(
        &self,
        question: Question<'_>,
        default: &str,
        check: &Check<'_>,
    ) -> Result<String, PromptError>;

    /// Whether the person typed the word. For what destroys.
    fn type_word(&self, question: Question<'_>, word: &str) -> Result<bool, PromptError> {
        let text = format!("{} Type `{word}` to go on", question.text);
        let question = Question {
            text: &text,
            flags: question.flags,
        };
        Ok(self.input(question, "", &|_| Ok(()))?.trim() == word)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    #[error("there is no terminal to ask on (\"{question}\"); answer it with `{flag}`")]
    NoTerminal { question: String, flag: String },
    #[error("broken off")]
    BrokenOff,
    #[error("could not ask: {0}")]
    Io(io::Error),
}

/// Signs before a choice take so much at most; lines after its first begin there.
const SIGNS: usize = 6;
/// What there is to be for an answer behind its question, or both are put apart.
const ROOM_TO_TYPE: usize = 20;

/// A choice in lines that fit: the prompt counts those that we break, but not those that a terminal breaks,
/// and would leave them there when another is chosen.
fn wrapped(text: &str, columns: usize) -> String {
    let room = columns.saturating_sub(SIGNS + 1).max(10);
    wrap(text, room).join(&format!("\n{:SIGNS$}", ""))
}

/// Asks at a terminal, on standard error: standard output is for answers.
pub struct TerminalPrompt {
    term: Term,
    theme: Box<dyn Theme>,
    can_ask: bool,
}

impl TerminalPrompt {
    /// `can_ask` is whether standard input and standard error are both a terminal.
    pub fn new(can_ask: bool, color: bool) -> Self {
        let theme: Box<dyn Theme> = if color {
            Box::new(ColorfulTheme::default())
        } else {
            Box::new(SimpleTheme)
        };
        TerminalPrompt {
            term: Term::stderr(),
            theme,
            can_ask,
        }
    }

    fn columns(&self) -> usize {
        usize::from(self.term.size().1)
    }

    fn wrapped(&self, text: &str) -> String {
        wrapped(text, self.columns())
    }

    /// What was chosen, in lines that fit.
    fn report(&self, write: impl FnOnce(&mut String) -> fmt::Result) -> Result<(), PromptError> {
        let mut text = String::new();
        write(&mut text).map_err(|error| PromptError::Io(io::Error::other(error)))?;
        self.term
            .write_line(&self.wrapped(&text))
            .map_err(PromptError::Io)
    }

    /// Of a question whose answer is typed behind it: where it is broken off, the rest has a line of its own.
    fn answer_in_line<T>(&self, answer: dialoguer::Result<T>) -> Result<T, PromptError> {
        if answer.is_err() {
            self.term.write_line("").map_err(PromptError::Io)?;
        }
        self.answer(answer)
    }

    fn check(&self, question: Question<'_>) -> Result<(), PromptError> {
        if self.can_ask {
            return Ok(());
        }
        Err(PromptError::NoTerminal {
            question: question.text.to_owned(),
            flag: question.flags.join("` or `"),
        })
    }

    /// What a prompt said. One that is broken off leaves the cursor hidden, so it is shown again.
    fn answer<T>(&self, answer: dialoguer::Result<T>) -> Result<T, PromptError> {
        answer.map_err(|error| {
            let error = io::Error::from(error);
            if let Err(error) = self.term.show_cursor() {
                return PromptError::Io(error);
            }
            match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof => PromptError::BrokenOff,
                _ => PromptError::Io(error),
            }
        })
    }
}

impl Prompt for TerminalPrompt {
    fn can_ask(&self) -> bool {
        self.can_ask
    }

    fn confirm(&self, question: Question<'_>, default: bool) -> Result<bool, PromptError> {
        self.check(question)?;
        let confirm = Confirm::with_theme(&*self.theme)
            .with_prompt(question.text)
            .default(default);
        let answer = confirm.interact_on(&self.term);
        self.answer_in_line(answer)
    }

    fn select(
        &self,
        question: Question<'_>,
        items: &[String],
        default: usize,
    ) -> Result<usize, PromptError> {
        self.check(question)?;
        let select = Select::with_theme(&*self.theme)
            .with_prompt(self.wrapped(question.text))
            .items(items.iter().map(|item| self.wrapped(item)))
            .default(default)
            .report(false);
        let index = self
            .answer(select.interact_on_opt(&self.term))?
            .ok_or(PromptError::BrokenOff)?;
        let chosen = items.get(index).map_or("", String::as_str);
        self.report(|text| {
            self.theme
                .format_select_prompt_selection(text, question.text, chosen)
        })?;
        Ok(index)
    }

    fn multi_select(
        &self,
        question: Question<'_>,
        items: &[(String, bool)],
    ) -> Result<Vec<usize>, PromptError> {
        self.check(question)?;
        let text = format!("{} (space chooses, enter goes on)", question.text);
        let select = MultiSelect::with_theme(&*self.theme)
            .with_prompt(self.wrapped(&text))
            .items_checked(
                items
                    .iter()
                    .map(|(text, chosen)| (self.wrapped(text), *chosen)),
            )
            .report(false);
        let indexes = self
            .answer(select.interact_on_opt(&self.term))?
            .ok_or(PromptError::BrokenOff)?;
        let chosen = indexes.iter().filter_map(|index| items.get(*index));
        let mut chosen: Vec<&str> = chosen.map(|(item, _)| item.as_str()).collect();
        if chosen.is_empty() {
            chosen.push("nothing");
        }
        self.report(|written| {
            self.theme
                .format_multi_select_prompt_selection(written, &text, &chosen)
        })?;
        Ok(indexes)
    }

    fn input(
        &self,
        question: Question<'_>,
        default: &str,
        check: &Check<'_>,
    ) -> Result<String, PromptError> {
        self.check(question)?;
        let (text, shown) = (question.text, format!("{} ({default})", question.text));
        // What a terminal breaks stays there when the line is written anew: so it stands above.
        let fits = console::measure_text_width(&shown) + SIGNS + ROOM_TO_TYPE <= self.columns();
        if !fits {
            let shown = if default.is_empty() { text } else { &shown };
            let asked = format!("? {shown}");
            self.term
                .write_line(&self.wrapped(&asked))
                .map_err(PromptError::Io)?;
        }
        let mut input = Input::<String>::with_theme(&*self.theme)
            .with_prompt(if fits { text } else { "" })
            .allow_empty(true)
            .show_default(fits)
            .validate_with(|text: &String| check(text).map_err(|why| self.wrapped(&why)));
        if !default.is_empty() {
            input = input.default(default.to_owned());
        }
        let answer = input.interact_text_on(&self.term);
        self.answer_in_line(answer)
    }
}

#[cfg(test)]
pub(super) mod script {
    //! Answers from a script.

    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::{Check, Prompt, PromptError, Question};

    /// One answer, checked against the question it is for.
    #[derive(Debug, Clone)]
    pub(in crate::cli) enum Answer {
        Confirm(bool),
        Select(usize),
        Choose(Vec<usize>),
        Type(&'static str),
        /// Takes what is offered.
        Default,
    }

    /// Answers questions in order, and keeps what was asked.
    #[derive(Debug, Default)]
    pub(in crate::cli) struct Script {
        answers: RefCell<VecDeque<Answer>>,
        pub(in crate::cli) asked: RefCell<Vec<String>>,
    }

    impl Script {
        pub(in crate::cli) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
            Script {
                answers: RefCell::new(answers.into_iter().collect()),
                asked: RefCell::default(),
            }
        }

        fn next(&self, question: Question<'_>, shown: &str) -> Result<Answer, PromptError> {
            self.asked
                .borrow_mut()
                .push(format!("{}{shown}", question.text));
            self.answers
                .borrow_mut()
                .pop_front()
                .ok_or_else(|| PromptError::NoTerminal {
                    question: question.text.to_owned(),
                    flag: question.flags.join("` or `"),
                })
        }
    }

    impl Prompt for std::rc::Rc<Script> {
        fn can_ask(&self) -> bool {
            !self.answers.borrow().is_empty() || !self.asked.borrow().is_empty()
        }

        fn confirm(&self, question: Question<'_>, default: bool) -> Result<bool, PromptError> {
            match self.next(question, if default { " [Y/n]" } else { " [y/N]" })? {
                Answer::Confirm(answer) => Ok(answer),
                Answer::Default => Ok(default),
                other => panic!("{other:?} for {question:?}"),
            }
        }

        fn select(
            &self,
            question: Question<'_>,
            items: &[String],
            default: usize,
        ) -> Result<usize, PromptError> {
            let shown = items.iter().enumerate().map(|(index, item)| {
                let item = super::wrapped(item, 80);
                format!("\n  {} {item}", if index == default { '>' } else { ' ' })
            });
            match self.next(question, &shown.collect::<String>())? {
                Answer::Select(index) => Ok(index),
                Answer::Default => Ok(default),
                other => panic!("{other:?} for {question:?}"),
            }
        }

        fn multi_select(
            &self,
            question: Question<'_>,
            items: &[(String, bool)],
        ) -> Result<Vec<usize>, PromptError> {
            let shown = items.iter().map(|(item, chosen)| {
                let item = super::wrapped(item, 80);
                format!("\n  [{}] {item}", if *chosen { 'x' } else { ' ' })
            });
            match self.next(question, &shown.collect::<String>())? {
                Answer::Choose(indexes) => Ok(indexes),
                Answer::Default => {
                    let chosen = items.iter().enumerate().filter(|(_, (_, chosen))| *chosen);
                    Ok(chosen.map(|(index, _)| index).collect())
                }
                other => panic!("{other:?} for {question:?}"),
            }
        }

        fn input(
            &self,
            question: Question<'_>,
            default: &str,
            check: &Check<'_>,
        ) -> Result<String, PromptError> {
            loop {
                let shown = if default.is_empty() {
                    String::new()
                } else {
                    format!(" [{default}]")
                };
                let text = match self.next(question, &shown)? {
                    Answer::Type(text) => text.to_owned(),
                    Answer::Default => default.to_owned(),
                    other => panic!("{other:?} for {question:?}"),
                };
                match check(&text) {
                    Ok(()) => return Ok(text),
                    Err(why) => self.asked.borrow_mut().push(format!("  ! {why}")),
                }
            }
        }
    }

    #[test]
    fn a_choice_is_wrapped_and_nothing_of_it_is_lost() {
        let text = "zeo2  diverged after 2026-11-20 09:12:06 UTC: 3 only here, lacks 12, and cannot be read";
        for columns in [40, 60, 80, 200] {
            let shown = super::wrapped(text, columns);
            let fits = |line: &str| console::measure_text_width(line) + super::SIGNS < columns;
            let mut lines = shown.lines();
            assert!(lines.next().is_some_and(fits), "{columns}: {shown}");
            for line in lines {
                let line = line.strip_prefix("      ").expect("below the first one");
                assert!(fits(line), "{columns}: {shown}");
            }
            let words = |text: &str| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(&shown), words(text), "{columns}");
        }
    }

    #[test]
    fn without_a_terminal_the_error_names_the_flag() {
        let prompt = super::TerminalPrompt::new(false, false);
        let question = Question {
            text: "Take out copy1?",
            flags: &["--yes"],
        };
        let error = prompt.confirm(question, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no terminal to ask on (\"Take out copy1?\"); answer it with `--yes`"
        );
    }
}
