//! Every addition with every recipe that makes an instance: alone and all together, with the defaults and
//! with awkward values.

use std::path::PathBuf;

use serde_json::Value;

use super::readers::read_everything;
use super::{Order, files, read};
use crate::harness::Instance;

/// What makes an instance, and the folders of its daemons.
struct Base {
    name: &'static str,
    homes: &'static [&'static str],
    /// What must be answered.
    set: &'static [(&'static str, &'static str)],
    awkward: &'static [(&'static str, &'static str)],
}

const BASES: &[Base] = &[
    Base {
        name: "embedded",
        homes: &[""],
        set: &[],
        awkward: &[
            ("listen", "[::1]:18100"),
            ("name", "site-1.x"),
            ("members", "3"),
            // Two in one folder; one outside of the instance.
            (
                "paths",
                "var/a b/Data.fs, var/a b/2.fs, /srv/d $1 100%/Data.fs",
            ),
            (
                "blob_dirs",
                "var/a b/blobs, var/a b/2 blobs, /srv/d $1 100%/blobs",
            ),
        ],
    },
    Base {
        name: "single-server",
        homes: &[""],
        set: &[],
        awkward: &[("listen", "unix:var/z e o.sock")],
    },
    Base {
        name: "classic",
        homes: &[""],
        set: &[],
        awkward: &[
            ("listen", "[::1]:18100"),
            ("servers", "2"),
            ("addresses", "[::1]:18201, unix:var/zeo 2.sock"),
        ],
    },
    Base {
        name: "cooperative",
        homes: &["", "d2"],
        set: &[],
        awkward: &[("listen", "[::1]:18100, unix:var/z.sock")],
    },
    Base {
        name: "hot-spare",
        homes: &["", "d2"],
        set: &[
            ("spare_address", "192.0.2.10:8100"),
            ("addresses", "db1:8100, db2:8100, db3:8100"),
            ("spare_user", "nobody"),
        ],
        awkward: &[
            ("spare_address", "[2001:db8::10]:8100"),
            ("spare_first", "2001:db8::1"),
            ("spare_second", "2001:db8::2"),
        ],
    },
];

/// What additions are told in the awkward way. (The machine that tests has no such users, but `nobody`.)
const AWKWARD: &[(&str, &[(&str, &str)])] = &[
    (
        "systemd",
        &[
            ("systemd_unit", "zeoraid-site.1"),
            ("systemd_group", "zodb"),
            ("systemd_pack", "Sun *-*-* 03:00"),
        ],
    ),
    ("supervisor", &[("supervisor_program", "zodb.1")]),
    (
        "container",
        &[
            ("container_program", "source"),
            ("container_source", "/srv/zeo raid $x"),
        ],
    ),
    (
        "haproxy",
        &[
            ("haproxy_listen", "unix:/run/z e o.sock"),
            ("admin_address", "[::1]:18101"),
        ],
    ),
    (
        "monitoring",
        &[
            ("admin_address", "[::1]:18101"),
            ("config.token", "etc/token"),
            ("monitoring_token", "etc/token"),
        ],
    ),
    (
        "logrotate",
        &[("logrotate_every", "daily"), ("logrotate_keep", "1")],
    ),
    (
        "zope",
        &[
            ("zope_blobs", "shared"),
            ("zope_tls", "yes"),
            ("zope_server_sync", "yes"),
        ],
    ),
];

fn additions() -> Vec<&'static str> {
    AWKWARD.iter().map(|(name, _)| *name).collect()
}

