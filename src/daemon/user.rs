//! Becoming another user: what root starts runs as `effective_user`, from before anything is opened.
//!
//! The steps: find the user; make what folders are missing, for that user; take on its groups, its group and
//! itself; see whether it may write where it must. Whatever is made afterwards (log, pid file, sockets, data)
//! is that user's then. Root opens no file by a path that the user could have put something else at: folders
//! are gone through one by one without following links, and only those that were just made are given away.
//!
//! The daemon does it for good. `start`, which opens the log for it, does it for that moment: a prompt that it
//! was typed at goes on as who it was.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{self, Gid, Uid, User};
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::DaemonError;
use crate::config::{Address, Config, MemberStorage};

/// Whether this process could start the daemon as the user that the configuration names. Changes nothing.
///
/// # Errors
/// Where there is no such user, or this one may not become it.
pub(super) fn check(config: &Config) -> Result<(), DaemonError> {
    who(config).map(|_| ())
}

/// Becomes the user that the configuration names, for good, and sets the umask. A second time it does nothing.
///
/// # Errors
/// Where there is no such user, this one may not become it, or it may not write where it must.
pub(super) fn become_effective(config: &Config) -> Result<(), DaemonError> {
    if let Some(mask) = config.umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
    let Some(user) = to_become(config)? else {
        return Ok(());
    };
    take_on(&user).map_err(failed(&user))?;
    may_write_all(config, &user)
}

/// Opens something as that user, and is root again: for who goes on with something else.
///
/// # Errors
/// As of [`become_effective`], and of `open`.
pub(super) fn as_effective<T>(
    config: &Config,
    open: impl FnOnce() -> Result<T, DaemonError>,
) -> Result<T, DaemonError> {
    let mask = config.umask.map(Mode::from_raw_mode);
    let before = mask.map(rustix::process::umask);
    let opened = match to_become(config)? {
        None => open(),
        Some(user) => {
            let root = (Uid::effective(), Gid::effective());
            let switch =
                |uid: Uid, gid: Gid| unistd::setegid(gid).and_then(|()| unistd::seteuid(uid));
            let opened = switch(user.uid, user.gid)
                .map_err(failed(&user))
                .and_then(|()| may_write_all(config, &user))
                .and_then(|()| open());
            // Whoever is root by right can always be it again; first, for only root may have any group.
            unistd::seteuid(root.0)
                .and_then(|()| unistd::setegid(root.1))
                .map_err(failed(&user))?;
            opened
        }
    };
    if let Some(before) = before {
        rustix::process::umask(before);
    }
    opened
}

/// The user that this process is to become, whose folders are there then; none where it is that user, or
/// none is named.
fn to_become(config: &Config) -> Result<Option<User>, DaemonError> {
    let Some(user) = who(config)? else {
        return Ok(None);
    };
    for folder in folders(config) {
        if let Ok(below) = folder.strip_prefix(&config.instance) {
            make_for(&config.instance, below, &user)
                .map_err(DaemonError::io("make the folder", &folder))?;
        }
    }
    Ok(Some(user))
}

fn who(config: &Config) -> Result<Option<User>, DaemonError> {
    let Some(name) = &config.effective_user else {
        return Ok(None);
    };
    let user = find(name)?;
    let me = Uid::effective();
    if me == user.uid {
        return Ok(None);
    }
    if !me.is_root() {
        let known = User::from_uid(me).ok().flatten();
        return Err(DaemonError::NotRoot {
            user: name.clone(),
            me: known.map_or_else(|| me.to_string(), |user| user.name),
        });
    }
    Ok(Some(user))
}

fn may_write_all(config: &Config, user: &User) -> Result<(), DaemonError> {
    for folder in folders(config) {
        if let Err(source) = may_write(&folder) {
            return Err(DaemonError::NotIts {
                user: user.name.clone(),
                folder,
                instance: config.instance.clone(),
                source: source.into(),
            });
        }
    }
    Ok(())
}

fn failed(user: &User) -> impl FnOnce(nix::Error) -> DaemonError {
    let user = user.name.clone();
    move |error| DaemonError::Become {
        user,
        source: error.into(),
    }
}

fn find(name: &str) -> Result<User, DaemonError> {
    let found = User::from_name(name).map_err(|error| DaemonError::Become {
        user: name.to_owned(),
        source: error.into(),
    })?;
    found.ok_or_else(|| DaemonError::NoUser {
        user: name.to_owned(),
    })
}

fn take_on(user: &User) -> nix::Result<()> {
    let name = std::ffi::CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
    // In this order: whoever is no longer root can change nothing more.
    unistd::initgroups(&name, user.gid)?;
    unistd::setgid(user.gid)?;
    unistd::setuid(user.uid)
}

/// The folders in the instance in which files are made.
fn folders(config: &Config) -> Vec<PathBuf> {
    let mut files = vec![&config.pid_file, &config.log.file, &config.admin.socket];
    for listen in &config.listen {
        if let Address::Unix(path) = &listen.address {
            files.push(path);
        }
    }
    let mut folders = vec![config.spool.folder.clone()];
    for array in &config.arrays {
        files.push(&array.record);
        for member in &array.members {
            if let MemberStorage::File { file, .. } = &member.storage {
                files.push(file);
            }
        }
    }
    folders.extend(
        files
            .into_iter()
            .filter_map(|file| file.parent().map(Path::to_owned)),
    );
    folders.retain(|folder| folder.starts_with(&config.instance));
    folders.sort();
    folders.dedup();
    folders
}

/// Makes a folder below another, with those between; what it makes is the user's. Links are not followed.
fn make_for(root: &Path, below: &Path, user: &User) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: OwnedFd =
        rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for component in below.components() {
        let Component::Normal(name) = component else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let made = match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let next = match rustix::fs::openat(&at, name, flags, Mode::empty()) {
            Ok(next) => next,
            // A link that was there before: what is behind it is for its owner to make.
            Err(Errno::LOOP | Errno::NOTDIR) if !made => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if made {
            let owner = rustix::fs::Uid::from_raw(user.uid.as_raw());
            let group = rustix::fs::Gid::from_raw(user.gid.as_raw());
            rustix::fs::fchown(&next, Some(owner), Some(group))?;
        }
        at = next;
    }
    Ok(())
}

fn may_write(folder: &Path) -> rustix::io::Result<()> {
    // By the effective user, which is the one that opens files.
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, folder, access, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("i");
        std::fs::create_dir(&root).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let me = User::from_uid(Uid::effective()).unwrap().unwrap();
        make_for(&root, Path::new("var/log"), &me).unwrap();
        assert!(root.join("var/log").is_dir());
        std::os::unix::fs::symlink(&elsewhere, root.join("var/link")).unwrap();
        make_for(&root, Path::new("var/link/deep"), &me).unwrap();
        assert!(!elsewhere.join("deep").exists());
    }
}
