//! The house rules that a machine can check.
//!
//! Each test states one rule. It first shows the rule an offence in memory, which must be found, and sometimes an
//! innocent look-alike, which must not; then it reads the project. A finding says file, line and what is wrong.

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/tree.rs"]
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tree::{File, Tree, has_word, is_function_pointer, is_rule_id};

const MAX_COLUMNS: usize = 120;
/// Of code: comments and blank lines are free, or they would be the first to go.
const MAX_LINES: usize = 700;
/// A test file is a list of facts about one subject; a list is as long as it is.
const MAX_LINES_OF_FACTS: usize = 1000;

/// What each module of the library may name of the crate besides itself, in the order of the layers: a row names only
/// rows above it. `limits` is constants and open to all. A new module fails until it has a row here: its place in the
/// order is a decision.
const MAY_USE: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("metrics", &[]),
    ("sys", &[]),
    ("pair", &["sys"]),
    ("slab", &[]),
    ("deadline", &[]),
    ("timeouts", &[]),
    ("client", &["slab"]),
    ("access", &["client"]),
    ("buffer", &["client"]),
    ("gate", &["client", "access"]),
    ("service", &["buffer", "client", "deadline", "timeouts", "gate"]),
    ("listener", &["sys", "client"]),
    ("completion", &["sys", "slab", "deadline", "client", "listener"]),
    ("connection", &["sys", "buffer", "timeouts"]),
    ("wire", &["buffer", "connection"]),
    ("trace", &["sys", "client", "service"]),
    ("parcel", &["sys", "buffer", "client", "connection", "timeouts"]),
    ("exchange", &["metrics", "sys", "buffer", "client", "service", "connection", "trace", "timeouts"]),
    ("level", &["sys", "connection", "exchange"]),
    ("edge", &["sys", "connection", "exchange"]),
    ("driver", BELOW_THE_DRIVER),
    ("mailbox", &["metrics", "sys", "slab", "client", "timeouts", "listener", "parcel"]),
    ("worker", BELOW_THE_WORKER),
    ("server", BELOW_THE_SERVER),
    ("harness", BELOW_THE_HARNESS),
];
/// A connection on a wire is drained as under edge, one with a socket served as under level.
const BELOW_THE_DRIVER: &[&str] = &[
    "sys",
    "slab",
    "buffer",
    "client",
    "service",
    "listener",
    "connection",
    "wire",
    "exchange",
    "level",
    "edge",
    "trace",
];
/// Not `level` and not `edge`: the loop is the same for both, and is compiled for each.
const BELOW_THE_WORKER: &[&str] = &[
    "metrics",
    "sys",
    "slab",
    "buffer",
    "deadline",
    "timeouts",
    "gate",
    "client",
    "access",
    "service",
    "listener",
    "connection",
    "trace",
    "exchange",
    "mailbox",
    "parcel",
];
/// Not `connection` and not `slab`: what happens on one connection is its worker's affair.
const BELOW_THE_SERVER: &[&str] = &[
    "metrics", "sys", "client", "access", "service", "listener", "trace", "exchange", "level", "edge", "mailbox",
    "worker", "timeouts", "gate", "parcel",
];

/// All that a connection goes through, and no loop. Of `server` it names the trigger.
const BELOW_THE_HARNESS: &[&str] = &[
    "sys",
    "slab",
    "buffer",
    "client",
    "service",
    "connection",
    "wire",
    "trace",
    "exchange",
    "level",
    "edge",
    "timeouts",
    "server",
];

/// No file descriptor, no clock, no kernel: what makes them testable by values alone, and under miri.
const PURE: &[&str] = &["limits", "slab", "buffer", "deadline", "access"];

// ---- the rules ----------------------------------------------------------------------------------------------------

