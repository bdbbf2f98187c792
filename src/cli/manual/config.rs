//! `zeoraid.yaml(5)`: the configuration.

use super::{Key, Page};

const TOP: &[Key] = &[
    Key {
        name: "listen",
        values: "address, or a list [127.0.0.1:8100]",
        what: "Where ZEO clients connect: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. An entry of the list can also \
               be a mapping; see below.",
    },
    Key {
        name: "encoding",
        values: "Z5, M5 [Z5]",
        what: "The protocol announced to clients: Z5 is pickle, which every client of ZEO 5 and 6 speaks; M5 is \
               msgpack.",
    },
    Key {
        name: "read_only",
        values: "true, false [false]",
        what: "Clients may not write.",
    },
    Key {
        name: "transaction_timeout",
        values: "duration [1m]",
        what: "A client that holds the commit lock longer loses its connection.",
    },
    Key {
        name: "pid_file",
        values: "path [var/zeoraid.pid]",
        what: "Where the daemon writes its process id. It is locked while it runs.",
    },
    Key {
        name: "effective_user",
        values: "name",
        what: "Whom the daemon becomes where root starts it. `var/` must be theirs; `bin/` and `etc/` need not.",
    },
    Key {
        name: "umask",
        values: "octal digits",
        what: "Of the files that the daemon makes, as \"027\". The default is the one of whoever starts it.",
    },
];

const LISTEN: &[Key] = &[
    Key {
        name: "address",
        values: "address",
        what: "A TCP address.",
    },
    Key {
        name: "unix",
        values: "path",
        what: "A Unix socket instead.",
    },
    Key {
        name: "mode",
        values: "octal digits",
        what: "The permissions of the Unix socket's file, as \"0660\": who may connect.",
    },
    Key {
        name: "tls.certificate",
        values: "path",
        what: "Clients must speak TLS; this is what the daemon shows them. `reload` reads the files again.",
    },
    Key {
        name: "tls.key",
        values: "path",
        what: "Its key, without a password, which not everybody may read.",
    },
    Key {
        name: "tls.authenticate",
        values: "path",
        what: "Certificates of the clients that may connect, or of their authority: a file or a folder.",
    },
];

const SECTIONS: &[Key] = &[
    Key {
        name: "limits.threads",
        values: "number",
        what: "Threads that serve. The default is one where all members are ZEO servers, and one for each \
               processor otherwise.",
    },
    Key {
        name: "limits.connections",
        values: "number [1000]",
        what: "Clients at the same time. Who comes then is told so when it registers.",
    },
    Key {
        name: "limits.connections_by_address",
        values: "number [500]",
        what: "Of those, from one address (of IPv6, one network of 64 bits; over a Unix socket, of one user).",
    },
    Key {
        name: "limits.handshake",
        values: "duration [30s]",
        what: "How long a client may take for TLS and for choosing an encoding.",
    },
    Key {
        name: "limits.register",
        values: "duration [10m]",
        what: "How long it may take to register after that. A client of ZEO that knows several addresses does \
               it at one after the other.",
    },
    Key {
        name: "limits.frame",
        values: "size [512MiB]",
        what: "One message of a client: an object, mostly. The vote of a transaction with a larger one says \
               so.",
    },
    Key {
        name: "limits.calls",
        values: "number [256]",
        what: "Calls of one client that are answered at the same time. Those beyond wait.",
    },
    Key {
        name: "limits.iterators",
        values: "number [1000]",
        what: "Iterators that one client may have open. A further one is an error.",
    },
    Key {
        name: "limits.unread",
        values: "size [16MiB]",
        what: "What may wait to be read by one client before none of its calls are taken. A single answer may \
               be larger.",
    },
    Key {
        name: "limits.unread_timeout",
        values: "duration [5m]",
        what: "A client that reads nothing for so long, while something waits for it, loses its connection.",
    },
    Key {
        name: "limits.memory",
        values: "size [1GiB]",
        what: "Messages of all clients in memory, from them and to them. Beyond it, those wait that have more \
               than a little there, and who of them has had it the longest loses its connection after some \
               seconds. At least as much as `limits.frame`.",
    },
    Key {
        name: "limits.transaction",
        values: "size [256GiB]",
        what: "What one transaction may store, records and blobs. The vote of a larger one says so.",
    },
    Key {
        name: "limits.transactions",
        values: "size [1TiB]",
        what: "The same of all transactions together that are not finished. Where they are more, the next that \
               stores something is refused, by its vote, if it has more than its share: this size divided by \
               `limits.connections`, and 256KiB at least. At least as much as `limits.transaction`.",
    },
    Key {
        name: "limits.undos",
        values: "number [1000]",
        what: "Transactions that one transaction may undo. The vote of one that undoes more says so. Before it is \
               voted each is looked for, which takes the longer the older they are.",
    },
    Key {
        name: "limits.keep_free",
        values: "size [256MiB]",
        what: "What is always left free on the disk of `spool.folder`: a large transaction that would take of \
               it is refused, by its vote. 0B for nothing.",
    },
    Key {
        name: "limits.admin_connections",
        values: "number [64]",
        what: "Connections of the admin protocol, at its socket and at its address each; of those at the address \
               one host has three quarters at most.",
    },
    Key {
        name: "admin.socket",
        values: "path [var/zeoraid.sock]",
        what: "Where `zeoraidctl` talks to the daemon.",
    },
    Key {
        name: "admin.address",
        values: "HOST:PORT",
        what: "Over TCP as well, for Prometheus, load balancers and other machines.",
    },
    Key {
        name: "admin.token_file",
        values: "path",
        what: "A file with the token that whoever asks over TCP must know. Needed beyond loopback.",
    },
    Key {
        name: "admin.tls.certificate",
        values: "path",
        what: "Over TCP the admin protocol is HTTPS; this is what the daemon shows. `reload` reads it again.",
    },
    Key {
        name: "admin.tls.key",
        values: "path",
        what: "Its key, without a password, which not everybody may read.",
    },
    Key {
        name: "log.file",
        values: "path [var/log/zeoraid.log]",
        what: "The log. `reopen` or SIGUSR2 opens it again after rotation.",
    },
    Key {
        name: "log.target",
        values: "auto, file, stderr, journal [auto]",
        what: "Where to: by itself to the file in the background, and in the foreground to standard error, or to the \
               journal where that is it.",
    },
    Key {
        name: "log.level",
        values: "error, warn, info, debug, trace [info]",
        what: "What is logged.",
    },
    Key {
        name: "log.format",
        values: "text, json [text]",
        what: "How.",
    },
    Key {
        name: "spool.folder",
        values: "path [var/tmp]",
        what: "Where transactions wait for their vote.",
    },
    Key {
        name: "spool.memory",
        values: "size [16MiB]",
        what: "Of a transaction, before the rest of it goes into a file.",
    },
];

