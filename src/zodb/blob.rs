//! The content of a blob: a file of its own.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempPath;

/// The content of a blob, in a file that is open. `Clone` shares it.
///
/// A blob that is on its way (uploaded by a client, fetched from a member) lies in a temporary file,
/// which is removed with the last handle of it; one that is kept lies in a blob directory, and stays
/// there. The open file can be read even where its name is gone by now, as after a pack. Who keeps a
/// temporary one may give its file another name with a hard link, where that is on the same disk, and
/// copies it otherwise.
#[derive(Clone)]
pub struct Blob(Arc<Inner>);

struct Inner {
    file: File,
    len: u64,
    path: Name,
}

enum Name {
    Temporary(TempPath),
    Kept(PathBuf),
}

impl Blob {
    /// A file that is removed with the last handle.
    ///
    /// # Errors
    /// Where it cannot be opened or measured.
    pub fn temporary(path: TempPath) -> io::Result<Self> {
        Self::open(Name::Temporary(path))
    }

    /// A file that stays where it is.
    ///
    /// # Errors
    /// Where it cannot be opened or measured.
    pub fn kept(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::open(Name::Kept(path.into()))
    }

    fn open(path: Name) -> io::Result<Self> {
        let file = File::open(path.path())?;
        let len = file.metadata()?.len();
        Ok(Blob(Arc::new(Inner { file, len, path })))
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The open file. It is shared: read it with offsets.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// The name under which it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path.path()
    }

    /// Whether the file is removed with the last handle.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self.0.path, Name::Temporary(_))
    }
}

impl Name {
    fn path(&self) -> &Path {
        match self {
            Name::Temporary(path) => path,
            Name::Kept(path) => path,
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({}, {} bytes)", self.path().display(), self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(text: &str) -> TempPath {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.into_temp_path()
    }

    #[test]
    fn a_temporary_file_goes_with_the_last_handle_and_a_kept_one_stays() {
        let blob = Blob::temporary(file("content")).unwrap();
        let (path, other) = (blob.path().to_owned(), blob.clone());
        drop(blob);
        assert!(path.exists());
        assert_eq!(other.len(), 7);
        drop(other);
        assert!(!path.exists());

        let kept = file("kept");
        let blob = Blob::kept(&*kept).unwrap();
        assert!(!blob.is_temporary());
        drop(blob);
        assert!(kept.exists());
    }

    #[test]
    fn what_is_open_can_be_read_after_its_name_is_gone() {
        let path = file("content");
        let blob = Blob::kept(&*path).unwrap();
        drop(path);
        let mut read = [0; 7];
        blob.file().read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"content");
    }
}
