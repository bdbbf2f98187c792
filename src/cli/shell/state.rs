//! What the prompt says of the array before each line: `zeoraid main: degraded> `.

use std::time::Duration;

use crate::admin::api::ArrayState;
use crate::admin::client::ClientError;
use crate::cli::args::GlobalArgs;
use crate::cli::commands::status::{paint_state, state_word};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Paint, Style, escape};

/// A daemon beside us answers within a millisecond; nobody waits longer for a prompt.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Of the only array, or the chosen one.
    array: Option<String>,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Is(ArrayState),
    NotRunning,
    NoAnswer,
    /// There is no such array, or no instance.
    Unknown,
}

impl Seen {
    /// The prompt, with colours where there are any.
    pub(super) fn prompt(&self, style: Style) -> String {
        let state = match self.how {
            How::Is(state) => paint_state(state, state_word(state), style),
            How::NotRunning => style.paint(Paint::Warning, "not running"),
            How::NoAnswer => style.paint(Paint::Bad, "no answer"),
            How::Unknown => String::new(),
        };
        let array = self
            .array
            .as_deref()
            .map(|array| escape(array).into_owned());
        let rest = match (array, state.as_str()) {
            (None, "") => String::new(),
            (None, state) => format!(": {state}"),
            (Some(array), "") => format!(" {array}"),
            (Some(array), state) => format!(" {array}: {state}"),
        };
        format!("zeoraid{rest}> ")
    }
}

/// Looks, for a moment.
pub(super) fn look(global: &GlobalArgs) -> Seen {
    let context = quiet(global);
    let mut seen = Seen {
        array: global.array.clone(),
        how: How::Unknown,
    };
    let looked = super::super::in_runtime(
        async {
            ask(&context, &mut seen).await;
            Ok(Exit::Done)
        },
        &context,
    );
    // Nothing of it is an error: a prompt comes in any case.
    drop(looked);
    seen
}

/// A context that says nothing by itself.
pub(super) fn quiet(global: &GlobalArgs) -> Context {
    Context::standard(GlobalArgs {
        verbose: false,
        quiet: true,
        ..global.clone()
    })
}

async fn ask(context: &Context, seen: &mut Seen) {
    let client: Result<_, CliError> = context.client();
    let Ok(client) = client else {
        return;
    };
    match client.with_timeout(PATIENCE).ping().await {
        Ok(status) => {
            let arrays = status.arrays.iter();
            let chosen = arrays
                .clone()
                .find(|array| seen.array.as_deref() == Some(array.name.as_str()));
            match (&seen.array, chosen, status.arrays.as_slice()) {
                (Some(_), Some(chosen), _) => seen.how = How::Is(chosen.state),
                (Some(_), None, _) => {}
                (None, _, [one]) => {
                    seen.array = Some(one.name.clone());
                    seen.how = How::Is(one.state);
                }
                (None, ..) => {
                    if let Exit::State(worst) = Exit::of_states(arrays.map(|array| array.state)) {
                        seen.how = How::Is(worst);
                    }
                }
            }
        }
        Err(error) => {
            seen.how = match error {
                ClientError::NotRunning { .. } => How::NotRunning,
                _ => How::NoAnswer,
            };
            if seen.array.is_none()
                && let Ok(config) = context.config()
                && let [one] = config.arrays.as_slice()
            {
                seen.array = Some(one.name.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_says_what_is_known() {
        for (array, how, expected) in [
            (
                Some("main"),
                How::Is(ArrayState::Degraded),
                "zeoraid main: degraded> ",
            ),
            (None, How::Is(ArrayState::Optimal), "zeoraid: optimal> "),
            (Some("main"), How::NotRunning, "zeoraid main: not running> "),
            (Some("main"), How::NoAnswer, "zeoraid main: no answer> "),
            (Some("other"), How::Unknown, "zeoraid other> "),
            (None, How::Unknown, "zeoraid> "),
        ] {
            let seen = Seen {
                array: array.map(str::to_owned),
                how,
            };
            assert_eq!(seen.prompt(Style::PLAIN), expected);
        }
    }
}
