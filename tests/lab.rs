//! The lab, through the program: that its experiments hold, that each of them can fail, and what it prints.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::program;
use serde_json::Value;

/// Everything that the lab has, at once, on a machine that is busy with other things.
const MOST: Duration = Duration::from_secs(60);

/// What may be missing on a machine: a privilege, an option of the kernel, its age. Anything else must be tried.
const EXCUSES: [&str; 10] = [
    "since Linux",
    "CAP_",
    "root",
    "kcmp",
    "syncookies",
    "TIME_WAIT",
    "ZEROCOPY",
    "namespace",
    "RLIMIT_NOFILE",
    "EMFILE",
];

fn lab(words: &[&str]) -> Output {
    Command::new(program()).arg("lab").args(words).stdin(Stdio::null()).output().expect("the program starts")
}

#[track_caller]
fn answer(words: &[&str]) -> String {
    let output = lab(words);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The results of `lab run WORDS --format json`, by experiment.
fn results(words: &[&str]) -> Vec<Value> {
    let output = lab(&[&["run"], words, &["--format", "json"]].concat());
    let document: Value = serde_json::from_slice(&output.stdout).expect("one object of JSON");
    assert_eq!(document["schema"], 1);
    assert!(document["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
    document["experiments"].as_array().expect("a list").clone()
}

fn ids() -> Vec<String> {
    let overview = answer(&[]);
    let lines = overview.lines().filter(|line| line.starts_with("  * ") || line.starts_with("    "));
    lines.map(|line| line[4..].to_owned()).collect()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("eagain-lab-{name}-{}", std::process::id()))
}

// ---- the experiments ----------------------------------------------------------------------------------------------

/// All processors are busy as long as this lives.
struct Load(&'static AtomicBool);

impl Load {
    fn start() -> Self {
        static STOP: AtomicBool = AtomicBool::new(false);
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            std::thread::spawn(|| {
                while !STOP.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(&STOP)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One test, so that the two runs of everything do not disturb each other.
#[test]
fn every_rule_holds_on_a_busy_machine_and_none_does_when_it_is_spoilt() {
    let load = Load::start();
    let quick = std::env::var_os("EAGAIN_QUICK").is_some();
    for _ in 0..if quick { 1 } else { 3 } {
        let since = Instant::now();
        let reports = results(&["all"]);
        assert!(since.elapsed() < MOST, "it took {:?}", since.elapsed());
        for report in &reports {
            let (id, verdict, why) = (&report["id"], &report["verdict"], report["reason"].as_str().unwrap_or(""));
            if verdict == "not-tested" {
                assert!(EXCUSES.iter().any(|excuse| why.contains(excuse)), "{id} is not tested: {why}");
                println!("{id} is not tested: {why}");
            } else {
                assert_eq!(verdict, "holds", "{id}: {why}\n{}", timeline(report));
            }
        }
    }
    drop(load);
    for report in results(&["all", "--mutated"]) {
        assert_ne!(report["verdict"], "holds", "{} cannot fail: its mutation is not noticed", report["id"]);
    }
}

fn timeline(report: &Value) -> String {
    let steps = report["timeline"].as_array().expect("a timeline");
    let line =
        |step: &Value| format!("  {} {} = {} ({})\n", step["at_us"], step["call"], step["answer"], step["expected"]);
    steps.iter().map(line).collect()
}

#[test]
fn ids_are_stable_names_and_no_two_are_the_same() {
    let all = ids();
    let set: BTreeSet<&String> = all.iter().collect();
    assert_eq!(set.len(), all.len());
    for id in &all {
        assert!(id.split('-').all(|part| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())), "{id}");
    }
    let core = answer(&[]).lines().filter(|line| line.starts_with("  * ")).count();
    println!("{} experiments, {core} of them core", all.len());
    assert!(answer(&[]).starts_with(&format!("{} experiments on epoll, {core} of them the core (*).\n", all.len())));
}

#[test]
fn a_timeline_tells_what_was_expected_and_what_came_instead() {
    let output = lab(&["run", "et-reports-once", "--mutated"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(shown.contains("epoll_ctl(ep, ADD, reader, IN)"), "{shown}");
    assert!(shown.contains("= IN reader  EXPECTED nothing"), "{shown}");
    assert!(shown.contains("does not hold: epoll_wait(ep, 50 ms): expected nothing, but it was IN reader"), "{shown}");
    assert!(!shown.contains('\x1b'), "no colour where no terminal is: {shown}");

    let shown = answer(&["run", "et-reports-once"]);
    assert!(shown.contains("= nothing    as expected"), "{shown}");
    assert!(shown.ends_with("\n  holds\n"), "{shown}");
}

/// An experiment that waits for more than three minutes, spoilt and patient as it is.
#[test]
fn a_lab_that_is_killed_leaves_no_experiment_behind() {
    let words = ["lab", "run", "lt-repeats-until-drained", "--mutated", "--slack", "100"];
    let mut lab = Command::new(program()).args(words).stdout(Stdio::null()).spawn().expect("the program starts");
    let mut experiment = Vec::new();
    common::wait_until("the experiment runs", || {
        experiment = common::children(lab.id());
        // Between fork and exec it is a copy of the lab.
        experiment.first().is_some_and(|child| common::arguments(*child).contains(&"one".to_owned()))
    });
    lab.kill().expect("it runs");
    lab.wait().expect("it is ours");
    common::wait_until("the experiment is gone", || common::arguments(experiment[0]).is_empty());
}

/// In a network namespace of its own nothing is reached; without the lab's help that looked like the kernel's fault.
#[test]
fn without_a_loopback_no_rule_is_said_to_be_broken() {
    let words = ["-Urn", &program(), "lab", "run", "accept", "sockets", "--format", "json"];
    let output = Command::new("unshare").args(words).output();
    let Some(output) = output.ok().filter(|output| !output.stdout.is_empty()) else {
        return common::not_tested("no network namespace without root, or no unshare");
    };
    let document: Value = serde_json::from_slice(&output.stdout).expect("one object of JSON");
    let reports = document["experiments"].as_array().expect("a list");
    assert!(reports.iter().all(|report| report["verdict"] != "does-not-hold"), "{document}");
    let told = |report: &Value| report["reason"].as_str().is_some_and(|why| why.contains("ip link set lo up"));
    assert!(reports.iter().any(told), "{document}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn without_its_own_proc_the_lab_says_so_and_does_nothing() {
    let cases = [
        ("-Urm", "mount -t tmpfs none /proc && ", "/proc/self: no such file or directory; without /proc the lab can"),
        ("-Urpf", "", "/proc is that of another pid namespace; mount one of this (unshare --mount-proc)"),
    ];
    for (namespaces, first, said) in cases {
        for words in ["run all", "quiz", "gallery"] {
            let script = format!("{first}exec {} lab {words}", program());
            let output = Command::new("unshare").args([namespaces, "sh", "-c", &script]).output();
            let Some(output) = output.ok().filter(|output| !text(&output.stderr).starts_with("unshare: ")) else {
                return common::not_tested("no namespaces without root, or no unshare");
            };
            assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()), "{words}");
            let told = text(&output.stderr);
            assert!(told.starts_with(&format!("eagain: {said}")) && told.lines().count() == 1, "{told}");
        }
    }
}

// ---- formats ------------------------------------------------------------------------------------------------------

#[test]
fn ktap_counts_every_experiment_once() {
    let tap = answer(&["run", "nesting", "--format", "tap"]);
    let mut lines = tap.lines();
    assert_eq!(lines.next(), Some("KTAP version 1"));
    let plan = lines.next().expect("a plan");
    let results: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
    assert_eq!(plan, format!("1..{}", results.len()));
    for (number, line) in (1..).zip(&results) {
        assert!(line.starts_with(&format!("ok {number} - ")), "{line}");
    }
    let spoilt = text(&lab(&["run", "et-reports-once", "--mutated", "--format=tap"]).stdout);
    assert!(spoilt.contains("\nnot ok 1 - et-reports-once\n# "), "{spoilt}");
}

#[test]
fn json_has_what_a_reader_of_many_results_needs() {
    let reports = results(&["et-reports-once", "lt-repeats-until-drained"]);
    let ids: Vec<&str> = reports.iter().filter_map(|report| report["id"].as_str()).collect();
    assert_eq!(ids, ["lt-repeats-until-drained", "et-reports-once"], "in the order of the list, whatever was asked");
    assert_eq!(reports[0]["group"], "trigger");
    assert_eq!(reports[0]["verdict"], "holds");
    assert!(reports[0]["timeline"].as_array().is_some_and(|steps| steps.len() > 5));
}

#[test]
fn html_is_one_page_that_needs_no_other_and_has_every_experiment() {
    let page = text(&lab(&["run", "et-reports-once", "two-epolls-herd", "--format=html"]).stdout);
    assert!(page.starts_with("<!doctype html>\n"), "{page}");
    assert_eq!(page.matches("<details id=").count(), 2);
    for part in ["id=\"et-reports-once\" data-group=\"trigger\" data-verdict=\"holds\"", "kernel queue", "= nothing"] {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let opened = page.matches("<div").count();
    assert_eq!(opened, page.matches("</div>").count());
    let spoilt = text(&lab(&["run", "et-reports-once", "--mutated", "--format=html"]).stdout);
    assert!(spoilt.contains("data-verdict=\"does-not-hold\" open>") && spoilt.contains("<em>expected nothing</em>"));
}

#[test]
fn the_chapter_of_the_book_is_written_from_the_list() {
    let fresh = scratch("book");
    fs::create_dir(&fresh).expect("a directory of ours");
    answer(&["book", fresh.to_str().expect("UTF-8")]);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/epoll");
    let mut pages = 0;
    for page in fs::read_dir(&fresh).expect("it is ours").flatten() {
        let there = fs::read_to_string(committed.join(page.file_name())).unwrap_or_default();
        let current = fs::read_to_string(page.path()).expect("a page");
        assert!(there == current, "{:?} is out of date: eagain lab book docs/epoll", page.file_name());
        pages += 1;
    }
    assert_eq!(fs::read_dir(&committed).expect("the chapter").count(), pages, "a page of a group that is gone");
    fs::remove_dir_all(fresh).expect("it is ours");
}

#[test]
fn results_go_to_a_file_on_request_and_the_exit_code_stays() {
    let file = scratch("output.json");
    let path = file.to_str().expect("UTF-8");
    let output = lab(&["run", "et-reports-once", "--mutated", "--format", "json", "--output", path]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    let document: Value = serde_json::from_str(&fs::read_to_string(&file).expect("a file")).expect("JSON");
    assert_eq!(document["experiments"][0]["verdict"], "does-not-hold");
    fs::remove_file(file).expect("it is ours");
    let shown = answer(&["run", "et-reports-once", "--format", "tap", "--output", "-"]);
    assert!(shown.ends_with("\nok 1 - et-reports-once\n"), "{shown}");
}

#[test]
fn diff_tells_which_verdicts_differ() {
    let (good, bad) = (scratch("good.json"), scratch("bad.json"));
    let [good_path, bad_path] = [&good, &bad].map(|path| path.to_str().expect("UTF-8"));
    let names = ["et-reports-once", "data-is-opaque"];
    answer(&["run", names[0], names[1], "--format", "json", "--output", good_path]);
    lab(&["run", names[0], "--mutated", "--format", "json", "--output", bad_path]);
    assert!(answer(&["diff", good_path, good_path]).contains("no difference in 2 experiments"));
    let output = lab(&["diff", good_path, bad_path]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("et-reports-once: holds -> does-not-hold\n  + epoll_wait(ep, 50 ms): expected"), "{told}");
    assert!(told.contains("data-is-opaque: holds -> not there"), "{told}");
    fs::write(&bad, "{}").expect("it is ours");
    let output = lab(&["diff", good_path, bad_path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no results of the lab"), "{}", text(&output.stderr));
    fs::remove_file(good).expect("it is ours");
    fs::remove_file(bad).expect("it is ours");
}

/// It was "no difference" once between a kernel that tells of a reaped pidfd and one that does not.
#[test]
fn diff_tells_a_rule_that_holds_as_it_did_on_older_kernels() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kernels");
    let [old, new] = ["bookworm.json", "sid.json"].map(|name| kernels.join(name).display().to_string());
    let output = lab(&["diff", &old, &new]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stdout);
    assert!(told.contains("\npidfd-exit-is-in: holds, as before Linux 6.9 -> holds\n"), "{told}");
}

/// The ids may come from anywhere, and so may the file.
#[test]
fn diff_is_not_fooled_by_a_strange_file() {
    let (strange, good) = (scratch("strange.json"), scratch("plain.json"));
    let [strange_path, good_path] = [&strange, &good].map(|path| path.to_str().expect("UTF-8"));
    answer(&["run", "et-reports-once", "--format", "json", "--output", good_path]);
    let report = r#"{"id":"\u001b[31ma\nb","group":"g","verdict":"holds","took_us":1,"timeline":[]}"#;
    let document = |reports: &str| format!(r#"{{"schema":1,"kernel":"\u0007","experiments":[{reports}]}}"#);
    fs::write(&strange, document(report)).expect("it is ours");
    let told = text(&lab(&["diff", strange_path, good_path]).stdout);
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.lines().all(|line| !line.contains(char::is_control)), "{told:?}");

    fs::write(&strange, document(&format!("{report},{report}"))).expect("it is ours");
    for (path, said) in [(strange_path, "is in it twice"), ("/dev/zero", "it is longer than 64 MiB")] {
        let output = lab(&["diff", path, good_path]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    fs::remove_file(strange).expect("it is ours");
    fs::remove_file(good).expect("it is ours");
}

#[test]
fn results_that_cannot_be_written_are_an_error_and_a_reader_who_has_gone_is_none() {
    for words in [
        &["lab", "run", "et-reports-once", "--format", "json"][..],
        &["lab"],
        &["lab", "explain", "trigger"],
        &["lab", "quiz"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device of every Linux");
        let output =
            Command::new(program()).args(words).stdout(full).stderr(Stdio::piped()).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(text(&output.stderr).contains("stdout: no space left on device"), "{}", text(&output.stderr));

        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(program()).args(words).stdout(writer).stderr(Stdio::piped()).output();
        let output = output.expect("it starts");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{words:?}");
    }
}

// ---- explaining ---------------------------------------------------------------------------------------------------

#[test]
fn each_experiment_is_explained() {
    for id in ids() {
        let told = answer(&["explain", &id]);
        assert!(told.starts_with(&format!("{id} (")), "{told}");
        for part in ["\n  Source       ", "\n  Since        Linux ", "\n  It matters   ", "\n  Try it       "] {
            assert!(told.contains(part), "{id}: {told}");
        }
        assert!(told.lines().all(|line| line.chars().count() <= 124), "{told}");
    }
}

/// Comments in the server that name a rule, by file and line.
fn markers() -> Vec<(String, usize, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.ends_with("lab") => {}
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut markers) = (Vec::new(), Vec::new());
    walk(&root.join("src"), &mut files);
    for path in files {
        let source = fs::read_to_string(&path).expect("a text");
        let name = path.strip_prefix(root).expect("it is below").display().to_string();
        for (number, line) in (1..).zip(source.lines()) {
            for rest in line.split(["RULE", "("].concat().as_str()).skip(1) {
                markers.push((name.clone(), number, rest.split(')').next().unwrap_or("").to_owned()));
            }
        }
    }
    markers
}

#[test]
fn explain_shows_every_place_where_the_server_obeys() {
    let markers = markers();
    assert!(markers.len() > 10);
    for (file, line, id) in markers {
        let told = answer(&["explain", &id]);
        assert!(told.contains(&format!("\n  {file}:{line}\n")), "{file}:{line} is missing in: {told}");
    }
}

#[test]
fn what_the_book_shows_of_explain_is_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lab.md");
    let page = fs::read_to_string(page).expect("a page of the book");
    let sample = page.split("$ eagain lab explain ").nth(1).and_then(|rest| rest.split("```").next());
    let (id, shown) = sample.and_then(|sample| sample.split_once('\n')).expect("a sample");
    assert_eq!(shown, answer(&["explain", id]));
}

#[test]
fn the_quiz_asks_and_answers_where_nobody_is_there_to_guess() {
    let told = answer(&["quiz", "et-reports-once"]);
    assert!(told.starts_with("1. et-reports-once\n"), "{told}");
    assert!(told.contains("= ?\n\n  It answered: nothing\n"), "{told}");
}

/// A question that was not answered does not count.
#[test]
fn the_quiz_ends_when_the_terminal_does() {
    let script = format!("{} lab quiz et-reports-once", program());
    let terminal = Command::new("script").args(["-qec", &script, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(output) = terminal else {
        println!("not tested: the quiz on a terminal, for want of script");
        return;
    };
    let told = text(&output.stdout);
    assert!(told.ends_with("\r\n0 of 0 right. 'eagain lab explain ID' tells more.\r\n"), "{told:?}");
}

#[test]
fn what_is_no_text_is_a_wrong_guess() {
    let script = format!("{} lab quiz et-reports-once", program());
    let mut command = Command::new("script");
    command.args(["-qec", &script, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut terminal) = command.spawn() else {
        return common::not_tested("the quiz on a terminal, for want of script");
    };
    let mut keyboard = terminal.stdin.take().expect("a pipe");
    keyboard.write_all(b"\xff\xfe\n").expect("it reads");
    let output = terminal.wait_with_output().expect("it ends");
    drop(keyboard);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.ends_with("\r\n0 of 1 right. 'eagain lab explain ID' tells more.\r\n"), "{told:?}");
}

// ---- the command line ---------------------------------------------------------------------------------------------

#[test]
fn wrong_words_are_refused_in_one_line() {
    let cases = [
        (&["rnu", "all"][..], 2, "did you mean run?"),
        (&["run"], 2, "run what?"),
        (&["explain"], 2, "explain what?"),
        (&["diff", "a"], 2, "diff takes two files"),
        (&["explain", "all", "--mutated"], 2, "--mutated goes with 'eagain lab run' only"),
        (&["run", "all", "--format", "xml"], 2, "expected text, tap"),
        (&["run", "no-such-rule"], 1, "no experiment and no group is called 'no-such-rule'; 'eagain lab' lists them"),
        (&["run", "et-reprots-once"], 1, "did you mean et-reports-once?"),
        (&["explain", "wakeup"], 1, "did you mean wakeups?"),
        (&["gallery", "emfile-spn"], 1, "did you mean emfile-spin?"),
        (&["run", "all", "--output", "/nonexistent/results"], 1, "/nonexistent/results: no such file"),
        (&["diff", "/nonexistent/a", "b"], 1, "no such file"),
    ];
    for (words, code, said) in cases {
        let output = lab(words);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {line}");
        assert!(line.contains(said) && line.lines().count() == 1, "{words:?}: {line}");
    }
}
