//! Copying the file of a blob without reading it into memory, by the kernel where it can.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

use crate::durable::step;
use crate::zodb::Blob;

const STEP: usize = 1 << 20;

/// Copies all of a blob to the beginning of a file.
pub(super) fn copy(from: &Blob, to: &File) -> io::Result<()> {
    let (file, mut at) = (from.open()?, 0);
    while at < from.len() {
        let (mut read, mut written) = (at, at);
        let left = usize::try_from(from.len() - at).unwrap_or(usize::MAX);
        let step = left.min(1 << 30);
        match rustix::fs::copy_file_range(&*file, Some(&mut read), to, Some(&mut written), step) {
            Ok(0) => return Err(shorter(from)),
            Ok(copied) => {
                step::copied(to, at, copied as u64)?;
                at += copied as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return by_hand(from, to, at);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn by_hand(from: &Blob, to: &File, mut at: u64) -> io::Result<()> {
    let (file, mut buffer) = (from.open()?, vec![0; STEP]);
    while at < from.len() {
        let left = usize::try_from(from.len() - at).unwrap_or(usize::MAX);
        let step = left.min(STEP);
        match file.read_at(&mut buffer[..step], at) {
            Ok(0) => return Err(shorter(from)),
            Ok(read) => {
                step::write_at(to, &buffer[..read], at)?;
                at += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn shorter(blob: &Blob) -> io::Error {
    let text = format!("{} became shorter", blob.path().display());
    io::Error::new(ErrorKind::UnexpectedEof, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_copying_give_the_same() {
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let source = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(source.path(), &content).unwrap();
        let blob = Blob::kept(source.path()).unwrap();
        for way in [copy, |from: &Blob, to: &File| by_hand(from, to, 0)] {
            let target = tempfile::NamedTempFile::new().unwrap();
            way(&blob, target.as_file()).unwrap();
            assert_eq!(std::fs::read(target.path()).unwrap(), content);
        }
    }

    #[test]
    fn a_source_that_became_shorter_is_an_error() {
        let source = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(source.path(), b"content").unwrap();
        let blob = Blob::kept(source.path()).unwrap();
        source.as_file().set_len(3).unwrap();
        for way in [copy, |from: &Blob, to: &File| by_hand(from, to, 0)] {
            let target = tempfile::NamedTempFile::new().unwrap();
            let error = way(&blob, target.as_file()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    }
}
