//! The first corpus: small real things of every kind.
//!
//! `ZEORAID_SEEDS=FOLDER cargo test --lib fuzzing::seeds` writes them, a folder for each target.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Target, data_fs, folder};
use crate::admin::http::ROUTES;
use crate::pickle::recorded::{EXTENSIONS, PICKLES, REPLIES, REQUESTS, recorded};
use crate::recipe::options::{Answers, resolve};
use crate::recipe::render::{Surroundings, render};
use crate::recipe::{Library, Recipe};
use crate::storage::file::FileOptions;

#[derive(Default)]
struct Seeds(BTreeMap<&'static str, Vec<Vec<u8>>>);

impl Seeds {
    fn add(&mut self, target: &'static str, seed: impl AsRef<[u8]>) {
        self.0
            .entry(target)
            .or_default()
            .push(seed.as_ref().to_vec());
    }
}

fn seeds() -> Seeds {
    let mut seeds = Seeds::default();
    for (_, pickle) in recorded(PICKLES).chain(recorded(EXTENSIONS)) {
        seeds.add("pickle", pickle);
    }
    messages(&mut seeds);
    sessions(&mut seeds);
    servers(&mut seeds);
    files(&mut seeds);
    texts(&mut seeds);
    requests(&mut seeds);
    seeds
}

fn messages(seeds: &mut Seeds) {
    for (target, recording) in [("client", REQUESTS), ("server", REPLIES)] {
        let mut stream = vec![255, 6];
        for (name, message) in recorded(recording) {
            let dialect = u8::from(name.starts_with("M-"));
            seeds.add(target, [&[dialect], message.as_ref()].concat());
            if message.len() < 200 {
                stream.extend((message.len() as u32).to_be_bytes());
                stream.extend(&message);
            }
        }
        seeds.add("frames", &stream);
        seeds.add("frames", [&[1, 0], &stream[2..500]].concat());
    }
    // Each recorded request in a session, as it is.
    for (dialect, prefix) in [(0, "Z-"), (1, "M-")] {
        let mut all = vec![dialect];
        for (name, message) in recorded(REQUESTS) {
            let skipped = ["register", "large", "heartbeat"];
            if name.starts_with(prefix) && !skipped.iter().any(|skip| name.contains(skip)) {
                let length = (message.len() as u16).to_le_bytes();
                let item = [&[255], &length[..], &message].concat();
                seeds.add("session", [&[dialect], &item[..]].concat());
                all.extend(item);
            }
        }
        seeds.add("session", all);
    }
    let handshake =
        b"\x02\0\0\0\x02Z5\0\0\0\x22\x80\x03(K\x01\x89X\x08\0\0\0registerX\x01\0\0\x001\x89\x86t.";
    seeds.add("session", handshake);
    seeds.add("session", b"\x02\0\0\0\x04ruok");
    seeds.add("session", b"\x12\0\0\0\x02Z");
}

fn sessions(seeds: &mut Seeds) {
    let begin = [14, 0, 0, 0, 0, 0];
    let store = [15 + 128, 1, 2, 3, b'n', b'e', b'w', 0];
    let (vote, finish, abort) = ([21, 0], [22, 0], [23, 0]);
    let commit = [&begin[..], &store, &vote, &finish].concat();
    let blob = [
        &begin[..],
        &[24 + 128, 25 + 128, 4, 1, 2, 3, 4, 26 + 128, 3, 0, 1, 9, 0],
        &vote,
        &finish,
        &[28, 3, 9],
    ]
    .concat();
    let scripts: Vec<Vec<u8>> = vec![
        commit.clone(),
        [&commit[..], &[253], &commit].concat(),
        [&begin[..], &store, &abort].concat(),
        [&begin[..], &[15 + 128, 1, 1, 1, b'x', 0], &vote, &abort].concat(),
        [
            &begin[..],
            &[17, 2, 9, 1, 2, b'r', b'e', 1, 1, 0],
            &vote,
            &finish,
        ]
        .concat(),
        [&begin[..], &[18, 1, 2, 0, 19, 0, 1, 0], &vote, &finish].concat(),
        [&begin[..], &[20, 2, 0], &vote, &finish].concat(),
        blob,
        [&begin[..], &[27, 1, 2, 1, b'd', 1, b'f', 0], &vote].concat(),
        vec![
            0, 1, 2, 1, 3, 1, 3, 4, 1, 2, 5, 1, 6, 200, 7, 1, 10, 0, 0, 0, 0, 0, 0, 0, 8, 0, 8, 1,
            1,
        ],
        vec![
            9, 0, 0, 10, 0, 11, 0, 1, 12, 1, 12, 1, 12, 1, 10, 0, 10, 0, 13, 0, 0,
        ],
        vec![9, 1, 1, 1, 2, 9, 0, 0, 9, 0, 0, 9, 0, 0, 9, 0, 0],
        vec![29, 0, 0, 0, 0, 0, 0xcd, 0xcd, 0x41, 1, 253, 32],
        vec![
            30, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 31, 0, 100, 1, 4,
            b'u', b's', b'e', b'r',
        ],
        vec![
            32, 33, 3, b'm', b'e', b'!', 34, 35, 0, 1, b'a', 35, 1, 0, 35, 2, 1, b'b', 35, 3, 1,
            b'a',
        ],
    ];
    for script in &scripts {
        for manner in [0x80, 0x01, 0x94] {
            seeds.add("session", [&[manner], &script[..]].concat());
        }
    }
    for manner in [0x04, 0x08, 0x20, 0x40, 0x50, 0xff] {
        seeds.add("session", [&[manner], &scripts.concat()[..]].concat());
    }
}

fn servers(seeds: &mut Seeds) {
    // Register, `get_info` and `lastTransaction` come before what is asked.
    let honest = [20, 20, 20];
    for deed in 1..=22 {
        seeds.add(
            "zeo",
            [&[0, deed, deed + 22, 0], &honest[..], &[20, 20]].concat(),
        );
        // Each of the odd answers with some of the deeds.
        let odd = [5 + deed % 8, 2, 1, 3, 4, 5, 6, 7];
        seeds.add("zeo", [&[deed & 1, deed, 0], &honest[..], &odd].concat());
    }
    let all: Vec<u8> = (1..=22).collect();
    seeds.add("zeo", [&all[..], &[0]].concat());
    for (name, message) in recorded(REPLIES) {
        let dialect = u8::from(name.starts_with("M-"));
        let deed = match &name[2..] {
            name if name.starts_with("loadBefore") => 2,
            "loadSerial" => 3,
            "getTid" => 4,
            "new_oids" => 5,
            "history" => 6,
            "record_iternext" => 7,
            name if name.starts_with("iterator") => 8,
            "getInvalidations" => 11,
            "undoLog" => 13,
            _ => 17,
        };
        let marker: &[u8] = if dialect == 0 {
            b".reply"
        } else {
            b"\xa6.reply"
        };
        let Some(at) = message
            .windows(marker.len())
            .position(|part| part == marker)
        else {
            continue;
        };
        let value = &message[at + marker.len()..];
        let value = value.strip_suffix(b"t.").unwrap_or(value);
        let kind = if name.contains("Error") { 2 } else { 1 };
        let length = (value.len() as u16).to_le_bytes();
        let answer = [&[kind], &length[..], value].concat();
        seeds.add("zeo", [&[dialect, deed, 0], &honest[..], &answer].concat());
    }
}

fn files(seeds: &mut Seeds) {
    let good = data_fs::good();
    let mut unfinished = good.to_vec();
    let last = good.len() - transaction_len(good);
    unfinished[last + 16] = b'c';
    for target in ["data_fs", "pack"] {
        seeds.add(target, good);
        seeds.add(target, &unfinished);
        seeds.add(target, &good[..good.len() - 5]);
        seeds.add(target, &good[..4]);
        seeds.add(target, b"FS21");
        for file in super::data_fs::samples() {
            seeds.add(target, file);
        }
    }
    let folder = folder();
    let path = folder.path().join("Data.fs");
    std::fs::write(&path, good).unwrap();
    super::runtime(false).block_on(async {
        use crate::storage::Storage;
        let storage = crate::storage::file::FileStorage::open(&path, FileOptions::default());
        storage.await.unwrap().close().await;
    });
    seeds.add(
        "index",
        std::fs::read(folder.path().join("Data.fs.index")).unwrap(),
    );
    let python2 = b"\x80\x02M\x2c\x01.\
        \x80\x02U\x06\0\0\0\0\0\0q\x01U\x10\0\x01\0\x02\0\0\0\0\0\x04\0\0\0\0\0\x68q\x02\x86q\x03.\
        (U\x06\0\0\0\0\0\x01U\x08\0\x01\0\0\0\0\0\xcct.N.";
    seeds.add("index", python2);
}

/// Of the last transaction.
fn transaction_len(file: &[u8]) -> usize {
    let length = file.last_chunk().expect("it ends with a length");
    u64::from_be_bytes(*length) as usize + 8
}

fn texts(seeds: &mut Seeds) {
    let library = Library::built_in();
    let instance = Path::new("/srv/zeo");
    let surroundings = Surroundings {
        instance,
        program: Path::new("/usr/bin/zeoraidctl"),
    };
    for name in library.recipes() {
        let text = library.recipe(&name).unwrap().text;
        let recipe = Recipe::load(&library, &name).unwrap();
        if recipe.addition {
            let whole = format!("extends: {name}\n\0\0");
            seeds.add(
                "recipe",
                whole.replace("extends", "description: x\nextends"),
            );
            continue;
        }
        let resolved = resolve(&recipe, &Answers::default(), instance, &mut |_| Ok(None));
        let Ok(made) = resolved.and_then(|it| render(&library, &recipe, &it, surroundings)) else {
            continue;
        };
        seeds.add("recipe", format!("{text}\0\0"));
        for file in &made.files {
            let target = match file.target.rsplit('.').next() {
                _ if file.content.len() > 8000 => continue,
                Some("yaml") => "config",
                Some("conf" | "cfg") => "zconfig",
                _ => continue,
            };
            seeds.add(target, &file.content);
        }
    }
    let own = "options:\n  - {name: servers, prompt: S, kind: count, default: 2}\n  \
        - {name: places, prompt: P, kind: paths, default: 'a, b'}\n  \
        - {name: at, prompt: A, kind: address, default: '127.0.0.1:{{add 8000 servers}}'}\n\
        folders:\n  'var/{{index}}': {mode: '0750', each: servers}\n\
        parts:\n  server:\n    template: t\n    target: etc/{{index}}\n    each: servers\n    \
        values: {place: '{{nth places index}}', next: '{{server.place}}+'}\n  \
        control: {template: t, target: 'bin/{{index}}', each: server, when: places}\n";
    let template = "{{yaml place}} {{#each server.each}}{{this.index}}{{shell this.place}} {{/each}}\
        {{#if (eq servers 2)}}{{port at}}{{else}}{{absolute 'x'}}{{/if}}{{join places '+'}}{{{socket 'unix:a'}}}";
    seeds.add(
        "recipe",
        format!("{own}\0{template}\0servers=3\nplaces=a,b,c"),
    );
    for file in ["buildout.cfg", "servers.cfg"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/zconfig");
        seeds.add("zconfig", std::fs::read(path.join(file)).unwrap());
    }
    seeds.add("zconfig", "%define a b\n%import ZEO\n%include zeo.conf\n<zeo>\naddress $a:8100\n</zeo>\n\
        <raidstorage 1>\n  cluster-mode coop\n  <zeoclient a>\n    server 127.0.0.1:9991\n    storage 1\n  \
        </zeoclient>\n  <filestorage b>\n    path $(HOME)/Data.fs\n  </filestorage>\n</raidstorage>\n");
    for text in ["1 GiB", "10 s", "1.5 h", "64K", "2 weeks", "500 ms"] {
        seeds.add("config", text);
    }
    seeds.add(
        "config",
        "arrays: {main: {members: [{name: a, file: x}]}}\n\0info",
    );
}

fn requests(seeds: &mut Seeds) {
    let token = "authorization: Bearer 0123456789abcdef";
    for (method, path) in ROUTES {
        let path = path.replace("{array}", "main").replace("{member}", "b");
        let path = path.replace("{id}", "pack-main-1");
        let body = match *path.rsplit('/').next().as_ref().unwrap() {
            _ if matches!(*method, "GET" | "DELETE") => "",
            "recover" => r#"{"strategy": "missing", "bytes_per_second": 5, "paused": false}"#,
            "recovery" => r#"{"transactions_per_second": 7}"#,
            "pack" => r#"{"to": "2026-01-01T00:00:00Z"}"#,
            "backup" => r#"{"folder": "/backup/monday", "replace": true}"#,
            "scrub" => r#"{"bytes_per_second": 1000}"#,
            _ => "",
        };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{token}");
        seeds.add("admin", format!("{head}\r\n\r\n{body}"));
    }
    for request in [
        "POST /v1/reload?dry_run=true HTTP/1.1\r\nhost: a\r\norigin: http://a",
        "GET /v1/events HTTP/1.1\r\nhost: [::1]:8101\r\nlast-event-id: 7",
        "GET /v1/arrays/%ff HTTP/1.0",
        "HEAD / HTTP/1.1\r\nhost: x",
        "POST /v1/arrays/main/scrub HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0",
    ] {
        seeds.add("admin", format!("{request}\r\n\r\n"));
    }
}

#[test]
fn every_seed_keeps_the_promises() {
    let write_to = std::env::var_os("ZEORAID_SEEDS");
    for (name, seeds) in seeds().0 {
        let target = Target::named(name);
        for (number, seed) in seeds.iter().enumerate() {
            if let Some(folder) = &write_to {
                let folder = Path::new(folder).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
                continue;
            }
            let what = format!("seed {number} of {name}");
            super::replay::replay(target, seed, Path::new(&what));
        }
    }
}