const ARRAY: &[Key] = &[
    Key {
        name: "aliases",
        values: "names",
        what: "Other names by which clients may ask for this storage. The only array answers to `1`, too.",
    },
    Key {
        name: "start_policy",
        values: "in-sync, majority, newest [in-sync]",
        what: "What is enough to start: any member of the last in-sync set, so that nothing acknowledged can be \
               missing; more than half; or the newest of what is there, which can bring back stale data.",
    },
    Key {
        name: "min_optimal",
        values: "number [1]",
        what: "Serve only while so many members hold every commit.",
    },
    Key {
        name: "fail_mode",
        values: "close, read-only [close]",
        what: "What becomes of clients below that. In coop mode they are disconnected in any case while no more \
               than half of the members hold every commit.",
    },
    Key {
        name: "cluster_mode",
        values: "single, coop [single]",
        what: "Who writes to the members: this daemon alone, or other daemons with the same members as well. For \
               the latter all members are ZEO servers, three or more.",
    },
    Key {
        name: "member_timeout",
        values: "duration [30s]",
        what: "A member that does not answer for so long is taken out. Clients do not notice.",
    },
    Key {
        name: "open_timeout",
        values: "duration [30s]",
        what: "The same while it is opened.",
    },
    Key {
        name: "lock_timeout",
        values: "duration",
        what: "How long a vote waits for the commit lock of a ZEO server that someone else holds. The default is \
               `member_timeout`, and `transaction_timeout` more with `cluster_mode: coop`.",
    },
    Key {
        name: "auto_recover",
        values: "true, false [true]",
        what: "Recover a member by itself when it comes back after a lack of contact.",
    },
    Key {
        name: "recovery_rate.transactions",
        values: "number, none [none]",
        what: "How fast a recovery may go, in a second.",
    },
    Key {
        name: "recovery_rate.bytes",
        values: "size, none [none]",
        what: "The same in bytes.",
    },
    Key {
        name: "catch_up_limit",
        values: "duration [2s]",
        what: "How long the end of a recovery may hold up commits.",
    },
    Key {
        name: "cache",
        values: "size [64MiB]",
        what: "Records in memory; 0B for none.",
    },
    Key {
        name: "read_only",
        values: "true, false [false]",
        what: "ZEO clients may neither write nor pack; members are recovered all the same.",
    },
    Key {
        name: "invalidation_queue",
        values: "number [1000]",
        what: "How many transactions back a client that returns can verify its cache.",
    },
    Key {
        name: "invalidation_age",
        values: "duration",
        what: "Beyond that, clients whose last transaction is younger than this can, too.",
    },
    Key {
        name: "shared_blob_dir",
        values: "path",
        what: "A folder of blobs that clients share with the daemon. Without it blobs go over the protocol.",
    },
    Key {
        name: "blobs_shared_with",
        values: "clients, everything [clients]",
        what: "Whether the members' servers share that folder, too: then a blob is there once, and the array does \
               not protect it.",
    },
    Key {
        name: "pack_gc",
        values: "true, false [true]",
        what: "Packing a file removes also what cannot be reached from the root object.",
    },
    Key {
        name: "pack_keep_old",
        values: "true, false [true]",
        what: "Packing keeps the file as it was, as `Data.fs.old`.",
    },
    Key {
        name: "zeo_admin",
        values: "true, false [false]",
        what: "Whether ZEO clients may recover, disable and reload.",
    },
    Key {
        name: "record",
        values: "path [var/ARRAY.membership.json]",
        what: "The membership record: which members hold every acknowledged transaction.",
    },
];

