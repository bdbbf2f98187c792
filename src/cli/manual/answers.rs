//! `zeoraid-json(5)`: the documents that `-o json` and `-o yaml` print.

use super::{Key, Page};

/// A document, or a part of one.
pub(in crate::cli) struct Document {
    pub(in crate::cli) name: &'static str,
    /// Where it is found.
    pub(in crate::cli) of: &'static str,
    pub(in crate::cli) keys: &'static [Key],
}

const fn key(name: &'static str, values: &'static str, what: &'static str) -> Key {
    Key { name, values, what }
}

const STATES: &str = "optimal, recovering, degraded, failed, unknown";

/// What the tests compare with what is printed.
pub(in crate::cli) const DOCUMENTS: &[Document] = &[
    Document {
        name: "STATUS",
        of: "`status`",
        keys: &[
            key(
                "state",
                STATES,
                "Of the worst array; `unknown` where nobody answers.",
            ),
            key("line", "text", "What `status` says without `-o`."),
            key(
                "version",
                "text",
                "Of the daemon. This and the next four are missing where nobody answers.",
            ),
            key("pid", "number", "Of the daemon."),
            key("started", "time", "When the daemon was started."),
            key("uptime_s", "seconds", "How long ago that is."),
            key(
                "ready",
                "true, false",
                "Whether every array serves clients.",
            ),
            key(
                "arrays",
                "list",
                "Each with `name`, `state`, `line` and `serving`, and `attention` (text) while an operator has something to look \
                 after that no state says, as what a scrub has found; empty where nobody answers.",
            ),
        ],
    },
    Document {
        name: "UNKNOWN",
        of: "`status` and `details` where nobody answers",
        keys: &[
            key("state", "unknown", ""),
            key("line", "text", "Why nobody answers."),
            key("next", "text or null", "What can be done."),
            key("arrays", "empty list", ""),
        ],
    },
    Document {
        name: "DETAILS",
        of: "`details`; with `--watch` one in a line, whenever something has changed",
        keys: &[
            key("state", STATES, "Of the worst array."),
            key("arrays", "list", "An ARRAY each."),
        ],
    },
    Document {
        name: "ARRAY",
        of: "in DETAILS and RECOVERED",
        keys: &[
            key("name", "text", ""),
            key("uuid", "text", ""),
            key("state", STATES, ""),
            key("line", "text", "The state, and why."),
            key(
                "serving",
                "true, false",
                "Whether clients can read. Where they can although the state is `failed`, every commit is refused.",
            ),
            key("addresses", "list", "Where clients connect."),
            key(
                "epoch",
                "number",
                "Rises by one at every change of the in-sync set.",
            ),
            key("since", "time", "Since when it is in this state."),
            key("head", "TRANSACTION or null", "The last acknowledged one."),
            key("objects", "number", ""),
            key("bytes", "bytes", ""),
            key("clients", "number", "Connected now."),
            key("loads", "number", "Since the daemon was started."),
            key("commits", "number", "Since the daemon was started."),
            key("loads_per_s", "number", "Lately."),
            key("commits_per_s", "number", "Lately."),
            key(
                "commit_lock",
                "mapping",
                "`held`, `held_ms` (null where it is free), `waiting`.",
            ),
            key("members", "list", "A MEMBER each, as they are configured."),
            key("recovery", "RECOVERY or null", "The one that runs."),
            key("next", "text or null", "A command that helps."),
            key(
                "attention",
                "text",
                "What an operator has to look after that the state does not say: what a scrub has found and nobody has mended, or that \
                 the last optimal member writes to a file that is gone. Missing where there is nothing.",
            ),
            key(
                "last_scrub",
                "mapping",
                "`ended`, `head` (TRANSACTION), `transactions`, `blobs`, `differences`; names of members: \
                 `members` (compared to the end), `left_out` (not), `suspects` (contradicted by most, or \
                 unreadable), `undecided` (as many say one thing as another), `mended` since; `advice`, a list. \
                 Missing where there was none.",
            ),
        ],
    },
    Document {
        name: "MEMBER",
        of: "in ARRAY; `disable` prints one",
        keys: &[
            key("name", "text", ""),
            key("state", "optimal, recovering, degraded", ""),
            key("kind", "file, zeo, memory", ""),
            key("where", "text", "A path, or an address."),
            key("since", "time", "Since when it is in this state."),
            key(
                "reason",
                "text or null",
                "Why it is not optimal, or cannot be reached.",
            ),
            key(
                "outlook",
                "text or null",
                "What happens next without anybody.",
            ),
            key(
                "lag",
                "mapping or null",
                "What it lacks: `transactions`, `bytes`.",
            ),
            key(
                "last",
                "TRANSACTION or null",
                "Its last one, where it is open.",
            ),
            key(
                "latency_ms",
                "milliseconds or null",
                "The mean over the last seconds.",
            ),
            key("reads", "number", "Since the daemon was started."),
            key("faults", "number", "Since the daemon was started."),
        ],
    },
    Document {
        name: "RECOVERY",
        of: "in ARRAY; `recover --pause`, `--resume` and `--cancel` print one, `recover --detach` a list",
        keys: &[
            key("id", "number", "Rises by one with each."),
            key("member", "text", ""),
            key("source", "text or null", "The member that it copies from."),
            key("strategy", "missing, verify, rebuild", ""),
            key("state", "running, done, failed, cancelled", ""),
            key("phase", "queued, analyse, copy, catch-up, verify", ""),
            key("note", "text or null", "What is done or waited for."),
            key(
                "transaction",
                "text or null",
                "The one that it has come to.",
            ),
            key("done", "mapping", "`transactions`, `bytes`."),
            key("total", "mapping", "As `done`; 0 where it is not known."),
            key("transactions_per_s", "number", ""),
            key("bytes_per_s", "number", ""),
            key("time_left_s", "seconds or null", ""),
            key(
                "rate",
                "mapping",
                "The limit: `transactions_per_second`, `bytes_per_second`, `paused`.",
            ),
            key("started", "time", ""),
            key("ended", "time or null", ""),
            key("set_aside", "list", "Files with what was cut."),
            key("queued", "list", "Members that wait for this one."),
            key(
                "problem",
                "mapping or null",
                "Why it failed: `detail`, `next` and what RFC 9457 has.",
            ),
        ],
    },
    Document {
        name: "RECOVERED",
        of: "`recover`, when all have ended",
        keys: &[
            key("recovered", "list", "Names of members."),
            key(
                "not_recovered",
                "list",
                "Each with `member`, `state` (cancelled, failed), `reason` and `next`.",
            ),
            key("set_aside", "list", "Files with what was cut."),
            key("array", "ARRAY", "As it is now."),
        ],
    },
    Document {
        name: "JOB",
        of: "`pack`, `scrub` and `backup`, at the end; with `--detach` and `--cancel` as it is then",
        keys: &[
            key("id", "text", "Like pack-main-1."),
            key("kind", "pack, backup, scrub, recovery", ""),
            key("array", "text", ""),
            key("state", "running, done, failed, cancelled", ""),
            key("phase", "text", ""),
            key("note", "text or null", ""),
            key("done", "mapping", "`transactions`, `bytes`."),
            key("total", "mapping", "As `done`; 0 where it is not known."),
            key("transactions_per_s", "number", ""),
            key("bytes_per_s", "number", ""),
            key("time_left_s", "seconds or null", ""),
            key(
                "members",
                "list",
                "Each with `name`, `state` (waiting, running, done, skipped, failed) and `reason`.",
            ),
            key("started", "time", ""),
            key("ended", "time or null", ""),
            key("problem", "mapping or null", "Why it failed."),
        ],
    },
    Document {
        name: "EVENT",
        of: "`events`; one in a line",
        keys: &[
            key("id", "number", "Rises by one."),
            key("time", "time", ""),
            key("level", "info, warning, error", ""),
            key(
                "kind",
                "word",
                "Like member-degraded; it stays the same from version to version.",
            ),
            key("array", "text or null", ""),
            key("member", "text or null", ""),
            key("message", "text", ""),
        ],
    },
    Document {
        name: "SETTINGS",
        of: "`show`",
        keys: &[
            key("file", "path", ""),
            key("settings", "list", "Each with `key`, `value` and `origin`."),
        ],
    },
    Document {
        name: "RELOADED",
        of: "`reload`",
        keys: &[
            key("dry_run", "true, false", ""),
            key("added", "list", "ARRAY/MEMBER."),
            key("removed", "list", "ARRAY/MEMBER."),
            key("changed", "list", "Settings that hold now."),
            key(
                "needs_restart",
                "list",
                "Settings that hold after a restart.",
            ),
            key("warnings", "list", ""),
        ],
    },
    Document {
        name: "CHECKED",
        of: "`check-config`",
        keys: &[
            key("file", "path", ""),
            key("ok", "true, false", "Whether there is no mistake."),
            key(
                "mistakes",
                "list",
                "Each with `file`, `line`, `column`, `what` and `mend`.",
            ),
            key(
                "warnings",
                "list",
                "As `mistakes`; found only where there are none.",
            ),
            key(
                "notes",
                "list",
                "Sentences: what is right, and good to know.",
            ),
        ],
    },
    Document {
        name: "FILE",
        of: "`inspect`; with `--transactions` a list of transactions instead",
        keys: &[
            key("file", "path", ""),
            key("bytes", "bytes", ""),
            key("made_by", "text", ""),
            key("transactions", "number", ""),
            key("packed_transactions", "number", ""),
            key("records", "number", ""),
            key("objects", "number", ""),
            key("first", "TRANSACTION or null", ""),
            key("last", "TRANSACTION or null", ""),
            key(
                "end",
                "mapping",
                "Where what is whole ends (`position`), how much is behind it (`bytes`), and why (`reason`).",
            ),
            key(
                "index",
                "mapping",
                "`state` (missing, valid, unusable), `behind_bytes`, `reason`.",
            ),
            key("blobs", "path or null", ""),
        ],
    },
];

