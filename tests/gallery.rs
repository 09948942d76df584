//! The gallery, through the program: that each mistake breaks its server under the traffic that is shown with it, and
//! that the same traffic does not break the repaired one.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use common::program;
use serde_json::Value;

fn gallery(words: &[&str], columns: &str) -> Output {
    let mut command = Command::new(program());
    command.args(["lab", "gallery"]).args(words).env("COLUMNS", columns).stdin(Stdio::null());
    command.output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// What `lab gallery WORDS --format json` says, by exhibit.
fn exhibits(words: &[&str]) -> Vec<Value> {
    let output = gallery(&[words, &["--format", "json"]].concat(), "");
    let document: Value = serde_json::from_slice(&output.stdout).expect("one object of JSON");
    assert_eq!(document["schema"], 1);
    assert!(document["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
    document["exhibits"].as_array().expect("a list").clone()
}

/// All of them, once for the tests to which it is no matter how they end.
static EXHIBITS: LazyLock<Vec<Value>> = LazyLock::new(|| exhibits(&[]));

fn word<'a>(exhibit: &'a Value, key: &str) -> &'a str {
    exhibit[key].as_str().unwrap_or_else(|| panic!("{key} of {exhibit}"))
}

/// All processors are busy as long as this lives.
struct Load(Arc<AtomicBool>);

impl Load {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the clients of each broken server must see: that it breaks of its mistake, not of anything.
const SYMPTOMS: &[(&str, &str)] = &[
    ("one-accept-per-edge", "1 of 6 clients were answered"),
    ("one-recv-per-edge", "1024 of 10240 bytes"),
    ("blocking-under-edge", "sleeps in recv"),
    ("recv-is-a-message", "as 2 messages"),
    ("send-result-ignored", "cut short"),
    ("slow-answer", "answered second"),
    ("no-budget", "after 48 KiB"),
    ("queue-without-bound", "of 4 MiB"),
    ("reset-ends-the-server", "has ended"),
    ("mask-compared", "5 sockets are still open"),
    ("hup-branch-last", "5 sockets are still open"),
    ("no-branch-for-the-end", "all of its processor's time"),
    ("write-interest-kept", "all of its processor's time"),
    ("timeout-cut-down", "waits or more"),
    ("close-without-delete", "all of its processor's time"),
    ("emfile-spin", "failing accepts"),
    ("descriptor-as-identity", "'what A asked for'"),
];

#[test]
fn each_mistake_breaks_its_server_and_not_the_repaired_one_on_a_busy_machine() {
    let load = Load::start();
    let quick = std::env::var_os("EAGAIN_QUICK").is_some();
    for _ in 0..if quick { 1 } else { 3 } {
        let exhibits = exhibits(&[]);
        assert!(exhibits.len() >= 12, "only {} exhibits", exhibits.len());
        for one in &exhibits {
            assert_eq!(one["broken"]["verdict"], "broke", "{one}");
            assert_eq!(one["repaired"]["verdict"], "held", "{one}");
            let (_, symptom) = SYMPTOMS.iter().find(|(id, _)| *id == word(one, "id")).expect("a known symptom");
            assert!(word(&one["broken"], "saw").contains(symptom), "it broke, but of something else: {one}");
        }
    }
    drop(load);
}

#[test]
fn each_exhibit_names_rules_that_the_lab_proves() {
    let overview = Command::new(program()).arg("lab").output().expect("the program starts");
    let overview = text(&overview.stdout);
    let known: BTreeSet<&str> = {
        let lines = overview.lines().filter(|line| line.starts_with("  * ") || line.starts_with("    "));
        lines.map(|line| &line[4..]).collect()
    };
    for one in &*EXHIBITS {
        let rules = one["rules"].as_array().expect("a list");
        assert!(!rules.is_empty(), "{one}");
        for rule in rules {
            assert!(known.contains(rule.as_str().expect("a name")), "no experiment {rule}");
        }
    }
}

#[test]
fn the_table_has_the_mistake_and_both_ends_of_each_exhibit() {
    let output = gallery(&[], "");
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}{}", text(&output.stderr));
    let (mut broke, mut held) = (0, 0);
    for line in table.lines() {
        broke += usize::from(line.starts_with("  broken   broke   "));
        held += usize::from(line.starts_with("  repaired held    "));
    }
    assert_eq!((broke, held), (EXHIBITS.len(), EXHIBITS.len()), "{table}");
    for one in &*EXHIBITS {
        assert!(table.contains(&format!("{}\n  {}\n", word(one, "id"), word(one, "mistake"))), "{one}\n{table}");
    }
    assert!(!table.contains('\x1b'), "colours where nobody sees them");
}

/// The lines of a function in a file.
fn function(file: &str, name: &str) -> Vec<String> {
    let source = std::fs::read_to_string(file).expect(file);
    let start = format!("fn {name}(");
    let mut lines: Vec<String> = Vec::new();
    for line in source.lines().skip_while(|line| !line.starts_with(&start)) {
        lines.push(line.to_owned());
        if line == "}" {
            return lines;
        }
    }
    panic!("{file} has no whole function {name}");
}

/// Everything that is there, each with its story, at that many columns.
fn stories(columns: &str) -> Vec<(&'static Value, String)> {
    let ids: Vec<&str> = EXHIBITS.iter().map(|one| word(one, "id")).collect();
    let text = text(&gallery(&ids, columns).stdout);
    let mut stories = Vec::new();
    let mut rest = &text[..];
    for (at, id) in ids.iter().enumerate() {
        let next = ids.get(at + 1).and_then(|next| rest.find(&format!("\n{next}\n"))).map_or(rest.len(), |end| end + 1);
        assert!(rest.starts_with(&format!("{id}\n")), "no story of {id}:\n{rest}");
        let (story, others) = rest.split_at(next);
        stories.push(story.to_owned());
        rest = others;
    }
    EXHIBITS.iter().zip(stories).collect()
}

#[test]
fn a_story_shows_both_servers_as_they_are_one_below_the_other_where_it_is_narrow() {
    for (one, story) in stories("80") {
        for (name, sign) in [("broken", "// WRONG: "), ("repaired", "// RIGHT: ")] {
            let lines = function(word(one, "source"), name);
            assert!(story.contains(&lines.join("\n")), "{name} is not shown:\n{story}");
            assert!(lines.iter().any(|line| line.contains(sign)), "{name} of {} has no {sign}", word(one, "id"));
        }
        let words: String = story.split_whitespace().collect::<Vec<_>>().join(" ");
        for key in ["mistake", "traffic", "lesson"] {
            assert!(words.contains(word(one, key)), "no {key}:\n{story}");
        }
        for rule in one["rules"].as_array().expect("a list") {
            assert!(words.contains(&format!("eagain lab run {}", rule.as_str().unwrap())), "no {rule}:\n{story}");
        }
    }
}

#[test]
fn a_story_shows_both_servers_side_by_side_where_it_is_wide() {
    for (_, story) in stories("180") {
        let code: Vec<&str> = story.lines().skip_while(|line| !line.starts_with("fn broken(")).collect();
        assert!(code[0].contains(" ≠ fn repaired("), "{story}");
        let signs = ["// WRONG: ", "// RIGHT: "];
        assert!(signs.iter().all(|sign| code.iter().any(|line| line.contains(sign))), "{story}");
        assert!(code.iter().all(|line| line.chars().count() <= 180), "{story}");
        // Most of a server is the same in both: what differs is the lesson.
        let differ = code.iter().filter(|line| line.contains(" ≠")).count();
        assert!(differ >= 2 && differ * 2 <= code.len() + 4, "{differ} of {} lines differ:\n{story}", code.len());
    }
}

#[test]
fn a_scene_that_cannot_be_set_is_no_success() {
    // Enough descriptors to start the program, too few for two sockets and a listener.
    let script = format!("ulimit -n 11 && exec {} lab gallery one-accept-per-edge", program());
    let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr));
    assert!(said.contains("NOT TESTED") && said.contains("too many open files"), "{said}");
}

#[test]
fn wrong_words_are_refused_in_one_line() {
    for (words, code, expected) in [
        (&["no-such-mistake"][..], 1, "the gallery has no 'no-such-mistake'"),
        (&["--format", "html"], 2, "the gallery has --format text and json"),
        (&["--mutated"], 2, "--mutated goes with 'eagain lab run' only"),
    ] {
        let output = gallery(words, "");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        assert!(error.contains(expected), "{words:?}: {error}");
    }
}

#[test]
fn the_chapter_of_the_book_has_every_exhibit() {
    let chapter = std::fs::read_to_string("docs/gallery.md").expect("the chapter");
    for one in &*EXHIBITS {
        let entry = format!("{}\n  {}\n", word(one, "id"), word(one, "mistake"));
        assert!(chapter.contains(&entry), "docs/gallery.md lacks {entry}");
    }
}
