//! What every command has: where it prints, whom it asks, which instance and daemon it is about.
//!
//! The one place that turns arguments and configuration into a client.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ColorChoice;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::args::GlobalArgs;
use super::error::CliError;
use super::exit::Exit;
use super::interrupt::{Interrupts, SignalInterrupts};
use super::keys::Keys;
use super::output::{Printer, is_dumb};
use super::place::find_instance;
use super::prompt::{Prompt, TerminalPrompt};
use crate::admin::api::{AdminApi, ArrayDetails, Problem};
use crate::admin::client::{AdminClient, Target};
use crate::config::{self, Config, ConfigError};

/// What every command has.
pub struct Context {
    pub global: GlobalArgs,
    pub printer: Printer,
    pub prompt: Box<dyn Prompt>,
    pub interrupts: Box<dyn Interrupts>,
    pub clock: Clock,
    /// Whether another program listens at an address of this machine.
    pub is_taken: fn(&str) -> bool,
    signals: Option<SignalInterrupts>,
    api: Option<Arc<dyn AdminApi>>,
}

/// The time, and where we are.
#[derive(Clone)]
pub struct Clock {
    pub now: fn() -> Timestamp,
    pub zone: TimeZone,
}

impl Context {
    /// The real one.
    pub fn standard(global: GlobalArgs) -> Self {
        let color = match global.color {
            ColorChoice::Auto => None,
            ColorChoice::Always => Some(true),
            ColorChoice::Never => Some(false),
        };
        let printer = Printer::standard(global.output, global.quiet, color);
        let can_ask =
            std::io::IsTerminal::is_terminal(&std::io::stdin()) && printer.stderr_is_terminal();
        let prompt = TerminalPrompt::new(can_ask, printer.error_style().color);
        let signals = SignalInterrupts::default();
        Context {
            global,
            printer,
            prompt: Box::new(prompt),
            interrupts: Box::new(signals.clone()),
            clock: Clock {
                now: crate::clock::now,
                zone: TimeZone::system(),
            },
            is_taken: super::place::is_taken,
            signals: Some(signals),
            api: None,
        }
    }

    /// One for tests: everything is given.
    #[cfg(test)]
    pub(super) fn given(
        global: GlobalArgs,
        printer: Printer,
        prompt: Box<dyn Prompt>,
        interrupts: Box<dyn Interrupts>,
        clock: Clock,
        api: Option<Arc<dyn AdminApi>>,
    ) -> Self {
        Context {
            global,
            printer,
            prompt,
            interrupts,
            clock,
            is_taken: |_| false,
            signals: None,
            api,
        }
    }

    /// The daemon that the command is about. Nothing is asked yet.
    pub fn api(&self) -> Result<Arc<dyn AdminApi>, CliError> {
        if let Some(api) = &self.api {
            return Ok(Arc::clone(api));
        }
        Ok(Arc::new(self.client()?))
    }

    /// The client of that daemon, for who must tell apart why there is no answer.
    pub fn client(&self) -> Result<AdminClient, CliError> {
        let target = self.target()?;
        if self.global.verbose {
            self.printer.note(&format!("asking the daemon at {target}"));
        }
        AdminClient::new(target).map_err(|error| Problem::from(error).into())
    }

    /// The instance's folder.
    pub fn instance(&self) -> Result<PathBuf, CliError> {
        if let Some(admin) = &self.global.admin {
            return Err(CliError::usage(format!(
                "this needs the instance's folder; with `--admin {admin}` no local file is read"
            )));
        }
        find_instance(self.global.instance.as_deref(), &here()?)
    }

    /// The instance's configuration.
    pub fn config(&self) -> Result<Config, CliError> {
        load_config(&self.instance()?)
    }

    /// The configuration of the instance whose daemon is to be started.
    pub fn config_to_start(&self) -> Result<Config, CliError> {
        let instance = self.instance().map_err(CliError::into_usage)?;
        load_config_to_start(&instance)
    }

    /// The array that the command is about.
    pub async fn array(&self, api: &dyn AdminApi) -> Result<ArrayDetails, CliError> {
        if let Some(name) = &self.global.array {
            return Ok(api.array(name).await?);
        }
        let mut arrays = api.arrays().await?;
        match arrays.len() {
            1 => Ok(arrays.remove(0)),
            0 => Err(CliError::new("the daemon serves no array")),
            _ => {
                let names: Vec<_> = arrays.iter().map(|array| array.name.as_str()).collect();
                let names = names.join(", ");
                Err(
                    CliError::usage(format!("the daemon serves several arrays: {names}"))
                        .with_next("name one, with `--array NAME`"),
                )
            }
        }
    }

