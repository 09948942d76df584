//! The gallery, through the program: that each mistake breaks its server under the traffic that is shown with it, and that
//! the same traffic does not break the repaired one.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
        }
    }
    drop(load);
}

#[test]
fn each_exhibit_names_rules_that_the_lab_proves() {
    let overview = Command::new(program()).arg("lab").output().expect("the program starts");
    let overview = text(&overview.stdout);
    let known: BTreeSet<&str> = overview.lines().filter_map(|line| line.get(4..)).collect();
    for one in exhibits(&[]) {
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
    let exhibits = exhibits(&[]);
    assert_eq!((broke, held), (exhibits.len(), exhibits.len()), "{table}");
    for one in &exhibits {
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

#[test]
fn a_story_shows_both_servers_as_they_are_one_below_the_other_where_it_is_narrow() {
    for one in exhibits(&[]) {
        let story = text(&gallery(&[word(&one, "id")], "80").stdout);
        for (name, sign) in [("broken", "// WRONG: "), ("repaired", "// RIGHT: ")] {
            let lines = function(word(&one, "source"), name);
            assert!(story.contains(&lines.join("\n")), "{name} is not shown:\n{story}");
            assert!(lines.iter().any(|line| line.contains(sign)), "{name} of {} has no {sign}", word(&one, "id"));
        }
        let words: String = story.split_whitespace().collect::<Vec<_>>().join(" ");
        for key in ["mistake", "traffic", "lesson"] {
            assert!(words.contains(word(&one, key)), "no {key}:\n{story}");
        }
    }
}

#[test]
fn a_story_shows_both_servers_side_by_side_where_it_is_wide() {
    for one in exhibits(&[]) {
        let story = text(&gallery(&[word(&one, "id")], "180").stdout);
        let sides = |line: &str| line.split_once(" │ ").or_else(|| line.split_once(" ≠ ")).is_some();
        let code: Vec<&str> = story.lines().filter(|line| sides(line)).collect();
        assert!(code[0].starts_with("fn broken(") && code[0].contains(" ≠ fn repaired("), "{story}");
        let (wrong, right) = ("// WRONG: ", "// RIGHT: ");
        assert!(
            code.iter().any(|line| line.contains(wrong)) && code.iter().any(|line| line.contains(right)),
            "{story}"
        );
        assert!(code.iter().all(|line| line.chars().count() <= 180), "{story}");
        // Most of a server is the same in both: what differs is the lesson.
        let differ = code.iter().filter(|line| line.contains(" ≠ ")).count();
        assert!(differ * 2 < code.len() + 8, "{differ} of {} lines differ:\n{story}", code.len());
    }
}

#[test]
fn a_scene_that_cannot_be_set_is_no_success() {
    // Enough descriptors to start the program, too few for two sockets and a listener.
    let script = format!("ulimit -n 9 && exec {} lab gallery one-accept-per-edge", program().display());
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
    for one in exhibits(&[]) {
        let entry = format!("{}\n  {}\n", word(&one, "id"), word(&one, "mistake"));
        assert!(chapter.contains(&entry), "docs/gallery.md lacks {entry}");
    }
}
