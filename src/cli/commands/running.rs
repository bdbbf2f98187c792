//! What runs by an instance: its daemons, and the processes that its recipe names (ZEO servers). `init`
//! starts it, or says how; `uninstall` does not remove anything under it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::start::{self, StartArgs};
use super::writing::home_of;
use crate::admin::api::Problem;
use crate::admin::client::{AdminClient, ClientError, Target};
use crate::cli::context::{Context, admin_socket, load_config};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Paint, escape};
use crate::config::disks;
use crate::recipe::Process;
use crate::recipe::plan::Plan;
use crate::recipe::uninstall::Removal;

/// What an instance is there for.
pub(super) struct Running {
    instance: PathBuf,
    /// The folders of its daemons; the first is the instance's own.
    pub(super) homes: Vec<PathBuf>,
    processes: Vec<Process>,
}

impl Running {
    /// Of an instance as it is to be.
    pub(super) fn of(plan: &Plan, instance: &Path) -> Self {
        let steps = plan.steps.iter().filter(|step| step.what.is_wanted());
        Self::find(
            steps.map(|step| (step.target.as_str(), step.process.as_ref())),
            instance,
        )
    }

    /// Of an instance as it is.
    pub(super) fn of_installed(removal: &Removal, instance: &Path) -> Self {
        let files = removal.files.iter();
        Self::find(
            files.map(|fate| (fate.target.as_str(), fate.process.as_ref())),
            instance,
        )
    }

    fn find<'a>(
        files: impl Iterator<Item = (&'a str, Option<&'a Process>)>,
        instance: &Path,
    ) -> Self {
        let mut running = Running {
            instance: instance.to_owned(),
            homes: Vec::new(),
            processes: Vec::new(),
        };
        for (target, process) in files {
            running.homes.extend(home_of(target, instance));
            running.processes.extend(process.cloned());
        }
        running.homes.sort();
        running
    }

    /// The commands that end what runs.
    ///
    /// # Errors
    /// Where it cannot be found out whether a daemon runs.
    pub(super) async fn stops(&self) -> Result<Vec<String>, CliError> {
        let mut stops = Vec::new();
        for home in &self.homes {
            if daemon_runs(home).await? {
                stops.push(format!("zeoraidctl -C {} stop", home.display()));
            }
        }
        let processes = self.processes.iter().filter(|process| answers(process));
        stops.extend(processes.map(|process| process.stop.clone()));
        Ok(stops)
    }

    /// Starts what does not run: first what the daemons need. Shows the details of the first daemon.
    pub(super) async fn start(&self, context: &Context) -> Result<Exit, CliError> {
        for process in &self.processes {
            if !answers(process) {
                start_process(process, context)?;
            }
        }
        let Some((first, others)) = self.homes.split_first() else {
            return Err(CliError::new("this recipe gives no daemon to start"));
        };
        for home in others {
            start::start(&StartArgs::default(), home, context).await?;
        }
        start::in_instance(&StartArgs::default(), first, context).await
    }

    /// Which copies of the daemons or of their servers are on one disk.
    fn shared_disks(&self) -> Vec<String> {
        let configs = self.homes.iter().filter_map(|home| load_config(home).ok());
        let mut notes: Vec<String> = configs.flat_map(|config| config.shared_disks()).collect();
        let files = self.processes.iter().filter_map(|process| {
            let file = process.data.as_deref()?;
            let within = Path::new(file).strip_prefix(&self.instance).ok();
            Some((
                within.and_then(Path::to_str).unwrap_or(file),
                Path::new(file),
            ))
        });
        notes.extend(disks::shared(files));
        notes
    }

    /// Says where what is to be started would find another program.
    async fn warn_of_taken(&self, context: &Context) {
        let init = format!("zeoraidctl init {}", self.instance.display());
        let mut taken = Vec::new();
        let processes = self.processes.iter().filter(|process| !answers(process));
        for process in processes {
            let address = process.address.as_deref().unwrap_or_default();
            if (context.is_taken)(address) {
                let what = format!("`{}` would fail", process.start);
                taken.push((address.to_owned(), what, "addresses"));
            }
        }
        for home in &self.homes {
            let Ok(config) = load_config(home) else {
                continue;
            };
            if !matches!(daemon_runs(home).await, Ok(false)) {
                continue;
            }
            for listen in &config.listen {
                let address = listen.address.to_string();
                if (context.is_taken)(&address) {
                    taken.push((address, "the daemon would not start".to_owned(), "listen"));
                }
            }
        }
        for (address, what, option) in taken {
            context.printer.warning(&format!(
                "another program listens at {}, so {}. End that program, or choose another \
                 address: {} --set {option}=…",
                escape(&address),
                escape(&what),
                escape(&init)
            ));
        }
    }

    /// What a person should know who does not look further, and what to type next: it depends on what runs.
    pub(super) async fn show_next(&self, changes: bool, context: &Context) {
        self.warn_of_taken(context).await;
        for note in self.shared_disks() {
            context.printer.note(&format!("note: {}", escape(&note)));
        }
        let processes = self.processes.iter().filter(|process| !answers(process));
        let mut commands: Vec<_> = processes.map(|process| process.start.clone()).collect();
        let wrapper = self.instance.join("bin/zeoraidctl");
        for home in &self.homes {
            let command = match (daemon_runs(home).await, changes) {
                (Ok(true), true) => "reload",
                (Ok(true), false) => continue,
                (Ok(false) | Err(_), _) => "start",
            };
            // With mistakes it neither starts nor is read again.
            let command = match load_config(home) {
                Ok(_) => command,
                Err(_) => "check-config",
            };
            commands.push(if *home == self.instance {
                format!("{} {command}", wrapper.display())
            } else {
                format!("{} -C {} {command}", wrapper.display(), home.display())
            });
        }
        let style = context.printer.error_style();
        let mut word = style.paint(Paint::Strong, "Next:");
        for command in commands {
            let command = style.paint(Paint::Command, &escape(&command));
            context.printer.note(&format!("{word} {command}"));
            "     ".clone_into(&mut word);
        }
    }
}

async fn daemon_runs(home: &Path) -> Result<bool, CliError> {
    let client = AdminClient::new(Target::Socket(admin_socket(home)))
        .map_err(|error| CliError::from(Problem::from(error)))?;
    match client.ping().await {
        Ok(_) => Ok(true),
        Err(ClientError::NotRunning { .. }) => Ok(false),
        Err(error) => Err(Problem::from(error).into()),
    }
}

fn answers(process: &Process) -> bool {
    UnixStream::connect(&process.socket).is_ok()
}

/// What it says goes where our own progress goes: standard output is for answers.
fn start_process(process: &Process, context: &Context) -> Result<(), CliError> {
    let command = &process.start;
    let failed = |why: String| {
        CliError::new(format!("could not start what the daemon needs: {why}")).with_next(format!(
            "find out why in its log, below var/log; then: {command}"
        ))
    };
    let ended = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|error| failed(format!("`{command}` cannot be run: {error}")))?;
    if !ended.success() {
        return Err(failed(format!("`{command}` ended with {ended}")));
    }
    context.printer.success(command);
    Ok(())
}