const MEMBER: &[Key] = &[
    Key {
        name: "file",
        values: "path",
        what: "A `Data.fs` that this daemon keeps. `NAME: PATH` alone says the same.",
    },
    Key {
        name: "blob_dir",
        values: "path",
        what: "Where the blobs of that file are.",
    },
    Key {
        name: "adopted",
        values: "true, false [false]",
        what: "That file was there before the array (`init --set adopt=FILE` writes this, and `import`): a first \
               start waits for it, and never makes a new, empty one in its place.",
    },
    Key {
        name: "zeo",
        values: "address",
        what: "A storage of a ZEO server instead. Nobody else may write to it, and it has no \
               `transaction-timeout`; beside files it needs `client-conflict-resolution true`.",
    },
    Key {
        name: "storage",
        values: "name [1]",
        what: "By which name that server knows it.",
    },
    Key {
        name: "connections",
        values: "number [2]",
        what: "How many connections to read by.",
    },
    Key {
        name: "tls.authenticate",
        values: "path",
        what: "Over TLS: certificates to judge the server's by. `tls: {}` trusts what the system trusts.",
    },
    Key {
        name: "tls.certificate",
        values: "path",
        what: "What this daemon shows.",
    },
    Key {
        name: "tls.key",
        values: "path",
        what: "Its key.",
    },
    Key {
        name: "tls.server_name",
        values: "name",
        what: "Instead of the address's host name.",
    },
    Key {
        name: "tls.check_hostname",
        values: "true, false [true]",
        what: "Whether the certificate must be for that name.",
    },
];

/// The page.
pub(in crate::cli) fn page() -> Vec<u8> {
    let mut page = Page::new("zeoraid.yaml", "the configuration of a zeoraidctl instance");
    page.section("DESCRIPTION");
    page.text(
        "`etc/zeoraid.yaml` in the instance's folder, written by `zeoraidctl init`, says where the daemon listens and \
         of what its arrays are made. It is YAML. `zeoraidctl check-config` finds every mistake at once; `zeoraidctl \
         show` says which values are in force and where each comes from; `zeoraidctl reload` makes changed members \
         effective, and the rest needs a restart.",
    );
    page.text(
        "A duration has a unit: ms, s, m, h or d. A size has one, too: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB. \
         Relative paths are taken from the instance's folder. Defaults are in brackets.",
    );
    page.section("AT THE TOP");
    page.keys(TOP);
    page.section("LISTEN, IN DETAIL");
    page.text("The keys of an entry of `listen` that is a mapping:");
    page.keys(LISTEN);
    page.section("SECTIONS");
    page.keys(SECTIONS);
    page.section("ARRAYS");
    page.text("Below `arrays`, by name; clients ask for a storage by that name.");
    page.keys(ARRAY);
    page.section("MEMBERS");
    page.text(
        "Below `members` of an array, by name. Each is a complete copy of the database: a file, or a storage of a ZEO \
         server; the two can be mixed.",
    );
    page.keys(MEMBER);
    page.section("ENVIRONMENT");
    page.text(
        "`ZEORAID_LISTEN`, `ZEORAID_ADMIN_ADDRESS`, `ZEORAID_ADMIN_TOKEN_FILE`, `ZEORAID_LOG_LEVEL`, \
         `ZEORAID_LOG_TARGET` and `ZEORAID_LOG_FORMAT` take the place of what the file says.",
    );
    page.section("EXAMPLE");
    page.example(EXAMPLE);
    page.finish(&["`zeoraidctl`(1)", "`zeoraid-recipe`(5)"])
}