pub(in crate::cli) fn page() -> Vec<u8> {
    let mut page = Page::new("zeoraid-json", "what zeoraidctl prints for programs");
    page.section("DESCRIPTION");
    page.text(
        "With `-o json` a command prints its answer as one JSON document on standard output, with `-o yaml` as the \
         same document in YAML. The exit code is the same as without. What is said about the work (notes, warnings, \
         errors, progress) goes to standard error, as text: where a command fails before it has an answer, standard \
         output is empty. Commands that only act (`start`, `stop`, `restart`, `wait`, `kill`, `reopen`) print nothing.",
    );
    page.text(
        "Keys stay; new ones may be added. Times are RFC 3339 in UTC. A TRANSACTION has `tid` (0x and sixteen digits) \
         and `time`. Where there is nothing to say a key is null; a list is empty.",
    );
    for document in DOCUMENTS {
        page.section(document.name);
        page.text(&format!("Of {}.", document.of));
        page.keys(document.keys);
    }
    page.section("EXAMPLES");
    page.example(
        "zeoraidctl status -o json | jq -r .state\n\
         zeoraidctl details -o json | jq -r '.arrays[].members[] | select(.state != \"optimal\") | .name'\n\
         zeoraidctl scrub -o json | jq .scrub.differences",
    );
    page.finish(&["zeoraidctl(1)", "zeoraid.yaml(5)"])
}
