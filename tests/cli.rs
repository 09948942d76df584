//! The command line, through the program: every answer, every refusal, every exit code.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

fn eagain(args: &[impl AsRef<OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eagain"));
    command.args(args).stdin(Stdio::null());
    command.output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The single line of a refused command line.
#[track_caller]
fn refusal(code: i32, args: &[impl AsRef<OsStr>]) -> String {
    let output = eagain(args);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert!(output.stdout.is_empty());
    assert!(line.starts_with("eagain: ") && line.ends_with('\n'), "{line:?}");
    assert_eq!(line.lines().count(), 1, "{line:?}");
    line
}

#[track_caller]
fn answer(args: &[&str]) -> String {
    let output = eagain(args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty());
    text(&output.stdout)
}

#[test]
fn no_argument_prints_the_help() {
    assert_eq!(answer(&[]), answer(&["--help"]));
    assert!(answer(&[]).contains("Usage: eagain COMMAND"));
}

#[test]
fn every_command_has_a_help_with_an_example() {
    for command in ["serve", "connect", "bench", "report", "status", "compare", "lab", "inspect"] {
        let help = answer(&[command, "--help"]);
        assert!(help.contains(&format!("Usage: eagain {command} ")), "{help}");
        let examples = help.split("Examples:\n").nth(1).expect("examples");
        assert!(examples.contains(&format!("  eagain {command} ")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        for way in [&[command, "-h"][..], &[command, "help"], &["help", command], &["-h", command]] {
            assert_eq!(answer(way), help, "{way:?}");
        }
        let behind_options = match command {
            "serve" => answer(&[command, "--echo", "7007", "--help"]),
            "compare" => answer(&[command, "tables", "--quick", "--help"]),
            _ => answer(&[command, "127.0.0.1:7", "--help"]),
        };
        assert_eq!(behind_options, help);
    }
}

#[test]
fn version_is_that_of_the_package() {
    let version = format!("eagain {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(answer(&["--version"]), version);
    assert_eq!(answer(&["-V"]), version);
}

#[test]
fn a_value_may_follow_an_equals_sign_or_be_a_word() {
    for (name, value) in [("--workers", "0"), ("--echo", "x=y"), ("--delay-ms", "-1"), ("--log", "")] {
        let words = refusal(2, &["serve", name, value]);
        let joined = refusal(2, &["serve", &format!("{name}={value}")]);
        assert_eq!(words, joined);
        assert!(words.contains(&format!("{name} '{value}': ")), "{words}");
    }
}

#[test]
fn after_two_dashes_nothing_is_an_option() {
    let line = refusal(2, &["connect", "--", "--frames"]);
    assert!(line.contains("ADDRESS '--frames': no port"), "{line}");
    let line = refusal(2, &["connect", "--", "--max-frame=1"]);
    assert!(line.contains("ADDRESS '--max-frame=1'"), "{line}");
}

#[test]
fn a_switch_takes_no_value() {
    let line = refusal(2, &["serve", "--trace=yes"]);
    assert!(line.contains("--trace takes no value"), "{line}");
}

#[test]
fn a_forgotten_value_is_not_taken_from_the_next_option() {
    for args in [&["serve", "--echo"][..], &["serve", "--echo", "--trace"]] {
        let line = refusal(2, args);
        assert!(line.contains("--echo needs a value: --echo ADDRESS"), "{line}");
    }
}

#[test]
fn unknown_words_get_a_suggestion() {
    let cases = [
        (&["srve"][..], "did you mean serve?"),
        (&["serve", "--edg"], "did you mean --edge-triggered?"),
        (&["serve", "--wrokers", "2"], "did you mean --workers?"),
        (&["connect", "--frame", "7"], "did you mean --frames?"),
    ];
    for (args, hint) in cases {
        let line = refusal(2, args);
        assert!(line.contains(hint) && line.contains("--help'"), "{line}");
    }
    let line = refusal(2, &["serve", "--quux"]);
    assert!(!line.contains("did you mean"), "{line}");
}

#[test]
fn a_surplus_or_missing_argument_is_named() {
    assert!(refusal(2, &["serve", "7007"]).contains("unexpected argument '7007'"));
    assert!(refusal(2, &["connect", "7", "8"]).contains("unexpected argument '8'"));
    assert!(refusal(2, &["connect"]).contains("ADDRESS"));
    assert!(refusal(2, &["serve", "--workers=1", "--workers=2"]).contains("--workers is given twice"));
    assert!(refusal(2, &["connect", "7", "--max-frame=9"]).contains("needs --frames"));
}

#[test]
fn a_value_out_of_range_is_named_with_the_range() {
    let whole = [
        ("--workers", "0", "1 to 1024"),
        ("--workers", "1025", "1 to 1024"),
        ("--workers", "two", "1 to 1024"),
        ("--backlog", "0", "1 to 2147483647"),
        ("--backlog", "2147483648", "1 to 2147483647"),
        ("--delay-ms", "86400001", "0 to 86400000"),
        ("--delay-ms", "1.5", "0 to 86400000"),
        ("--max-frame", "0", "1 to 1G"),
        ("--max-frame", "2G", "1 to 1G"),
        ("--max-frame", "K", "1 to 1G"),
        ("--max-frame", "1KiB", "1 to 1G"),
        ("--max-frame", "é", "1 to 1G"),
        ("--max-frame", "99999999999999999999G", "1 to 1G"),
        ("--drain-timeout", "-1", "0 to 86400"),
        ("--drain-timeout", "86401", "0 to 86400"),
        ("--drain-timeout", "NaN", "0 to 86400"),
        ("--drain-timeout", "inf", "0 to 86400"),
        ("--drain-timeout", "5s", "0 to 86400"),
    ];
    for (name, value, range) in whole {
        let line = refusal(2, &["serve", name, value]);
        assert!(line.contains(&format!("{name} '{value}': ")) && line.contains(range), "{line}");
    }
    let line = refusal(2, &["connect", "7", "--connect-timeout=0"]);
    assert!(line.contains("0.001 to 86400"), "{line}");
}

#[test]
fn the_ends_of_every_range_are_allowed() {
    let sets = [
        "--workers=1 --backlog=1 --delay-ms=0 --max-frame=1 --drain-timeout=0",
        "--workers=1024 --backlog=2147483647 --delay-ms=86400000 --max-frame=1G --drain-timeout=86400",
        "--max-frame=1048576k --drain-timeout=0.25 --edge-triggered --trace",
    ];
    for set in sets {
        // The wrong address keeps the server from starting and is found last.
        let args: Vec<&str> = ["serve"].into_iter().chain(set.split(' ')).chain(["--echo=nowhere"]).collect();
        let line = refusal(2, &args);
        assert!(line.contains("--echo 'nowhere': no port"), "{line}");
    }
}

#[test]
fn a_wrong_address_is_told_how_to_be_right() {
    let cases = [
        ("::1:7", "write [::1]:7"),
        ("localhost", "write localhost:PORT"),
        ("127.0.0.1:65536", "0 to 65535"),
        (":7", "write 127.0.0.1:7"),
        ("", "write HOST:PORT"),
        ("unix:", "write unix:/run/name.sock"),
    ];
    for service in ["echo", "discard", "chargen", "frames", "log", "delay"] {
        for (address, hint) in cases {
            let line = refusal(2, &["serve", &format!("--{service}"), address]);
            assert!(line.contains(&format!("--{service} '{address}': ")), "{line}");
            assert!(line.contains(hint), "{line}");
        }
    }
    for (address, hint) in cases {
        assert!(refusal(2, &["connect", address]).contains(hint));
    }
    assert!(refusal(2, &["connect", "127.0.0.1:0"]).contains("port 0"));
}

/// A label has at most 63 letters, so that the resolver knows the answer without asking anyone.
#[test]
fn an_unknown_host_is_a_failure_not_a_wrong_command_line() {
    let host = "x".repeat(64);
    let address = format!("{host}:7");
    for args in [&["serve", "--echo", &address][..], &["connect", &address]] {
        let line = refusal(1, args);
        assert!(line.contains(&format!("cannot find the host '{host}': ")), "{line}");
    }
}

#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    let line = refusal(2, &[OsStr::new("connect"), OsStr::from_bytes(b"unix:/\xff")]);
    assert!(line.contains("is not UTF-8"), "{line}");
}

#[test]
fn an_argument_cannot_start_a_second_line() {
    let line = refusal(2, &["connect", "a\nb\x1b[2J"]);
    assert!(line.contains("a\\nb\\u{1b}[2J"), "{line}");
    refusal(2, &["x\ny"]);
    refusal(2, &["serve", "--workers", "1\n2"]);
    refusal(2, &["serve", "--\n"]);
}

#[test]
fn a_reader_that_has_gone_changes_nothing() {
    let gone = || {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        writer
    };
    for (args, code) in [(&["--help"][..], 0), (&["--version"], 0), (&["serve", "--quux"], 2)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eagain"));
        let child = command.args(args).stdin(Stdio::null()).stdout(gone()).stderr(gone());
        assert_eq!(child.status().expect("the program starts").code(), Some(code), "{args:?}");
    }
}

#[test]
fn closed_standard_descriptors_change_nothing() {
    for (args, code) in [("--help", 0), ("--quux", 2)] {
        let line = r#"exec "$0" "$1" <&- >&- 2>&-"#;
        let mut command = Command::new("sh");
        command.args(["-c", line, env!("CARGO_BIN_EXE_eagain"), args]);
        assert_eq!(command.status().expect("sh").code(), Some(code));
    }
}