#[test]
fn unsafe_is_said_only_under_src_sys() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.rust().filter(|file| !file.under(&["src/sys/", "tests/", "benches/"])) {
            file.each_line(&file.code, |line, text| {
                if has_word(text, "unsafe") {
                    found.add(file, line, "`unsafe` outside src/sys");
                }
            });
        }
    }
    check(
        rule,
        &[("src/slab.rs", "fn f() { unsafe { g() } }"), ("src/bin/eagain/main.rs", "unsafe fn f() {}")],
        &[
            ("src/slab.rs", "//! nothing unsafe\n#![deny(unsafe_code)]\nconst A: &str = \"unsafe\";"),
            ("src/sys/mod.rs", "unsafe { g() }"),
        ],
    );
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.rust() {
            file.each_line(&file.code, |line, text| {
                if has_word(text, "unsafe") && !is_function_pointer(text) && !file.has_safety_comment(line) {
                    found.add(file, line, "`unsafe` without a SAFETY comment (a `# Safety` section for an unsafe fn)");
                }
            });
        }
    }
    check(
        rule,
        &[
            ("src/sys/mod.rs", "fn f() {\n    // it is fine\n    unsafe { g() }\n}"),
            ("src/sys/mod.rs", "// SAFETY: of another\nlet a = 1;\nunsafe { g() }"),
            ("src/sys/mod.rs", "/// Docs.\npub unsafe fn f() {}"),
        ],
        &[
            ("src/sys/mod.rs", "// SAFETY: g has no\n// conditions\n#[rustfmt::skip]\nunsafe { g() }"),
            ("src/sys/mod.rs", "// SAFETY: yes\nlet a =\n    unsafe { g() };"),
            ("src/sys/mod.rs", "/// # Safety\n/// Never.\npub unsafe fn f() {}"),
        ],
    );
}

#[test]
fn layers_point_one_way() {
    fn rule(tree: &Tree, found: &mut Findings) {
        let rows: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
        for (at, (module, may_use)) in MAY_USE.iter().enumerate() {
            let above = |name: &&str| MAY_USE[..at].iter().any(|(module, _)| module == name);
            assert!(may_use.iter().all(above), "the row of `{module}` names a module that is not above it");
        }
        for file in tree.library().filter(|file| file.path != "src/lib.rs") {
            let module = file.module();
            let Some(may_use) = rows.get(module) else {
                found.add(file, 1, format!("module `{module}` has no row in MAY_USE of tests/tidy.rs"));
                continue;
            };
            for (line, name) in file.crate_names(|name| rows.contains_key(name)) {
                if name == module || name == "limits" || may_use.contains(&name.as_str()) {
                    continue;
                }
                let what = if rows.contains_key(name.as_str()) {
                    format!("`{module}` may not use `{name}`")
                } else {
                    format!("`crate::{name}`: name the module that it lives in, not a re-export")
                };
                found.add(file, line, what);
            }
        }
    }
    check(
        rule,
        &[
            ("src/slab.rs", "use crate::sys::Epoll;"),
            ("src/edge.rs", "use crate::{\n    slab::Slab,\n    level::ready,\n};"),
            ("src/connection.rs", "fn f(next: crate::service::Next) {}"),
            ("src/worker.rs", "use super::server::Server;"),
            ("src/service/echo.rs", "use super::super::connection::Connection;"),
            ("src/level.rs", "use crate::Server;"),
            ("src/brandnew.rs", ""),
        ],
        &[
            (
                "src/edge.rs",
                "use crate::{exchange::{level, Turn}, sys};\n#[cfg(test)]\nmod tests { use crate::server::X; }",
            ),
            ("src/service/echo.rs", "use super::Next;\nuse crate::buffer::Input;\n// crate::worker"),
        ],
    );
}

#[test]
fn each_layer_is_blind_to_what_it_must_not_know() {
    const BLIND: &[(&str, &[&str])] = &[
        ("connection", &["Epoll", "EpollEvent"]),
        ("service", &["AsFd", "AsRawFd", "RawFd", "OwnedFd", "BorrowedFd", "Token", "Epoll", "EAGAIN", "WouldBlock"]),
        ("service", &["libc", "nix", "socket2", "TcpStream", "UnixStream", "TcpListener", "UnixListener"]),
    ];
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.library() {
            let module = file.module();
            file.each_line(&file.shipped, |line, text| {
                for word in BLIND.iter().filter(|(blind, _)| *blind == module).flat_map(|(_, words)| *words) {
                    if has_word(text, word) {
                        found.add(file, line, format!("`{module}` must not know of `{word}`"));
                    }
                }
                let kernel = ["libc", "nix", "socket2"].iter().any(|word| has_word(text, word));
                if PURE.contains(&module) && (kernel || text.contains("::now()")) {
                    found.add(file, line, format!("`{module}` is pure: no system call, and time is passed in"));
                }
            });
        }
    }
    check(
        rule,
        &[
            ("src/connection.rs", "use crate::sys::Epoll;"),
            ("src/service/log.rs", "use std::os::fd::AsFd;"),
            ("src/service/mod.rs", "if error.kind() == ErrorKind::WouldBlock {}"),
            ("src/deadline.rs", "let now = Instant::now();"),
            ("src/buffer.rs", "let read = libc::read(fd);"),
        ],
        &[("src/connection.rs", "//! Knows no Epoll.\nuse crate::sys::Interest;"), ("src/edge.rs", "Instant::now()")],
    );
}

