//! What Ctrl-C means while a job of the daemon is watched: that is asked, where there is somebody to ask.

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::prompt::{PromptError, Question};

/// What is to become of the job.
pub(super) enum Wish {
    /// It goes on without us; that was said.
    Leave,
    Cancel,
    GoOn,
}

/// Says how to come back to what goes on alone.
pub(super) fn leave(job: &str, command: &str, context: &Context) -> Exit {
    context.printer.note(&format!(
        "{job} goes on in the daemon; come back with `{command} --attach`, end it with `{command} --cancel`"
    ));
    Exit::Done
}

/// Asks what is to become of `job` ("the pack"), which `command` comes back to and ends.
pub(super) fn ask(job: &str, command: &str, context: &Context) -> Result<Wish, CliError> {
    let leave = || {
        leave(job, command, context);
        Ok(Wish::Leave)
    };
    if !context.prompt.can_ask() {
        return leave();
    }
    let items = [
        "leave it running".to_owned(),
        "cancel it".to_owned(),
        "go on watching".to_owned(),
    ];
    let text = format!("What about {job}?");
    let question = Question {
        text: &text,
        flags: &["--detach", "--cancel"],
    };
    match context.prompt.select(question, &items, 0) {
        Ok(1) => Ok(Wish::Cancel),
        Ok(2) => Ok(Wish::GoOn),
        // Ctrl-C at this question leaves it running: that harms nothing.
        Ok(_) | Err(PromptError::BrokenOff) => leave(),
        Err(error) => Err(error.into()),
    }
}