    /// Does something that has no end of its own: Ctrl-C is how it ends, and no failure.
    pub async fn until_ctrl_c(
        &self,
        endless: impl Future<Output = Result<Exit, CliError>>,
    ) -> Result<Exit, CliError> {
        let mut ctrl_c = self.interrupts.claim()?;
        // Both may be dropped: what only shows something leaves nothing half done.
        tokio::select! {
            ended = endless => ended,
            () = ctrl_c.pressed() => Ok(Exit::Done),
        }
    }

    /// Single keys of the person who watches, where there is one.
    pub(super) fn keys(&self) -> Option<Keys> {
        // Tests have neither signals nor a terminal of their own.
        let watched =
            self.signals.is_some() && !self.printer.quiet && self.prompt.can_ask() && !is_dumb();
        if watched { Keys::read() } else { None }
    }

    /// Waits for a Ctrl-C that no command has claimed.
    pub(super) async fn unclaimed_interrupt(&self) {
        match &self.signals {
            // Where signals cannot be had, Ctrl-C ends the process without us.
            Some(signals) if signals.unclaimed().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }

    fn target(&self) -> Result<Target, CliError> {
        let Some(admin) = &self.global.admin else {
            let instance = self.instance()?;
            return Ok(Target::Socket(admin_socket(&instance)));
        };
        if let Some(path) = admin.strip_prefix("unix:") {
            return Ok(Target::Socket(here()?.join(path)));
        }
        if admin.starts_with("http://") || admin.starts_with("https://") {
            return Ok(Target::Http {
                url: admin.clone(),
                token: self.token()?,
                trusted: self.global.admin_certificate.clone(),
            });
        }
        Err(CliError::usage(format!(
            "`--admin {admin}`: `unix:PATH`, `http://HOST:PORT` or `https://HOST:PORT` is expected"
        )))
    }

    fn token(&self) -> Result<Option<String>, CliError> {
        let Some(file) = &self.global.token_file else {
            return Ok(std::env::var("ZEORAID_TOKEN").ok());
        };
        let token = std::fs::read_to_string(file).map_err(|error| {
            CliError::new(format!(
                "could not read the token from {}: {error}",
                file.display()
            ))
        })?;
        Ok(Some(token.trim().to_owned()))
    }
}

impl Clock {
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }
}

/// Reads the configuration of an instance.
pub fn load_config(instance: &Path) -> Result<Config, CliError> {
    config::load(instance, None, &environment).map_err(CliError::from)
}

/// The same for who starts a daemon. Where the configuration is missing or has mistakes, that ends as wrong
/// usage does: so systemd and supervisors know that starting it again mends nothing. A file that could not
/// be read for another reason may be read the next time.
pub fn load_config_to_start(instance: &Path) -> Result<Config, CliError> {
    config::load(instance, None, &environment).map_err(|error| {
        let is_final = match &error {
            ConfigError::Mistakes(_) => true,
            ConfigError::Unreadable { source, .. } => source.kind() == ErrorKind::NotFound,
        };
        let error = CliError::from(error);
        if is_final { error.into_usage() } else { error }
    })
}

/// A variable of the environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where the daemon of an instance is asked. With mistakes in the configuration it may run all the
/// same, from before they were made: then it is looked for at the usual place.
pub(super) fn admin_socket(instance: &Path) -> PathBuf {
    match load_config(instance) {
        Ok(config) => config.admin.socket,
        Err(_) => instance.join("var/zeoraid.sock"),
    }
}

pub fn here() -> Result<PathBuf, CliError> {
    std::env::current_dir()
        .map_err(|error| CliError::new(format!("could not find the current folder: {error}")))
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let next = error.next();
        let made = match &error {
            ConfigError::Unreadable { .. } => CliError::new(error.to_string()),
            ConfigError::Mistakes(mistakes) => {
                let count = match mistakes.len() {
                    1 => "a mistake".to_owned(),
                    many => format!("{many} mistakes"),
                };
                CliError::new(format!("the configuration has {count}"))
                    .with_details(mistakes.iter().map(ToString::to_string))
            }
        };
        match next {
            Some(next) => made.with_next(next),
            None => made,
        }
    }
}