#[test]
fn the_library_knows_nothing_of_the_program() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.rust().filter(|file| file.path.starts_with("src/")) {
            let library = !file.path.starts_with("src/bin/");
            file.each_line(&file.shipped, |line, text| {
                if library && (has_word(text, "argh") || text.contains("crate::bin")) {
                    found.add(file, line, "the library uses the program or its option parser");
                }
                if text.contains("#[path") || has_word(text, "include") {
                    found.add(file, line, "source of another place; use the library as `eagain::…`");
                }
            });
        }
    }
    check(
        rule,
        &[
            ("src/server.rs", "use argh::FromArgs;"),
            ("src/bin/eagain/main.rs", "#[path = \"../../slab.rs\"] mod slab;"),
        ],
        &[("src/bin/eagain/main.rs", "use argh::FromArgs;")],
    );
}

#[test]
fn the_library_never_prints() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.library() {
            file.each_line(&file.shipped, |line, text| {
                for name in ["println", "eprintln", "print", "eprint", "dbg"] {
                    if has_word(text, name) && text.contains(&format!("{name}!")) {
                        found.add(file, line, format!("`{name}!` in the library"));
                    }
                }
            });
        }
    }
    check(
        rule,
        &[("src/worker.rs", "fn f() { dbg!(1); }"), ("src/sys/mod.rs", "eprintln!(\"no\");")],
        &[
            ("src/lib.rs", "//! println!(\"an example\");\n#[cfg(test)]\nmod tests {\n fn f() { println!() }\n}"),
            ("src/bin/eagain/main.rs", "fn main() { println!(); }"),
        ],
    );
}

#[test]
fn the_library_never_unwraps() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.library() {
            file.each_line(&file.shipped, |line, text| {
                if text.contains(".unwrap()") || text.contains(".unwrap_err()") {
                    found.add(file, line, "`unwrap` in the library: return the error, or `expect` with the reason");
                }
            });
        }
    }
    check(
        rule,
        &[("src/slab.rs", "let a = b.unwrap();")],
        &[("src/slab.rs", "let a = b.unwrap_or(0);\n#[cfg(test)]\nmod tests {\n fn f() { a.unwrap() }\n}")],
    );
}

#[test]
fn nothing_is_left_for_later() {
    fn rule(tree: &Tree, found: &mut Findings) {
        // In pieces, so that this file is no offence.
        let words = [["TO", "DO"], ["FIX", "ME"]].map(|pieces| pieces.concat());
        let macros = [["to", "do!"], ["unimple", "mented!"]].map(|pieces| pieces.concat());
        for file in &tree.files {
            file.each_line(&file.text, |line, text| {
                for word in words.iter().filter(|word| has_word(text, word)) {
                    found.add(file, line, format!("`{word}`: do it, or open an issue"));
                }
                for name in macros.iter().filter(|name| text.contains(name.as_str())) {
                    found.add(file, line, format!("`{name}`: write it, or leave it out"));
                }
            });
        }
    }
    let later = ["// TO", "DO: more"].concat();
    let stub = ["fn f() { unimple", "mented!() }"].concat();
    check(rule, &[("README.md", &later), ("src/edge.rs", &stub)], &[("src/edge.rs", "let MASTODON = 1;")]);
}

