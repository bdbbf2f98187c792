//! Replacing a small file so that a crash leaves the old content or the new, never a part.
//!
//! The steps: write beside, sync, rename over, sync the folder. Everything that this program keeps on
//! disk besides the databases themselves is written by [`write`] and nothing else: the membership
//! record, the files of an instance, `.installed.yaml`.

use std::io;
use std::path::Path;

#[cfg(test)]
pub(crate) mod crash;
pub(crate) mod step;

/// Replaces a file and returns when the new content is durable. A new file gets mode 0600, as a
/// temporary file does. Blocks.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with_mode(path, content, 0o600)
}

/// Replaces a file, with these permission bits, whatever the umask says. Blocks.
pub fn write_with_mode(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = step::folder_of(path);
    #[cfg(test)]
    if let Some(life) = crate::simulation::current() {
        life.machine.drive_of(path).has_room()?;
    }
    let file = tempfile::Builder::new().make_in(folder, step::create_private)?;
    let (file, beside) = file.into_parts();
    let beside = step::Temporary::new(beside.keep().map_err(|error| error.error)?);
    step::write_at(&file, content, 0)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    if !step::mistake!(path, SmallFileNotSynced) {
        step::sync_all(&file)?;
    }
    beside.rename(path)?;
    if step::mistake!(path, SmallFileFolderNotSynced) {
        return Ok(());
    }
    step::sync_folder(folder)
}

/// How many bytes a user who is not root can still write to the disk of a file or a folder. Blocks.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"old").unwrap();
        write_with_mode(&path, b"new", 0o755).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
