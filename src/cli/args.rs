//! What can be typed: the one definition that `--help`, the man pages and the completions are made of.
//!
//! Global options are here; each command's own arguments are in its file under `commands/`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{
    ArgMatches, Args, ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
};

use super::commands;
use super::output::Format;

/// RAID-1 for ZODB: one database, served over ZEO, kept as complete copies.
///
/// An instance is a folder made by `init`. Its daemon serves ZEO clients and keeps every member (a
/// complete copy of the database) in step; when one fails, clients notice nothing, and `recover` brings
/// it back while they go on.
#[derive(Debug, Parser)]
#[command(
    name = "zeoraidctl",
    version,
    max_term_width = 80,
    subcommand_help_heading = "Commands",
    after_help = "\
Examples:
  zeoraidctl init /srv/zodb --yes --start   make an instance and start it
  zeoraidctl status                         one line, for people and Nagios
  zeoraidctl details                        the array and its members
  zeoraidctl recover --interactive          bring members back, guided
  zeoraidctl                                the prompt, with all commands

Exit codes: 0 done, 1 could not be done, 2 wrong usage, or a daemon that cannot
start because its configuration is missing or has mistakes; `status` and
`details`: 0 optimal, 1 recovering or copies differ, 2 degraded or failed,
3 unknown."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,

    /// None is the prompt, at a terminal.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// Parses what was typed. In a prompt, `session` are the global options that it was begun with: they
    /// hold for every line that does not say otherwise.
    pub(super) fn parse_words(
        words: impl IntoIterator<Item = OsString>,
        session: Option<&GlobalArgs>,
    ) -> Result<Cli, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        let matches = match Cli::command().try_get_matches_from(&words) {
            // Once more, for what is said of it.
            Err(error) if error.use_stderr() => definition().try_get_matches_from(words)?,
            matches => matches?,
        };
        let mut cli = Cli::from_arg_matches(&matches)?;
        if let Some(session) = session {
            cli.global = cli.global.within(session, &matches);
        }
        Ok(cli)
    }

    /// The help, as an error of wrong usage: for no command where nobody can be prompted.
    pub(super) fn nothing_typed() -> Option<clap::Error> {
        let command = Cli::command().arg_required_else_help(true);
        command.try_get_matches_from(["zeoraidctl"]).err()
    }
}

/// The usage of a command as its help has it: `zeoraidctl recover [OPTIONS] [MEMBERS]...`.
pub(super) fn usage(command: &clap::Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.trim_start_matches("Usage:").trim().to_owned()
}

/// With the usage of every command as its help has it, also where it is said with a mistake: clap would name there
/// what was typed, with the global options that the wrapper of an instance adds, before the arguments.
fn definition() -> clap::Command {
    fn plain(command: clap::Command) -> clap::Command {
        let usage = usage(&command);
        command.override_usage(usage).mut_subcommands(plain)
    }
    let mut command = Cli::command();
    // Hands the names down that a usage begins with.
    command.build();
    command.mut_subcommands(plain)
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The instance's folder [default: this folder or the nearest above it with etc/zeoraid.yaml]
    #[arg(
        short = 'C',
        long,
        value_name = "DIR",
        env = "ZEORAID_HOME",
        hide_env_values = true,
        global = true
    )]
    pub instance: Option<PathBuf>,

    /// Talk to a daemon elsewhere: unix:PATH, http://HOST:PORT or https://…
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "ZEORAID_ADMIN",
        hide_env_values = true,
        global = true
    )]
    pub admin: Option<String>,

    /// The file with the token for --admin [default: the token in `$ZEORAID_TOKEN`]
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,

    /// For https: the daemon's certificate or its authority's [default: what the system trusts]
    #[arg(
        long,
        value_name = "FILE",
        env = "ZEORAID_ADMIN_CERTIFICATE",
        hide_env_values = true,
        global = true
    )]
    pub admin_certificate: Option<PathBuf>,

    /// The array, where the daemon serves several
    #[arg(short = 'S', long, value_name = "NAME", global = true)]
    pub array: Option<String>,

    /// How answers are printed; the keys are in zeoraid-json(5)
    #[arg(
        short,
        long,
        value_enum,
        default_value_t,
        hide_default_value = true,
        value_name = "FORMAT",
        global = true
    )]
    pub output: Format,

    /// When to use colours
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true,
        global = true
    )]
    pub color: ColorChoice,

    /// Say only what was asked for, and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say also which daemon is asked
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

impl GlobalArgs {
    /// What was not typed in this line is as in the session: there its variables were read already.
    fn within(self, session: &GlobalArgs, line: &ArgMatches) -> GlobalArgs {
        fn pick<T>(typed: bool, line: T, session: T) -> T {
            if typed { line } else { session }
        }
        let typed = |id: &str| line.value_source(id) == Some(ValueSource::CommandLine);
        let session = session.clone();
        // An instance that is named here is not asked for elsewhere, and the other way round.
        let elsewhere = typed("instance") || typed("admin");
        let loud = typed("quiet") || typed("verbose");
        GlobalArgs {
            instance: pick(elsewhere, self.instance, session.instance),
            admin: pick(elsewhere, self.admin, session.admin),
            admin_certificate: pick(
                typed("admin_certificate"),
                self.admin_certificate,
                session.admin_certificate,
            ),
            token_file: pick(typed("token_file"), self.token_file, session.token_file),
            array: pick(typed("array"), self.array, session.array),
            output: pick(typed("output"), self.output, session.output),
            color: pick(typed("color"), self.color, session.color),
            quiet: pick(loud, self.quiet, session.quiet),
            verbose: pick(loud, self.verbose, session.verbose),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(commands::init::InitArgs),
    Update(commands::update::UpdateArgs),
    Uninstall(commands::uninstall::UninstallArgs),
    Recipe(commands::recipe::RecipeArgs),
    Start(commands::start::StartArgs),
    Fg(commands::fg::FgArgs),
    Stop(commands::stop::StopArgs),
    Restart(commands::restart::RestartArgs),
    Kill(commands::kill::KillArgs),
    Wait(commands::wait::WaitArgs),
    Reload(commands::reload::ReloadArgs),
    Reopen(commands::reopen::ReopenArgs),
    Status(commands::status::StatusArgs),
    Details(commands::details::DetailsArgs),
    Recover(commands::recover::RecoverArgs),
    Disable(commands::disable::DisableArgs),
    Pack(commands::pack::PackArgs),
    Scrub(commands::scrub::ScrubArgs),
    Backup(commands::backup::BackupArgs),
    Events(commands::events::EventsArgs),
    Logtail(commands::logtail::LogtailArgs),
    Show(commands::show::ShowArgs),
    Inspect(commands::inspect::InspectArgs),
    CheckConfig(commands::check_config::CheckConfigArgs),
    Import(commands::import::ImportArgs),
    Shell(commands::shell::ShellArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::man::ManArgs),
}
