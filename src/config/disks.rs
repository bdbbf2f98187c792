//! Which copies lie on one disk. Two copies there survive a mistake in a file, and no failure of the disk.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A sentence for each disk that holds several of these copies, each with its name and file.
///
/// The disk is the device of the file system (`st_dev`): what lies on one device is lost with it. That two
/// devices may be parts of one disk cannot be seen here, so nothing is said then. A file that is not there
/// yet will lie where its nearest folder does.
pub fn shared<'a>(copies: impl Iterator<Item = (&'a str, &'a Path)>) -> Vec<String> {
    let mut disks: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (name, file) in copies {
        let found = file
            .ancestors()
            .find_map(|path| std::fs::metadata(path).ok());
        if let Some(found) = found {
            disks.entry(found.dev()).or_default().push(name);
        }
    }
    let several = disks.values().filter(|names| names.len() > 1);
    several.map(|names| sentence(names)).collect()
}

fn sentence(names: &[&str]) -> String {
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    let which = match names.len() {
        2 => "both are",
        _ => "all of them are",
    };
    format!(
        "{} and {last} are on the same disk: when it fails, {which} lost",
        others.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_on_one_device_are_named_and_those_elsewhere_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (here, deeper) = (folder.path().join("a.fs"), folder.path().join("x/y/b.fs"));
        std::fs::write(&here, "").unwrap();
        // A file system of its own on every Linux.
        let elsewhere = Path::new("/proc/version");
        let said = |copies: &[(&'static str, &Path)]| shared(copies.iter().copied());
        assert_eq!(said(&[("a", &here), ("p", elsewhere)]), [""; 0]);
        assert_eq!(
            said(&[("a", &here), ("p", elsewhere), ("b", &deeper)]),
            ["a and b are on the same disk: when it fails, both are lost"]
        );
        assert_eq!(
            said(&[("a", &here), ("b", &deeper), ("c", &here)]),
            ["a, b and c are on the same disk: when it fails, all of them are lost"]
        );
    }
}
