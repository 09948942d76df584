//! What `eagain serve` says on stderr: `--log-format`, `--log-level`, and how much of a flood.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use common::*;
use nix::sys::signal::Signal;
use serde_json::Value;

const LEVELS: [(&str, u64); 5] = [("error", 3), ("warning", 4), ("notice", 5), ("info", 6), ("debug", 7)];
/// More than a frame may have.
const TOO_LONG: &[u8] = &u32::MAX.to_be_bytes();
const JSON: [&str; 2] = ["--log-format", "json"];

/// A file of this test alone, removed at its end.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("eagain-logs-{}-{name}", std::process::id())));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn json(more: &[&str]) -> Server {
    Server::start(&[&JSON[..], more].concat())
}

/// Every line of stderr so far is one object. The last one may be unfinished as long as the server runs.
#[track_caller]
fn lines(server: &Server) -> Vec<Value> {
    let said = server.stderr();
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

/// Lines of an event, and those that were only counted.
#[track_caller]
fn told_and_counted(lines: &[Value], event: &str) -> (u64, u64) {
    let counted = of(lines, "more").into_iter().filter(|line| line["of"] == event);
    (of(lines, event).len() as u64, counted.map(|line| line["count"].as_u64().unwrap()).sum())
}

#[track_caller]
fn wait_for(server: &Server, message: &str) {
    wait_until(message, || lines(server).iter().any(|line| line["message"].as_str().unwrap().contains(message)));
}

/// Waits until the server has closed it.
fn drain(mut client: &TcpStream) {
    let _ = client.read_to_end(&mut Vec::new());
}

fn local(client: &TcpStream) -> String {
    client.local_addr().unwrap().to_string()
}

/// Everything that a server with one worker has told before this can be read after it: its lines stay in order, and the
/// log service writes whatever the level.
#[track_caller]
fn pass_a_line(server: &Server) {
    let peer = local(&connect(server.addr("log")));
    wait_until("a line has passed", || {
        of(&lines(server), "log").iter().any(|line| line["what"] == "offline" && line["peer"] == *peer)
    });
}

// ---- a line -------------------------------------------------------------------------------------------------------

#[test]
fn every_line_is_an_object_with_its_time_level_priority_and_message() {
    let start = SystemTime::now();
    let mut server = json(&["--echo", ANY, "--log", ANY, "--frames", ANY, "--trace", "--log-level", "debug"]);
    exchange(&connect(server.addr("echo")), b"hello");
    for (service, bytes) in [("log", &b"hello"[..]), ("frames", TOO_LONG)] {
        let client = connect(server.addr(service));
        send(&client, bytes);
        client.shutdown(Shutdown::Write).unwrap();
        drain(&client);
    }
    assert!(server.terminate().success());
    let lines = lines(&server);
    for line in &lines {
        let time = line["time"].as_str().unwrap();
        assert_eq!((time.len(), &time[10..11], &time[26..]), ("2026-11-21T03:14:27.123456Z".len(), "T", "Z"));
        let time = humantime::parse_rfc3339(time).unwrap();
        // A microsecond is cut off, not rounded.
        assert!(time + std::time::Duration::from_micros(1) >= start && time <= SystemTime::now(), "{line}");
        let level = (line["level"].as_str().unwrap(), line["priority"].as_u64().unwrap());
        assert!(LEVELS.contains(&level), "{line}");
        assert!(!line["message"].as_str().unwrap().is_empty(), "{line}");
    }
    for event in ["open", "close", "log", "frame", "trace"] {
        assert!(!of(&lines, event).is_empty(), "no line of the event {event}");
    }
}

#[test]
fn why_it_does_not_start_is_an_object_too() {
    let taken = TcpListener::bind(ANY).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut server = Server::spawn(&[&JSON[..], &["--log-level", "error", "--echo", &address]].concat());
    assert_eq!(server.wait_for_exit().code(), Some(1));
    let lines = lines(&server);
    assert_eq!((lines.len(), &lines[0]["level"]), (1, &"error".into()));
    assert!(lines[0]["message"].as_str().unwrap().contains(&address), "{lines:?}");
}

#[test]
fn what_a_client_sends_commands_neither_the_terminal_nor_the_format() {
    let server = json(&["--log", ANY]);
    let client = connect(server.addr("log"));
    let sent = "\x1b[2J\x1b]0;x\x07\u{9b}31m\"}\n{\"level\":\"error\"}\r\\\0\x7f\u{202e}";
    send(&client, sent.as_bytes());
    wait_for(&server, "received");
    assert!(!server.stderr().contains(|c: char| c.is_control() && c != '\n'), "{}", server.stderr());
    let lines = lines(&server);
    let line = of(&lines, "log").into_iter().find(|line| line["what"] == "received").unwrap();
    assert_eq!((&line["peer"], line["bytes"].as_u64()), (&local(&client).into(), Some(sent.len() as u64)));
    assert_eq!(line["level"], "info");
    // Whoever decodes it gets nothing else.
    let message = line["message"].as_str().unwrap();
    assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{message:?}");
    assert!(message.contains(r"\x1b[2J") && message.contains(r#"\"}\n{\"level\":"#), "{message}");
}

#[test]
fn an_argument_that_is_none_is_told() {
    for (option, value, expected) in
        [("--log-level", "loud", "error, warning, notice, info or debug"), ("--log-format", "xml", "text or json")]
    {
        let output = Command::new(program()).args(["serve", option, value]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(said.contains(&format!("{option} '{value}': expected {expected}")), "{said}");
    }
}

#[test]
fn in_the_journal_a_line_has_its_priority_in_front_json_too() {
    // The journal is whatever JOURNAL_STREAM names: here the pipe to this test.
    const EXEC: &str = r#"JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$0" "$@""#;
    for format in ["text", "json"] {
        let mut command = Command::new("sh");
        command.args(["-c", EXEC, &program()]);
        let more = ["--echo", ANY, "--backlog", "2000000000", "--log-format", format];
        let mut server = Server::start_as(command, &more);
        wait_until("it serves", || server.stderr().contains("serving"));
        assert!(server.terminate().success());
        let said = server.stderr();
        let mut priorities: Vec<u64> = Vec::new();
        for line in said.lines() {
            let (priority, rest) = line.strip_prefix('<').and_then(|line| line.split_once('>')).expect(line);
            let priority = priority.parse().unwrap();
            priorities.push(priority);
            assert!(!rest.starts_with("eagain:"), "{line}");
            if format == "json" {
                let object: Value = serde_json::from_str(rest).unwrap();
                assert_eq!(object["priority"].as_u64(), Some(priority), "{line}");
            }
        }
        priorities.sort_unstable();
        priorities.dedup();
        // The backlog is cut, it serves, it drains.
        assert_eq!(priorities, [4, 5, 6], "{said}");
    }
}

// ---- the level ----------------------------------------------------------------------------------------------------

#[test]
fn a_level_shows_itself_and_what_matters_more() {
    for (at, (level, _)) in LEVELS.into_iter().enumerate() {
        let file = Temporary::new(level, "");
        let more = ["--log-level", level, "--config", file.path(), "--backlog", "2000000000", "--echo", ANY];
        let mut server = json(&more);
        exchange(&connect(server.addr("echo")), b"a connection is worth debug");
        file.write("nonsense");
        server.signal(Signal::SIGHUP);
        wait_for(&server, "not reloaded");
        assert!(server.terminate().success());
        let lines = lines(&server);
        let told: Vec<&str> = lines.iter().map(|line| line["level"].as_str().unwrap()).collect();
        for (other, (name, _)) in LEVELS.into_iter().enumerate() {
            assert_eq!(told.contains(&name), other <= at, "{name} at {level}: {told:?}");
        }
    }
}

#[test]
fn the_log_service_shows_what_it_is_for_at_every_level() {
    let server = json(&["--log", ANY, "--log-level", "error"]);
    let client = connect(server.addr("log"));
    send(&client, b"hello");
    drop(client);
    wait_for(&server, "offline");
    let lines = lines(&server);
    let what: Vec<&str> = lines.iter().map(|line| line["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["connected", "received", "offline"]);
}

#[test]
fn sighup_changes_the_level_of_a_running_server() {
    const JSON: &str = "log-format = \"json\"\n";
    let file = Temporary::new("sighup", &format!("log-level = \"info\"\n{JSON}"));
    let mut server = Server::start(&["--config", file.path(), "--echo", ANY, "--log", ANY, "--workers", "1"]);
    let reload = |text: &str, answer: &str| {
        file.write(text);
        server.signal(Signal::SIGHUP);
        wait_for(&server, answer);
    };
    let before = connect(server.addr("echo"));
    exchange(&before, b"not told");
    pass_a_line(&server);
    assert_eq!(told_and_counted(&lines(&server), "open"), (0, 0));

    reload(&format!("log-level = \"debug\"\n{JSON}"), "reloaded");
    let between = connect(server.addr("echo"));
    exchange(&between, b"told");
    let (before_name, between_name) = (local(&before), local(&between));
    drop(before);
    wait_until("its end is told", || told_and_counted(&lines(&server), "close").0 == 1);
    let told = lines(&server);
    assert_eq!(of(&told, "open")[0]["peer"], *between_name);
    let end = of(&told, "close")[0];
    assert_eq!((&end["peer"], &end["seconds"]), (&before_name.into(), &Value::Null), "its beginning was not noted");

    reload("log-level = \"warning\"\nlog-format = \"text\"\n", "a restart is needed to change log-format");
    exchange(&connect(server.addr("echo")), b"told: nothing is changed");
    wait_until("its end is told", || told_and_counted(&lines(&server), "close").0 == 2);
    file.write(&format!("log-level = \"warning\"\n{JSON}"));
    server.signal(Signal::SIGHUP);
    // No line tells that, by request. The first connection that is not told does.
    wait_until("the level is changed", || {
        let client = connect(server.addr("echo"));
        exchange(&client, b"told or not");
        pass_a_line(&server);
        !of(&lines(&server), "open").iter().any(|line| line["peer"] == *local(&client))
    });
    drop(between);
    assert!(server.terminate().success());
    let told = lines(&server);
    assert!(!of(&told, "close").iter().any(|line| line["peer"] == *between_name), "its end is not told");
    assert!(!told.iter().any(|line| line["message"].as_str().unwrap().contains("draining")), "that was a notice");
}

// ---- connections --------------------------------------------------------------------------------------------------

/// Connections of every service that end in every way that a client can choose.
fn visit(server: &Server) -> BTreeMap<String, (&'static str, &'static str)> {
    let mut expected = BTreeMap::new();
    let mut note = |client: &TcpStream, service, end| expected.insert(local(client), (service, end));
    for service in ["echo", "discard", "frames", "log", "delay", "metrics"] {
        let client = connect(server.addr(service));
        note(&client, service, "finished");
        client.shutdown(Shutdown::Write).unwrap();
        drain(&client);
    }
    let client = connect(server.addr("chargen"));
    note(&client, "chargen", "broken");
    expect(&client, b" ");
    rst(client);
    let client = connect(server.addr("frames"));
    note(&client, "frames", "finished");
    send(&client, TOO_LONG);
    drain(&client);
    expected
}

fn at_debug_each_connection_has_a_line_when_it_opens_and_one_when_it_closes(setup: Setup) {
    let mut server = setup.serve(
        &[
            &JSON[..],
            &["--log-level", "debug", "--echo", ANY, "--discard", ANY, "--chargen", ANY, "--frames", ANY],
            &["--log", ANY, "--delay", ANY, "--metrics", ANY],
        ]
        .concat(),
    );
    let expected = visit(&server);
    let stays = connect(server.addr("echo"));
    exchange(&stays, b"until the end");
    server.signal(Signal::SIGTERM);
    drain(&stays);
    drop(stays);
    assert!(server.wait_for_exit().success());

    let lines = lines(&server);
    let (opened, closed) = (of(&lines, "open"), of(&lines, "close"));
    assert_eq!((opened.len(), closed.len()), (expected.len() + 1, expected.len() + 1));
    for open in opened {
        let pair: Vec<_> = closed.iter().filter(|close| close["connection"] == open["connection"]).collect();
        assert_eq!(pair.len(), 1, "{open}");
        assert_eq!((&pair[0]["peer"], &pair[0]["service"]), (&open["peer"], &open["service"]));
        assert!(pair[0]["seconds"].as_f64().unwrap() >= 0.0);
    }
    for (peer, (service, end)) in expected {
        let close = closed.iter().find(|close| close["peer"] == *peer).unwrap();
        assert_eq!((close["service"].as_str(), close["end"].as_str()), (Some(service), Some(end)));
        match end {
            "broken" => assert_eq!(close["detail"], "ECONNRESET"),
            _ => assert_eq!(close["detail"], Value::Null),
        }
    }
}

fn a_timeout_is_told_by_its_option_and_was_not_early(setup: Setup) {
    let server =
        setup.serve(&[&JSON[..], &["--log-level", "debug", "--first-byte-timeout", "0.5", "--echo", ANY]].concat());
    drain(&connect(server.addr("echo")));
    wait_until("its end is told", || !of(&lines(&server), "close").is_empty());
    let lines = lines(&server);
    let close = of(&lines, "close")[0];
    assert_eq!((&close["end"], &close["detail"]), (&"timed_out".into(), &"first-byte-timeout".into()));
    assert!(close["seconds"].as_f64().unwrap() >= 0.5, "{close}");
}

in_every_setup! {
    at_debug_each_connection_has_a_line_when_it_opens_and_one_when_it_closes,
    a_timeout_is_told_by_its_option_and_was_not_early,
}

#[test]
fn people_read_the_same_as_text() {
    let server = Server::start(&["--log-level", "debug", "--echo", ANY]);
    let client = connect(server.addr("echo"));
    let peer = local(&client);
    exchange(&client, b"hello");
    drop(client);
    wait_until("its end is told", || server.stderr().contains(" closed after "));
    let said = server.stderr();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(&peer)).collect();
    assert!(lines[0].starts_with(&format!("eagain: echo: {peer} connected as ")), "{said}");
    assert!(lines[1].starts_with(&format!("eagain: echo: {peer} as ")) && lines[1].ends_with(" s: finished"), "{said}");
}

#[test]
fn behind_a_proxy_the_clients_address_is_told() {
    let server = json(&["--log-level", "debug", "--echo", ANY, "--proxy-protocol"]);
    let client = connect(server.addr("echo"));
    send(&client, b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 7\r\n");
    exchange(&client, b"hello");
    drop(client);
    wait_until("its end is told", || told_and_counted(&lines(&server), "close").0 == 1);
    for line in lines(&server).iter().filter(|line| line["event"] != Value::Null) {
        assert_eq!(line["peer"], "192.0.2.7:1234");
    }
}

// ---- a flood ------------------------------------------------------------------------------------------------------

#[test]
fn a_flood_of_frames_that_are_too_long_is_some_lines_and_a_number_that_add_up() {
    let mut server = json(&["--frames", ANY]);
    let flood = |count: usize| {
        for _ in 0..count {
            let client = connect(server.addr("frames"));
            send(&client, TOO_LONG);
            drain(&client);
        }
    };
    flood(50);
    // Whoever writes sleeps; then comes what is only counted, without another line and without the end.
    server.wait_until_at_rest();
    flood(250);
    wait_until("the rest is told when the time is over", || {
        let (told, counted) = told_and_counted(&lines(&server), "frame");
        told + counted == 300
    });
    let said = lines(&server);
    let summaries = of(&said, "more");
    let told = of(&said, "frame").len();
    assert!(told >= 50 && told <= 50 * (summaries.len() + 1), "{told} lines, {} summaries", summaries.len());
    for summary in summaries {
        assert!(summary["seconds"].as_f64().unwrap() >= 5.0, "{summary}");
        assert_eq!((&summary["level"], &summary["of"]), (&"info".into(), &"frame".into()));
        let text = format!("frames refused: {} more like this in the last ", summary["count"]);
        assert!(summary["message"].as_str().unwrap().starts_with(&text), "{summary}");
    }
    // A new window; its rest is told at the end.
    flood(100);
    assert!(server.terminate().success());
    let (told, counted) = told_and_counted(&lines(&server), "frame");
    assert_eq!(told + counted, 400);
    assert!(counted >= 100, "only {counted} were not written");
}

#[test]
fn the_lines_of_a_crowd_are_bounded_and_add_up() {
    let mut server = json(&["--log-level", "debug", "--echo", ANY]);
    for _ in 0..1000 {
        exchange(&connect(server.addr("echo")), b"hello");
    }
    assert!(server.terminate().success());
    let lines = lines(&server);
    for event in ["open", "close"] {
        let (told, counted) = told_and_counted(&lines, event);
        assert_eq!(told + counted, 1000, "{event}");
        assert!(told >= 200 && counted > 0, "{event}: {told} lines, {counted} counted");
    }
}

#[test]
fn clients_that_are_not_let_in_are_told_with_the_reason() {
    for (options, reason, message) in [
        (&["--deny", "127.0.0.0/8"][..], "denied", "its address may not connect"),
        (&["--deny", "127.0.0.0/8", "--proxy-protocol"], "denied", "its address may not connect"),
        (&["--max-connections-per-ip", "1"], "max-connections-per-ip", "--max-connections-per-ip is reached"),
        (&["--max-connections", "1"], "max-connections", "--max-connections is reached"),
    ] {
        let mut server = json(&[&["--echo", ANY][..], options].concat());
        let inside = connect(server.addr("echo"));
        if reason == "denied" {
            drain(&inside);
        } else {
            exchange(&inside, b"in");
        }
        for _ in 0..100 {
            drain(&connect(server.addr("echo")));
        }
        drop(inside);
        assert!(server.terminate().success());
        let lines = lines(&server);
        let (told, counted) = told_and_counted(&lines, "turned_away");
        assert_eq!(told + counted, if reason == "denied" { 101 } else { 100 });
        assert!(told >= 50 && counted > 0, "{told} lines, {counted} counted");
        for line in of(&lines, "turned_away") {
            assert_eq!((&line["reason"], &line["level"]), (&reason.into(), &"notice".into()));
            assert_eq!(line["service"], "echo");
            assert!(line["message"].as_str().unwrap().contains(message), "{line}");
        }
    }
}

#[test]
fn a_flood_of_connections_without_a_proxy_header_is_bounded_too() {
    let mut server = json(&["--echo", ANY, "--proxy-protocol"]);
    for _ in 0..100 {
        let client = connect(server.addr("echo"));
        send(&client, b"GET / HTTP/1.0\r\n\r\n");
        drain(&client);
    }
    assert!(server.terminate().success());
    let lines = lines(&server);
    let (told, counted) = told_and_counted(&lines, "proxy_header");
    assert_eq!(told + counted, 100);
    assert!(told >= 50 && counted > 0, "{told} lines, {counted} counted");
    assert!(of(&lines, "proxy_header")[0]["reason"].as_str().unwrap().starts_with("no PROXY protocol header"));
}