const EXAMPLE: &str = "\
listen: 127.0.0.1:8100
arrays:
  main:
    members:
      copy1: {file: /disk1/main/Data.fs, blob_dir: /disk1/main/blobs}
      copy2: {file: /disk2/main/Data.fs, blob_dir: /disk2/main/blobs}
      zeo3: {zeo: 'db3.example.org:8100', storage: main}
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::config::{Origin, parse};

    fn documented() -> BTreeMap<String, &'static str> {
        let below = |prefix: &'static str, keys: &'static [Key]| {
            keys.iter()
                .map(move |key| (format!("{prefix}{}", key.name), key.values))
        };
        below("", TOP)
            .chain(below("", SECTIONS))
            .chain(below("arrays.A.", ARRAY))
            .chain(below("arrays.A.members.M.", MEMBER))
            .collect()
    }

    /// Every value that is asked for, by its key without the names that people choose, with the default
    /// where it is one.
    fn asked() -> BTreeMap<String, Option<String>> {
        let folder = tempfile::tempdir().unwrap();
        let pem = folder.path().join("a.pem");
        std::fs::write(&pem, "").unwrap();
        let tls = format!(
            "{{authenticate: {0}, certificate: {0}, key: {0}}}",
            pem.display()
        );
        let text = format!(
            "admin: {{address: '127.0.0.1:1', tls: {{certificate: {0}, key: {0}}}}}\n\
             arrays:\n  A:\n    members:\n      f: {{file: x/Data.fs, adopted: false}}\n      \
             z: {{zeo: 'h:1', tls: {tls}}}\n",
            pem.display()
        );
        let instance = Path::new("/i");
        let config = parse(&text, &instance.join("c.yaml"), instance, &|_| None);
        let config = config.unwrap_or_else(|error| panic!("{:?}", error.mistakes()));
        let settings = config.explain().iter().map(|setting| {
            let key = setting.key.replace(".members.f.", ".members.M.");
            let key = key.replace(".members.z.", ".members.M.");
            let default = (setting.origin == Origin::Default).then(|| setting.value.clone());
            (key, default)
        });
        settings.collect()
    }

    #[test]
    fn every_key_is_described_and_none_besides() {
        let (documented, asked) = (documented(), asked());
        let names = |keys: Vec<&String>| keys.iter().map(|key| (*key).clone()).collect::<Vec<_>>();
        assert_eq!(
            names(asked.keys().collect()),
            names(documented.keys().collect())
        );
        let differs = |key: &str| {
            [
                "limits.threads",
                "arrays.A.lock_timeout",
                "arrays.A.aliases",
            ]
            .contains(&key)
        };
        for (key, default) in asked {
            let values = documented[&key];
            let said = values
                .split_once('[')
                .map(|(_, default)| default.trim_end_matches(']'));
            if let Some(default) = default
                && !differs(&key)
            {
                let default = default.replace("var/A.", "var/ARRAY.");
                let default = (default != "-").then_some(default);
                assert_eq!(said, default.as_deref(), "{key}");
            }
        }
    }

    #[test]
    fn the_example_and_the_keys_of_an_address_are_right() {
        let instance = Path::new("/i");
        let check = |text: &str| parse(text, &instance.join("c.yaml"), instance, &|_| None);
        check(EXAMPLE).unwrap();
        // All of them are known; that the files are missing is another matter.
        let folder = tempfile::tempdir().unwrap();
        let pem = folder.path().join("a.pem");
        std::fs::write(&pem, "").unwrap();
        for key in LISTEN {
            let entry = match key.name {
                "address" => "address: '127.0.0.1:1'".to_owned(),
                "unix" => "unix: var/x".to_owned(),
                "mode" => "unix: var/x, mode: \"0660\"".to_owned(),
                tls => {
                    let (_, tls) = tls.split_once('.').unwrap();
                    format!("address: '127.0.0.1:1', tls: {{{tls}: {}}}", pem.display())
                }
            };
            let text = EXAMPLE.replace("127.0.0.1:8100", &format!("[{{{entry}}}]"));
            let said = check(&text)
                .err()
                .map_or(String::new(), |error| format!("{:?}", error.mistakes()));
            assert!(!said.contains("knows no"), "{}: {said}", key.name);
        }
    }
}