impl Base {
    fn order<'a>(&self, with: &'a [&'a str], awkward: bool) -> Order<'a> {
        let mut answers: Vec<(&str, &str)> = self.set.to_vec();
        if awkward {
            answers.extend(self.awkward);
            for (name, more) in AWKWARD {
                if with.contains(name) {
                    answers.extend(*more);
                }
            }
        }
        let mut order = Order {
            recipe: self.name,
            with,
            set: Vec::new(),
        };
        for (option, value) in answers {
            order = order.set(option, value);
        }
        order
    }
}

/// Nobody has to remember to add a new recipe here.
#[test]
fn every_built_in_recipe_is_tried() {
    let run = Instance::new()
        .run_bare(&["recipe", "list", "-o", "json"])
        .ok();
    let list: Value = serde_json::from_str(&run.stdout).expect("it prints JSON");
    let names = |kind: &str| -> Vec<String> {
        let recipes = list[kind].as_array().expect("a list").iter();
        let mut names: Vec<_> = recipes
            .map(|recipe| recipe["name"].as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names
    };
    let mut bases: Vec<&str> = BASES.iter().map(|base| base.name).collect();
    bases.sort_unstable();
    let mut additions = additions();
    additions.sort_unstable();
    assert_eq!((names("recipes"), names("additions")), {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        (owned(bases), owned(additions))
    });
}

#[test]
fn every_addition_is_made_with_every_recipe() {
    let place = Instance::new();
    for base in BASES {
        for addition in additions() {
            for awkward in [false, true] {
                let name = format!("{} {addition} 100% $HOME {awkward}", base.name);
                let folder = place.beside(&name);
                let with = [addition];
                let run = base.order(&with, awkward).run(&place, &folder);
                assert_eq!(run.code, 0, "{name}:\n{run}");
                for home in base.homes {
                    // (Of the awkward ones it may warn: a member has no such disk, a token is not there yet.)
                    let home = folder.join(home).display().to_string();
                    if !awkward {
                        place.run_bare(&["-C", &home, "check-config"]).ok();
                    }
                }
            }
        }
    }
}

fn read_all_of(name: &str) {
    let base = BASES.iter().find(|base| base.name == name).expect("a base");
    let with = additions();
    for awkward in [false, true] {
        let place = Instance::new();
        let folder = place.beside(if awkward { "a b 100% $HOME" } else { "plain" });
        let run = base.order(&with, awkward).run(&place, &folder).ok();
        let work = place.beside("work");
        std::fs::create_dir(&work).expect("a folder");
        assert_no_template_is_left(&folder);
        std::fs::write(folder.join("etc/token"), "0123456789abcdef").expect("writing a token");
        read_everything(&folder, base.homes, &work);
        // Again: nothing has changed.
        let again = base.order(&with, awkward).run(&place, &folder).ok();
        for word in ["create ", "rewrite ", "remove "] {
            assert!(!again.stdout.contains(word), "{run}{again}");
        }
    }
}

fn assert_no_template_is_left(folder: &std::path::Path) {
    let folders = [
        "etc/systemd",
        "etc/supervisor",
        "etc/zope",
        "etc/haproxy",
        "etc/logrotate",
        "container",
    ];
    let all: Vec<PathBuf> = folders
        .iter()
        .flat_map(|name| files(&folder.join(name), ""))
        .collect();
    assert!(all.len() > 10, "{all:?}");
    for file in all {
        let text = read(&file);
        assert!(
            !text.contains("{{") && !text.contains("}}"),
            "{}:\n{text}",
            file.display()
        );
        assert!(
            text.lines().all(|line| line.trim_end() == line) && text.ends_with('\n'),
            "{}:\n{text}",
            file.display()
        );
    }
}

#[test]
fn programs_read_what_embedded_has_with_all_additions() {
    read_all_of("embedded");
}

#[test]
fn programs_read_what_single_server_has_with_all_additions() {
    read_all_of("single-server");
}

#[test]
fn programs_read_what_classic_has_with_all_additions() {
    read_all_of("classic");
}

#[test]
fn programs_read_what_cooperative_has_with_all_additions() {
    read_all_of("cooperative");
}

#[test]
fn programs_read_what_hot_spare_has_with_all_additions() {
    read_all_of("hot-spare");
}
