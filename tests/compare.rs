//! `eagain compare`: what it prints and writes. How fast anything is decides nothing here.
#![cfg(feature = "cli")]

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::program;
use serde_json::Value;

/// A path of this test alone, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("eagain-compare-{}-{name}", std::process::id()));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn compare(arguments: &[&str]) -> Output {
    Command::new(program()).arg("compare").args(arguments).output().unwrap()
}

/// Runs a comparison; gives what it printed and what it wrote.
#[track_caller]
fn compared(what: &str) -> (String, Value) {
    let file = Scratch::new(what);
    let output = compare(&[what, "--quick", "--json", file.0.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}");
    let json = serde_json::from_str(&std::fs::read_to_string(&file.0).unwrap()).unwrap();
    (String::from_utf8(output.stdout).unwrap(), json)
}

/// A figure is a median between the least and the most, and above nothing.
#[track_caller]
fn assert_spread(spread: &Value) {
    let number = |key: &str| spread[key].as_f64().unwrap_or_else(|| panic!("no {key} in {spread}"));
    assert!(0.0 < number("min") && number("min") <= number("median") && number("median") <= number("max"), "{spread}");
}

#[test]
fn tables_are_three_kinds_at_four_sizes() {
    let (text, json) = compared("tables");
    assert_eq!((&json["schema"], &json["compared"]), (&1.into(), &"tables".into()));
    let rows = json["rows"].as_array().unwrap();
    let named: Vec<(u64, &str)> =
        rows.iter().map(|row| (row["connections"].as_u64().unwrap(), row["table"].as_str().unwrap())).collect();
    let sizes = [100, 1000, 10_000, 100_000];
    let expected: Vec<(u64, &str)> =
        sizes.into_iter().flat_map(|size| ["slab", "HashMap", "BTreeMap"].map(|kind| (size, kind))).collect();
    assert_eq!(named, expected);
    for row in rows {
        ["insert_ns", "lookup_ns", "remove_ns", "mix_ns"].into_iter().for_each(|key| assert_spread(&row[key]));
        // What is kept of a connection, and not several times as much.
        let bytes = row["bytes_per_connection"].as_u64().unwrap();
        assert!((112..1024).contains(&bytes), "{row}");
    }
    for (size, kind) in expected {
        let row = |line: &&str| line.split_whitespace().take(2).eq([size.to_string().as_str(), kind]);
        assert!(text.lines().any(|line| row(&line)), "{text}");
    }
}

#[test]
fn wakers_are_five_and_the_unread_one_saves_a_call() {
    let (text, json) = compared("wakers");
    assert_eq!((&json["schema"], &json["compared"]), (&1.into(), &"wakers".into()));
    let rows = json["rows"].as_array().unwrap();
    let named: Vec<&str> = rows.iter().map(|row| row["waker"].as_str().unwrap()).collect();
    assert_eq!(named, ["eventfd, unread", "eventfd, read", "pipe", "socketpair", "tcp pair"]);
    let calls: Vec<u64> = rows.iter().map(|row| row["system_calls"].as_u64().unwrap()).collect();
    assert_eq!(calls, [2, 3, 3, 3, 3]);
    for row in rows {
        assert_spread(&row["wake_up_us"]);
        assert_spread(&row["cpu_us"]);
        assert!(text.contains(row["waker"].as_str().unwrap()));
    }
}

#[test]
fn models_are_measured_over_idle_connections_and_one_of_them_twice() {
    let directory = Scratch::new("models");
    let path = directory.0.to_str().unwrap();
    let output = compare(&["--quick", "--idle", "0,30,19990", "--repeat", "1", "--out", path]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}");
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(directory.0.join("compare.json")).unwrap()).unwrap();
    assert_eq!((&json["schema"], &json["compared"]), (&1.into(), &"models".into()));
    let cells = json["cells"].as_array().unwrap();
    let at = |model: &str, idle: u64| cells.iter().find(|cell| cell["model"] == model && cell["idle"] == idle);
    let missing = json["not_measured"].as_array().unwrap();
    let why = |model: &str, idle: u64| missing.iter().find(|one| one["model"] == model && one["idle"] == idle);
    let mut too_busy = 0;
    for model in ["threads", "select", "poll", "completion", "epoll-level", "epoll-edge"] {
        for idle in [0, 30] {
            let Some(cell) = at(model, idle) else {
                // A third of a second without one answer: the machine's affair, now and then, and said.
                let why = why(model, idle).unwrap_or_else(|| panic!("{model} with {idle} idle is missing"));
                assert!(why["why"].as_str().unwrap().contains("on a machine this busy"), "{why}");
                too_busy += 1;
                continue;
            };
            let figures = ["messages_per_second", "p50_us", "p99_us", "server_cpu_ns_per_message", "server_rss_bytes"];
            figures.into_iter().for_each(|figure| assert_spread(&cell[figure]));
            assert_eq!(cell["errors"], 0);
        }
    }
    assert!(too_busy <= 3, "{missing:?}");
    // What a model cannot have is left out, and said.
    assert!(at("select", 19_990).is_none());
    assert!(missing.iter().any(|one| one["model"] == "select" && one["idle"] == 19_990), "{missing:?}");
    assert!(json["again"].as_array().unwrap().iter().all(|cell| cell["model"] == "epoll-level"));
    assert_calls(&json);
    let text = std::fs::read_to_string(directory.0.join("compare.md")).unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with(&text));
    for figure in ["throughput", "cpu", "p50", "p99"] {
        let file = format!("{figure}-64-16.svg");
        assert!(text.contains(&format!("]({file})")), "{text}");
        let svg = std::fs::read_to_string(directory.0.join(&file)).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{file}");
        assert!(svg.contains("prefers-color-scheme:dark"));
    }
}

/// A thread needs no call to learn who is ready; all others need one. Where nothing may be traced, it says so.
fn assert_calls(json: &Value) {
    let counted = json["system_calls"].as_array().unwrap();
    if let Some(why) = json["system_calls_not_measured"].as_str() {
        assert!(counted.is_empty());
        return common::not_tested(&format!("system calls of the models: {why}"));
    }
    for calls in counted {
        let expected = if calls["model"] == "threads" { 2.0 } else { 3.0 };
        let per_message = calls["per_message"].as_f64().unwrap();
        assert!((expected - 0.1..expected + 0.1).contains(&per_message), "{calls}");
    }
    assert_eq!(counted.len(), 6);
}

#[test]
fn options_of_one_comparison_are_refused_with_another() {
    for (arguments, why) in [
        (&[][..], "say where the report is to go: --out DIR"),
        (&["models", "--out", "x", "--json", "y"][..], "--json is not of compare models, which writes to --out DIR"),
        (&["tables", "--out", "x"][..], "--out is of compare models alone"),
        (&["wakers", "--idle", "0"][..], "--idle is of compare models alone"),
    ] {
        let output = compare(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("eagain: {why}\n"));
    }
    for list in ["", "1,1", "2,1", "0,x", "0, 1"] {
        let output = compare(&["--out", "x", &format!("--idle={list}")]);
        assert_eq!(output.status.code(), Some(2), "{list}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("expected ascending numbers"), "{list}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_on_one_line() {
    let output = compare(&["wakers", "--quick", "--json", "/nonexistent/wakers.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"eagain: /nonexistent/wakers.json: no such file or directory\n");
}
