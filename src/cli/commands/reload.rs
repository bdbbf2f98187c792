//! `reload`: reads the configuration again, while the daemon serves.

use clap::Args;
use serde::Serialize;

use crate::admin::api::Reloaded;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Paint, Screen, View, escape};

/// Read the configuration again
///
/// Adds members (degraded, to be recovered) and removes members while clients go on. What would leave
/// no complete copy, or has mistakes, is refused, and nothing is changed. The certificates of addresses with
/// TLS are read again; who is connected stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl reload --dry-run
  zeoraidctl reload")]
pub struct ReloadArgs {
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub async fn run(args: &ReloadArgs, context: &Context) -> Result<Exit, CliError> {
    let reloaded = context.api()?.reload(args.dry_run).await?;
    context.printer.print(&ReloadedView { reloaded })?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
#[serde(transparent)]
struct ReloadedView {
    reloaded: Reloaded,
}

impl View for ReloadedView {
    fn table(&self, screen: &Screen) -> String {
        let Reloaded {
            dry_run,
            added,
            removed,
            changed,
            needs_restart,
            warnings,
        } = &self.reloaded;
        let mut text = String::new();
        let mut say = |paint: Paint, sign: &str, lines: &[String], more: &str| {
            for line in lines {
                let sign = screen.style.paint(paint, sign);
                text += &format!("{sign} {}{more}\n", escape(line));
            }
        };
        let tense =
            |done: &'static str, planned: &'static str| if *dry_run { planned } else { done };
        say(
            Paint::Good,
            "+",
            added,
            tense(" added; to be recovered", " would be added, and recovered"),
        );
        say(
            Paint::Bad,
            "-",
            removed,
            tense(" removed", " would be removed"),
        );
        say(Paint::Warning, "~", changed, "");
        say(
            Paint::Warning,
            "!",
            needs_restart,
            "   (after `zeoraidctl restart`)",
        );
        let changed = !text.is_empty();
        for warning in warnings {
            let sign = screen.style.paint(Paint::Warning, "!");
            text += &format!("{sign} {}\n", escape(warning));
        }
        if !changed {
            text += "nothing has changed\n";
        }
        text
    }
}
