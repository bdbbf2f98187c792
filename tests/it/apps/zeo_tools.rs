//! `zeopack` and `zeo-nagios`, which ZEO ships.

use std::fs;
use std::path::Path;

use crate::harness::Instance;
use crate::harness::python;

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Two arrays of two files each, served over TCP and on a Unix socket, the path of which is handed back.
fn two_arrays(instance: &Instance) -> String {
    let socket = text(&instance.beside("zeo.sock")).to_owned();
    let mut config = format!(
        "listen: [\"{}\", \"unix:{socket}\"]\narrays:\n",
        instance.address
    );
    for (array, more) in [("main", "    aliases: [\"1\"]\n"), ("other", "")] {
        config += &format!("  {array}:\n    members:\n");
        for copy in ["copy1", "copy2"] {
            config += &format!("      {copy}: {{file: var/{array}/{copy}/Data.fs}}\n");
        }
        config += more;
    }
    fs::create_dir_all(instance.path("etc")).expect("a folder for the configuration");
    fs::write(instance.config(), config).expect("writing the configuration");
    socket
}

fn copies(instance: &Instance, array: &str) -> Vec<std::path::PathBuf> {
    let copies = ["copy1", "copy2"];
    let path = |copy: &str| instance.path(&format!("var/{array}/{copy}/Data.fs"));
    copies.into_iter().map(path).collect()
}

#[test]
fn zeopack_packs_what_it_is_told_and_as_far() {
    let instance = Instance::new();
    let socket = two_arrays(&instance);
    let past = instance.beside("past.fs");
    python::run("zeo_tools.py", &["past", text(&past)]).ok();
    for array in ["main", "other"] {
        for copy in copies(&instance, array) {
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder for the copy");
            fs::copy(&past, copy).expect("copying a Data.fs");
        }
    }
    instance.start().ok();
    instance.wait_optimal();
    let args = ["zeopack", &instance.address, &socket, text(&past)];
    python::run("zeo_tools.py", &args).ok();
    instance.stop().ok();
    for array in ["main", "other"] {
        python::verify(&copies(&instance, array), &[]);
    }
}

#[test]
fn zeo_nagios_is_told_what_it_asks_for() {
    let instance = Instance::new();
    let socket = two_arrays(&instance);
    let address = instance.address.as_str();
    instance.start().ok();
    instance.wait_optimal();
    python::run("zeo_tools.py", &["nagios_empty", address]).ok();
    python::run("zeo_tools.py", &["nagios", address, &socket]).ok();
    instance.stop().ok();
    python::run("zeo_tools.py", &["nagios_down", address]).ok();
}