#[test]
fn no_merge_is_half_done() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in &tree.files {
            file.each_line(&file.text, |line, text| {
                if ["<<<<<<< ", ">>>>>>> "].iter().any(|mark| text.starts_with(mark)) {
                    found.add(file, line, "a mark of a conflict");
                }
            });
        }
    }
    let conflict = format!("| a |\n{} HEAD\n| b |", "<".repeat(7));
    check(rule, &[("docs/a.md", &conflict)], &[("docs/a.md", "a <<<<<<< b")]);
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    fn rule(tree: &Tree, found: &mut Findings) {
        let homes = ["work", "root", "home"].map(|name| format!("/{name}/"));
        for file in &tree.files {
            file.each_line(&file.text, |line, text| {
                for home in &homes {
                    // "https://example.org/home/" and "docs/work/" are no paths of a machine.
                    let starts_a_path =
                        |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~".contains(c));
                    if text.match_indices(home.as_str()).any(|(at, _)| starts_a_path(at)) {
                        found.add(file, line, format!("a path under {home}"));
                    }
                }
            });
        }
    }
    let path = format!("cp a /{}/b", "root");
    check(rule, &[("scripts/test", &path)], &[("README.md", "https://example.org/home/index.html")]);
}

#[test]
fn lines_and_files_are_short() {
    fn rule(tree: &Tree, found: &mut Findings) {
        // Data and manifests have lines that nobody can break.
        let written = |file: &&File| ![".json", ".toml", ".lock", ".svg"].iter().any(|end| file.path.ends_with(end));
        for file in tree.files.iter().filter(written) {
            let (rust, markdown) = (file.path.ends_with(".rs"), file.path.ends_with(".md"));
            let fenced: Vec<usize> = file.fenced_lines().into_iter().map(|(line, _)| line).collect();
            file.each_line(&file.text, |line, text| {
                // Nor can a row of a table, what a program printed, an address, or a message that is one literal.
                let row = markdown && (text.starts_with('|') || fenced.contains(&line) || text.contains("://"));
                let message = rust && text.trim_start().starts_with('"');
                if text.chars().count() > MAX_COLUMNS && !row && !message {
                    found.add(file, line, format!("more than {MAX_COLUMNS} columns"));
                }
            });
            let counted = if rust { &file.code } else { &file.text };
            let lines = counted.lines().filter(|line| !line.trim().is_empty()).count();
            let most = if file.under(&["tests/"]) { MAX_LINES_OF_FACTS } else { MAX_LINES };
            if lines > most && file.path != "CHANGELOG.md" {
                found.add(file, 1, format!("{lines} lines of code, more than {most}: it holds two ideas"));
            }
        }
    }
    let long = "x ".repeat(61);
    let many = "x\n".repeat(701);
    let row = format!("| {long} |");
    let commented = "// x\n\n".repeat(701);
    check(
        rule,
        &[("src/a.rs", &long), ("docs/a.md", &long), ("src/a.rs", &many)],
        &[("docs/a.md", &row), ("src/a.rs", &commented), ("tests/a.rs", &many)],
    );
}

#[test]
fn rule_markers_name_experiments_of_the_lab() {
    fn rule(tree: &Tree, found: &mut Findings) {
        let marker = ["RU", "LE("].concat();
        let experiments = experiments(&Tree::of_the_project());
        for file in tree.rust().filter(|file| file.path != "tests/tidy.rs") {
            file.each_line(&file.text, |line, text| {
                for (at, _) in text.match_indices(&marker) {
                    let id = text[at + marker.len()..].split_once(')').map(|(id, _)| id);
                    if !id.is_some_and(is_rule_id) {
                        found.add(file, line, "the name of a rule is lower-case-with-dashes: `// RULE(et-drain): why`");
                    } else if !id.is_some_and(|id| experiments.contains(id)) {
                        found.add(file, line, "the lab has no experiment of this name");
                    }
                }
            });
        }
    }
    check(
        rule,
        &[
            ("src/edge.rs", "// RULE(Et_Drain): read"),
            ("src/edge.rs", "// RULE(et-drain: read"),
            ("src/edge.rs", "// RULE(et-no-such-thing): read"),
        ],
        &[("src/edge.rs", "// RULE(et-reports-once): read until EAGAIN")],
    );
}

