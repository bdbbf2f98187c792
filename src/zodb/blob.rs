//! The content of a blob: a file of its own.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempPath;

/// The content of a blob, in a file. `Clone` shares it.
///
/// A blob that is on its way (uploaded by a client, fetched from a member) lies in a temporary file,
/// which is removed with the last handle of it; one that is kept lies in a blob directory, and stays
/// there. Who keeps a temporary one may give its file another name with a hard link, where that is on the
/// same disk, and copies it otherwise.
///
/// Thousands may be on their way at a time, in one transaction even, so a temporary file is open only while
/// it is read: nobody else takes its name away. A kept one stays open, and can be read even where its name is
/// gone by now, as after a pack, unless it is [`closed`](Self::closed); so does one that a client has put where
/// it can take it away.
#[derive(Clone)]
pub struct Blob(Arc<Inner>);

struct Inner {
    held: Option<File>,
    len: u64,
    path: Name,
}

enum Name {
    Temporary(TempPath),
    Kept(PathBuf),
}

/// The file of a [`Blob`], open. It is shared: read it with offsets.
pub enum Opened<'a> {
    Held(&'a File),
    Own(File),
}

impl Deref for Opened<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Opened::Held(file) => file,
            Opened::Own(file) => file,
        }
    }
}

impl Blob {
    /// A file that is removed with the last handle, and that nobody else removes.
    ///
    /// # Errors
    /// Where it cannot be measured.
    pub fn temporary(path: TempPath) -> io::Result<Self> {
        let len = path.metadata()?.len();
        let (held, path) = (None, Name::Temporary(path));
        Ok(Blob(Arc::new(Inner { held, len, path })))
    }

    /// A file that is removed with the last handle, where others may put something else in its place: what
    /// is there now counts.
    ///
    /// # Errors
    /// Where it cannot be opened or measured, or is a link.
    pub fn lent(path: TempPath) -> io::Result<Self> {
        Self::held(Name::Temporary(path))
    }

    /// A file that stays where it is.
    ///
    /// # Errors
    /// Where it cannot be opened or measured.
    pub fn kept(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::held(Name::Kept(path.into()))
    }

    fn held(path: Name) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true);
        if matches!(path, Name::Temporary(_)) {
            options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        }
        let file = options.open(path.path())?;
        let len = file.metadata()?.len();
        let held = Some(file);
        Ok(Blob(Arc::new(Inner { held, len, path })))
    }

    /// One that is open only while it is read. Of use to who knows that nobody takes the name away, and has many.
    #[must_use]
    pub fn closed(self) -> Self {
        let Name::Kept(path) = &self.0.path else {
            return self;
        };
        let (held, len) = (None, self.0.len);
        let path = Name::Kept(path.clone());
        Blob(Arc::new(Inner { held, len, path }))
    }

    /// Whether it is a handle of the same file as `other`, and not of one with the same content.
    #[must_use]
    pub fn is(&self, other: &Blob) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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

    /// The file to read.
    ///
    /// # Errors
    /// Where it is not held open and cannot be opened, for instance because too many are open.
    pub fn open(&self) -> io::Result<Opened<'_>> {
        Ok(match &self.0.held {
            Some(file) => Opened::Held(file),
            None => Opened::Own(File::open(self.path())?),
        })
    }

    /// The name under which it was given.
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

    fn content(blob: &Blob) -> io::Result<String> {
        let mut read = vec![0; usize::try_from(blob.len()).unwrap()];
        blob.open()?.read_exact_at(&mut read, 0)?;
        Ok(String::from_utf8(read).unwrap())
    }

    #[test]
    fn what_is_held_can_be_read_after_its_name_is_gone_or_anothers() {
        let kept = file("content");
        let blob = Blob::kept(&*kept).unwrap();
        assert_eq!(content(&blob.clone().closed()).unwrap(), "content");
        drop(kept);
        assert_eq!(content(&blob).unwrap(), "content");
        assert!(content(&blob.closed()).is_err());

        let lent = Blob::lent(file("lent")).unwrap();
        std::fs::remove_file(lent.path()).unwrap();
        std::fs::write(lent.path(), "other").unwrap();
        assert_eq!(content(&lent).unwrap(), "lent");
        assert_eq!(content(&lent.closed()).unwrap(), "lent");
    }

    #[test]
    fn what_is_lent_is_no_link_to_what_is_not_the_lenders() {
        let (other, link) = (file("other"), file(""));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert!(Blob::lent(link).is_err());
    }
}
