//! The lab on several kernels: the tables of the results, and `scripts/kernels` as far as it goes without booting one.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::program;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn lab(words: &[&str]) -> Output {
    Command::new(program()).arg("lab").args(words).output().expect("the program starts")
}

fn matrix(files: &[PathBuf]) -> String {
    let paths: Vec<&str> = files.iter().map(|path| path.to_str().expect("UTF-8")).collect();
    let output = lab(&[&["matrix"], &paths[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// A result in JSON, in a file of its own.
fn result(name: &str, kernel: &str, experiments: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("eagain-kernels-{name}-{}.json", std::process::id()));
    let text = format!("{{\"schema\":1,\"kernel\":\"{kernel}\",\"experiments\":[{experiments}]}}");
    fs::write(&path, text).expect("it is ours");
    path
}

#[test]
fn a_rule_on_which_kernels_differ_is_shown_with_what_is_known_of_it() {
    let old = result(
        "old",
        "5.10.0-46-cloud-amd64",
        "{\"id\":\"pidfd-exit-is-in\",\"group\":\"descriptors\",\"verdict\":\"holds\",\"before\":\"6.9\"},
         {\"id\":\"et-reports-once\",\"group\":\"trigger\",\"verdict\":\"holds\"},
         {\"id\":\"busy-poll-params\",\"group\":\"sockets\",\"verdict\":\"not-tested\",\"reason\":\"it is so since\"}",
    );
    let new = result(
        "new",
        "6.12.1",
        "{\"id\":\"pidfd-exit-is-in\",\"group\":\"descriptors\",\"verdict\":\"holds\"},
         {\"id\":\"et-reports-once\",\"group\":\"trigger\",\"verdict\":\"holds\"},
         {\"id\":\"busy-poll-params\",\"group\":\"sockets\",\"verdict\":\"does-not-hold\",\"reason\":\"why_not\"}",
    );
    let told = matrix(&[old.clone(), new.clone()]);
    let (differences, all) = told.split_once("## Every rule").expect("both parts");
    assert!(differences.contains("| 5.10 | 5.10.0-46-cloud-amd64 |  | 2 | 0 | 1 |\n"), "{told}");
    assert!(differences.contains("### `pidfd-exit-is-in`"), "{told}");
    assert!(differences.contains("| `pidfd-exit-is-in` | as before 6.9 | yes |\n"), "{told}");
    assert!(differences.contains("| `busy-poll-params` | not tested | **no** |\n"), "{told}");
    assert!(differences.contains("HUP comes to it.\n\n6.9: HUP when"), "{told}");
    assert!(differences.contains("\n\n- 5.10: it is so since\n- 6.12: why\\_not\n"), "{told}");
    assert!(!differences.contains("et-reports-once"), "{told}");
    assert!(all.contains("| `et-reports-once` | yes | yes |\n"), "{told}");
    assert!(all.contains("| `et-mod-rearms` |  |  |\n"), "what a result lacks is no verdict: {told}");
    fs::remove_file(old).expect("it is ours");
    fs::remove_file(new).expect("it is ours");
}

#[test]
fn the_tables_in_the_docs_are_made_of_the_results_beside_them() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut results: Vec<PathBuf> =
        fs::read_dir(docs.join("kernels")).expect("results").flatten().map(|file| file.path()).collect();
    let version = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a result");
        let kernel = text.split("\"kernel\":\"").nth(1).expect("a kernel").to_owned();
        let numbers: Vec<u32> = kernel.split('.').take(2).map(|number| number.parse().expect("a number")).collect();
        numbers
    };
    results.sort_by_key(version);
    let page = fs::read_to_string(docs.join("kernels.md")).expect("a page");
    let (_, tables) =
        page.split_once("<!-- below: ").and_then(|(_, below)| below.split_once("-->\n\n")).expect("tables");
    assert!(tables == matrix(&results), "docs/kernels.md is out of date: scripts/kernels --page");
}

#[test]
fn more_time_may_be_given_to_what_is_to_happen() {
    let output = lab(&["run", "et-reports-once", "--slack", "10"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("epoll_wait(ep, 20000 ms)") && told.contains("epoll_wait(ep, 50 ms)"), "{told}");
    for (words, said) in [
        (&["run", "all", "--slack", "0"][..], "expected a number from 1 to 100"),
        (&["explain", "all", "--slack", "2"], "--slack goes with 'eagain lab run' only"),
        (&["matrix"], "matrix of what?"),
    ] {
        let output = lab(words);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {line}");
        assert!(line.contains(said) && line.lines().count() == 1, "{words:?}: {line}");
    }
}

#[test]
fn what_fails_among_others_is_tried_again_alone_if_there_is_slack() {
    // Too few descriptors for the 5,000 that it needs.
    let run = |slack| {
        let command = format!("ulimit -n 256; exec \"$0\" lab run fd-sets-are-cheap-to-build --format json {slack}");
        let output = Command::new("bash").args(["-c", &command]).arg(program()).output().expect("bash");
        let told = text(&output.stdout);
        assert!(told.contains("\"verdict\":\"not-tested\""), "{told}");
        told
    };
    assert!(run("--slack 2").contains("\"tries\":3"));
    assert!(!run("").contains("tries"));
}

#[test]
fn the_script_refuses_in_one_line_what_it_cannot_do() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kernels");
    for (words, said) in [
        (&["--suites"][..], "unknown argument '--suites'"),
        (&["--suite"], "--suite needs a value"),
        (&["--jobs", "x"], "--jobs wants a number from 1, not 'x'"),
    ] {
        let output = Command::new(&script).args(words).output().expect("bash");
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {line}");
        assert!(line.contains(said) && line.lines().count() == 1, "{words:?}: {line}");
    }
}