/// The other way round: what the lab calls a bug of servers, the server has a place that avoids it.
#[test]
fn the_server_avoids_each_bug_of_the_lab() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.files.iter().filter(|file| file.path == BUGS_OF_SERVERS) {
            let project = Tree::of_the_project();
            let source = |file: &&File| file.path.starts_with("src/") && !file.path.contains("/lab/");
            let text: String = project.rust().filter(source).map(|file| file.text.as_str()).collect();
            for (line, id) in ids_in(file) {
                let marker = format!("RU{}({id})", "LE");
                if !text.contains(&marker) && !NOT_FOR_THIS_SERVER.iter().any(|(name, _)| *name == id) {
                    found.add(file, line, format!("no place of the server says that it avoids `{id}`"));
                }
            }
        }
    }
    check(rule, &[(BUGS_OF_SERVERS, "    id: \"a-bug-that-nobody-knows\",")], &[]);
}

const BUGS_OF_SERVERS: &str = "src/bin/eagain/lab/rules/server_bugs.rs";
/// Bugs for which there is no place: what makes them impossible.
const NOT_FOR_THIS_SERVER: &[(&str, &str)] = &[
    ("out-only-interest-misses-fin", "what is due goes out first; --write-timeout ends a client that takes nothing"),
    ("slow-handler-delays-everyone", "a service is told not to block, and nothing else in the loop does"),
    ("hup-branch-after-in-never-runs", "there is no chain: see equality-test-misses-combined-bits"),
    ("close-inside-a-refcount", "a socket has one owner, its connection"),
];

/// The ids of the experiments in one file of the lab, with their lines.
fn ids_in(file: &File) -> Vec<(usize, String)> {
    let mut ids = Vec::new();
    file.each_line(&file.text, |line, text| {
        let id = text.trim().strip_prefix("id: \"").and_then(|rest| rest.strip_suffix("\","));
        ids.extend(id.map(|id| (line, id.to_owned())));
    });
    ids
}

fn experiments(tree: &Tree) -> BTreeSet<String> {
    let rules = tree.files.iter().filter(|file| file.under(&["src/bin/eagain/lab/rules/"]));
    rules.flat_map(ids_in).map(|(_, id)| id).collect()
}

/// The files of the kernel boundary name experiments where they say what a call gets wrong.
#[test]
fn experiments_named_in_the_library_exist() {
    fn rule(tree: &Tree, found: &mut Findings) {
        let experiments = experiments(&Tree::of_the_project());
        for file in tree.library() {
            file.each_line(&file.text, |line, text| {
                let quoted = text.split('`').skip(1).step_by(2);
                for name in quoted.filter(|name| is_rule_id(name) && name.matches('-').count() > 1) {
                    if !experiments.contains(name) {
                        found.add(file, line, format!("the lab has no experiment `{name}`"));
                    }
                }
            });
        }
    }
    check(
        rule,
        &[("src/sys/net.rs", "//! kills the process (`no-such-experiment-here`)")],
        &[("src/sys/epoll.rs", "//! (`et-reports-once`) on `x86-64`")],
    );
}

#[test]
fn libc_is_pinned() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.files.iter().filter(|file| file.path == "Cargo.toml") {
            let pinned = |line: &str| line.starts_with("libc") && line.contains("\"0.2");
            if !file.text.lines().any(pinned) {
                found.add(file, 1, "libc is pinned to 0.2: 1.0 changes types at the kernel boundary");
            }
        }
    }
    check(rule, &[("Cargo.toml", "libc = \"1.0\"")], &[("Cargo.toml", "libc = \"0.2\"")]);
}

// ---- how a rule is checked ----------------------------------------------------------------------------------------

type Rule = fn(&Tree, &mut Findings);

/// The rule must find each offence, must not find the innocents, and must find nothing in the project.
#[track_caller]
fn check(rule: Rule, offences: &[(&str, &str)], innocents: &[(&str, &str)]) {
    let findings = |tree: &Tree| {
        let mut found = Findings(Vec::new());
        rule(tree, &mut found);
        found
    };
    for (path, text) in offences {
        let found = findings(&Tree::of_one(path, text));
        assert!(!found.0.is_empty(), "the rule does not see the offence in {path}: {text}");
    }
    for (path, text) in innocents {
        let found = findings(&Tree::of_one(path, text));
        assert!(found.0.is_empty(), "the rule accuses an innocent: {text}\n{found}");
    }
    let found = findings(&Tree::of_the_project());
    assert!(found.0.is_empty(), "\n{found}");
}

/// One line each: `file:line: what is wrong`.
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, file: &File, line: usize, what: impl fmt::Display) {
        self.0.push(format!("{}:{line}: {what}", file.path));
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("\n"))
    }
}
