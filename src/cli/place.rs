//! Where the instance is.

use std::io::ErrorKind;
use std::net::{TcpListener, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use super::context::{Context, here};
use super::error::CliError;
use crate::config;
use crate::recipe::installed::{INSTALLED, Installed, OWN_RECIPE};

/// The instance's folder: what was named, else this folder or the nearest above it that holds
/// `etc/zeoraid.yaml`. Absolute.
///
/// # Errors
/// Says where it was looked for.
pub(super) fn find_instance(named: Option<&Path>, here: &Path) -> Result<PathBuf, CliError> {
    if let Some(named) = named {
        let folder = here.join(named);
        if folder.join(config::FILE).is_file() {
            return Ok(normal(&folder));
        }
        // Whoever may not look must not be told to make one there.
        let file = folder.join(config::FILE);
        if let Err(error) = std::fs::metadata(&file)
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            let message = format!("could not look at {}: {error}", file.display());
            return Err(CliError::new(message)
                .with_next("ask as root, or as the user that the daemon runs as"));
        }
        let message = format!(
            "{} is no instance: there is no {} in it",
            folder.display(),
            config::FILE
        );
        return Err(
            CliError::new(message).with_next(format!("zeoraidctl init {}", folder.display()))
        );
    }
    let found = here
        .ancestors()
        .find(|folder| folder.join(config::FILE).is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        CliError::new(format!(
            "there is no instance here: neither {} nor a folder above it holds {}",
            here.display(),
            config::FILE
        ))
        .with_next("zeoraidctl -C DIR …, or make one: zeoraidctl init DIR")
    })
}

/// The folder that `init` wrote into: what was named, else this folder or the nearest above it. A daemon's
/// own folder within an instance leads to the instance.
///
/// # Errors
/// Says where it was looked for.
pub(super) fn find_made(context: &Context) -> Result<PathBuf, CliError> {
    if let Some(admin) = &context.global.admin {
        return Err(CliError::usage(format!(
            "this needs the instance's folder; with `--admin {admin}` no local file is read"
        )));
    }
    made_at(context.global.instance.as_deref(), &here()?)
}

fn made_at(named: Option<&Path>, here: &Path) -> Result<PathBuf, CliError> {
    let start = normal(&here.join(named.unwrap_or(Path::new(""))));
    for folder in start.ancestors() {
        if !folder.join(INSTALLED).is_file() && !folder.join(OWN_RECIPE).is_file() {
            continue;
        }
        let below = start.strip_prefix(folder).unwrap_or(Path::new(""));
        let configuration = below.join(config::FILE).display().to_string();
        let is_daemons = || {
            let installed = Installed::load(folder)?;
            Ok::<_, CliError>(installed.files.contains_key(&configuration))
        };
        if named.is_none() || below.as_os_str().is_empty() || is_daemons()? {
            return Ok(folder.to_owned());
        }
        break;
    }
    let message = match named {
        Some(_) => format!("`init` wrote nothing into {}", start.display()),
        None => format!(
            "`init` wrote nothing here: neither {} nor a folder above it holds {INSTALLED}",
            start.display()
        ),
    };
    Err(CliError::new(message).with_next("zeoraidctl init DIR"))
}

/// Without `.`, `..` and links where that is possible, so that messages and paths of sockets are short.
fn normal(folder: &Path) -> PathBuf {
    std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

/// Whether another program listens at `HOST:PORT` of this machine, so that nobody else can. What else would be in
/// the way (no such address, no right to it) is found, and said better, by who tries.
pub(super) fn is_taken(address: &str) -> bool {
    if address.starts_with("unix:") {
        return false;
    }
    let Ok(addresses) = address.to_socket_addrs() else {
        return false;
    };
    addresses.take(8).any(|address| {
        let error = TcpListener::bind(address).err();
        error.is_some_and(|error| error.kind() == ErrorKind::AddrInUse)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_with_a_configuration_is_the_instance() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let below = root.join("var/deep");
        std::fs::create_dir_all(&below).unwrap();
        let error = find_instance(None, &below).unwrap_err().to_string();
        assert!(error.starts_with("there is no instance here"), "{error}");
        let error = find_instance(Some(&root), &below).unwrap_err().to_string();
        assert!(
            error.ends_with("there is no etc/zeoraid.yaml in it"),
            "{error}"
        );

        std::fs::create_dir(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/zeoraid.yaml"), "").unwrap();
        assert_eq!(find_instance(None, &below).unwrap(), root);
        assert_eq!(
            find_instance(Some(Path::new("../..")), &below).unwrap(),
            root
        );
    }

    #[test]
    fn an_address_is_taken_while_somebody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(is_taken(&address));
        drop(listener);
        // None of these can be taken by anybody.
        for address in ["127.0.0.1:0", "unix:/tmp", "no.such.host.invalid:1", ""] {
            assert!(!is_taken(address), "{address}");
        }
    }
}
