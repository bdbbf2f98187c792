//! `%import`: which packages bring types of sections that are known here.

use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::tree::Key;

/// Packages whose sections are looked at one by one: what has no equivalent is said there.
const KNOWN: &[&str] = &[
    "gocept.zeoraid",
    "tempstorage",
    "products.temporaryfolder",
    "relstorage",
    "zc.beforestorage",
    "zc.zlibstorage",
    "zconfig.components.basic",
    "zconfig.components.logger",
    "zdaemon",
    "zeo",
    "zodb",
];

pub(super) fn note(import: &Key, found: &mut Findings) {
    let package = import.value.to_lowercase();
    if !KNOWN.contains(&package.as_str()) {
        found.must_do(
            &import.place,
            format!("`%import {}`", import.value),
            "this package is not known here: what its sections did is not done",
        );
    }
}
