//! A file of options: it means what a command line means that is made of its keys and values, each kept to its own
//! option; or it is refused with one line that says where.
#![no_main]

#[allow(dead_code, unused_imports, reason = "a part of the program, without what uses it")]
#[path = "../../../src/bin/eagain"]
mod program {
    pub(crate) mod address;
    /// What the options of `bench` are turned into.
    #[path = "bench/plan.rs"]
    pub(crate) mod bench;
    pub(crate) mod cli;
    pub(crate) mod config;
    pub(crate) mod say;
}

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use program::cli::{Command, Serve, Stop};
// The program's modules name each other so.
use program::{address, bench, cli, config, say};
use toml::Value;

/// A file in memory: on a disk each try would take a millisecond, and something would stay behind.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    // SAFETY: the name is a C string, and the call keeps nothing of it.
    let fd = unsafe { libc::memfd_create(c"eagain.toml".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    format!("/proc/self/fd/{fd}").into()
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*FILE, data).expect("a file in memory");
    let read = parse(vec!["--config".into(), FILE.clone().into()]);
    match (read, std::str::from_utf8(data)) {
        (Ok(serve), Ok(text)) => {
            let table = text.parse().expect("it was read as TOML");
            let same = parse(words(&table)).unwrap_or_else(|why| panic!("{why:?}, of a file that is right"));
            assert_eq!(show(serve), show(same));
        }
        (Ok(_), Err(_)) => panic!("not UTF-8, and accepted"),
        (Err(Stop::Failed(why)), text) => check_refusal(&why, text.ok()),
        (Err(why), _) => panic!("{why:?}"),
    }
});

fn parse(words: Vec<OsString>) -> Result<Serve, Stop> {
    match cli::parse(std::iter::once("serve".into()).chain(words))? {
        Command::Serve(serve) => Ok(serve),
        other => panic!("{other:?}"),
    }
}

fn show(serve: Serve) -> String {
    assert!(!serve.check, "a file cannot ask for --check");
    format!("{:?}", Serve { config: None, ..serve })
}

/// Each value in one word with its option: it cannot be taken for another option.
fn words(table: &toml::Table) -> Vec<OsString> {
    let mut words = Vec::new();
    for (key, value) in table {
        add_words(key, value, &mut words);
    }
    words
}

fn add_words(key: &str, value: &Value, words: &mut Vec<OsString>) {
    match value {
        Value::Boolean(true) => words.push(format!("--{key}").into()),
        Value::Boolean(false) => {}
        Value::Array(values) => values.iter().for_each(|value| add_words(key, value, words)),
        Value::String(text) => words.push(format!("--{key}={text}").into()),
        Value::Integer(number) => words.push(format!("--{key}={number}").into()),
        Value::Float(number) => words.push(format!("--{key}={number}").into()),
        Value::Table(_) | Value::Datetime(_) => panic!("{key} = {value:?} is accepted"),
    }
}

/// `FILE:LINE: why`, and the line is one of the file.
fn check_refusal(why: &str, text: Option<&str>) {
    let shown = say::one_line(why);
    let why = shown.strip_prefix(FILE.to_str().expect("UTF-8")).expect("the file is named");
    let Some(text) = text else { return assert!(why.starts_with(": "), "{why}") };
    let (line, why) = why.strip_prefix(':').and_then(|rest| rest.split_once(": ")).expect("a line is named");
    let line: usize = line.parse().unwrap_or_else(|_| panic!("line {line}"));
    assert!((1..=1 + text.matches('\n').count()).contains(&line), "line {line}");
    assert!(!why.is_empty() && why.len() < 400 + 8 * text.len(), "{why}");
}

/// No host is looked up: the answer would not be this program's, and takes its time.
// SAFETY: it takes the place of getaddrinfo(3), with the same arguments; it touches none of them, and EAI_NONAME is an
// answer that every caller must expect.
#[unsafe(no_mangle)]
pub extern "C" fn getaddrinfo(_: *const u8, _: *const u8, _: *const u8, _: *mut *mut u8) -> i32 {
    const EAI_NONAME: i32 = -2;
    EAI_NONAME
}
