//! `show`: the configuration in force, and where each value comes from.

use clap::Args;
use serde::Serialize;

use crate::admin::api::{Configuration, Setting};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Paint, Screen, View, escape, table};

/// Show the configuration in force, and where each value comes from
///
/// Asks the daemon; where none runs, reads the file as `start` would. Secrets are not shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl show
  zeoraidctl show --file
  zeoraidctl show arrays.main")]
pub struct ShowArgs {
    /// Only settings whose name begins so
    prefix: Option<String>,

    /// What the file says now, although a daemon runs
    #[arg(long)]
    file: bool,
}

pub async fn run(args: &ShowArgs, context: &Context) -> Result<Exit, CliError> {
    let mut configuration = if args.file {
        from_file(context)?
    } else {
        match context.api()?.configuration().await {
            Ok(configuration) => configuration,
            Err(problem) if problem.is_not_running() && context.global.admin.is_none() => {
                context
                    .printer
                    .note("no daemon runs; this is what the file says");
                from_file(context)?
            }
            Err(problem) => return Err(problem.into()),
        }
    };
    if let Some(prefix) = &args.prefix {
        configuration
            .settings
            .retain(|setting| setting.key.starts_with(prefix));
        if configuration.settings.is_empty() {
            return Err(CliError::new(format!("no setting begins with `{prefix}`"))
                .with_next("zeoraidctl show"));
        }
    }
    context.printer.print(&ShowView { configuration })?;
    Ok(Exit::Done)
}

fn from_file(context: &Context) -> Result<Configuration, CliError> {
    let config = context.config()?;
    let file = config
        .file
        .strip_prefix(&config.instance)
        .unwrap_or(&config.file);
    let settings = config.explain().iter().map(|setting| Setting {
        key: setting.key.clone(),
        value: setting.value.clone(),
        origin: setting.origin.to_text(file),
    });
    Ok(Configuration {
        file: config.file.display().to_string(),
        settings: settings.collect(),
    })
}

#[derive(Serialize)]
#[serde(transparent)]
struct ShowView {
    configuration: Configuration,
}

impl View for ShowView {
    fn table(&self, screen: &Screen) -> String {
        let rows = self.configuration.settings.iter().map(|setting| {
            let paint = if setting.origin == "default" {
                Paint::Faint
            } else {
                Paint::Strong
            };
            table::Row {
                cells: vec![
                    escape(&setting.key).into_owned(),
                    screen.style.paint(paint, &escape(&setting.value)),
                    escape(&setting.origin).into_owned(),
                ],
                below: Vec::new(),
            }
        });
        let table = table::columns(
            &["SETTING", "VALUE", "FROM"],
            rows.collect(),
            [1],
            screen.width,
            screen.style,
        );
        format!("{}\n{table}", escape(&self.configuration.file))
    }
}
