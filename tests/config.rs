//! `--config FILE`, `--check`, and SIGHUP.
#![cfg(feature = "cli")]

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::*;
use nix::sys::signal::Signal;

/// A file of this test alone, removed at its end.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = Self(std::env::temp_dir().join(format!("eagain-config-{}-{number}.toml", std::process::id())));
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

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn check(text: &str, more: &[&str]) -> (Output, String) {
    let file = File::new(text);
    let mut command = Command::new(program());
    command.args(["serve", "--check", "--config", file.path()]).args(more);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr.clone()).unwrap().replace(file.path(), "FILE");
    (output, said)
}

/// The file is refused with one line.
#[track_caller]
fn refused(text: &str) -> String {
    let (output, said) = check(text, &[]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn a_file_that_is_right_is_said_to_be_right_and_nothing_is_served() {
    let text = "echo = [\"127.0.0.1:0\", \"unix:@x\"]\nframes = \"0\"\nworkers = 2\nedge-triggered = true\n\
                trace = false\nidle-timeout = 2.5\nmax-frame = \"64K\"\nmax-connections = 10\n";
    let (output, said) = check(text, &[]);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    assert_eq!(output.stdout, b"the options are right\n");
}

#[test]
fn an_error_names_the_file_and_the_line() {
    for (text, expected) in [
        ("workers = 1\n\nidle-timeuot = 3\n", "FILE:3: unknown key 'idle-timeuot'; did you mean idle-timeout?"),
        ("# first\nworkers = 0\n", "FILE:2: "),
        ("workers = 1\nworkers = 2\n", "FILE:2: duplicate key"),
        ("workers = \n", "FILE:1: "),
        ("echo = [\"127.0.0.1:0\",\n  \"127.0.0.1\"]\n", "FILE:1: "),
        ("idle-timeout = \"soon\"\n", "FILE:1: "),
        ("trace = \"yes\"\n", "FILE:1: trace: expected true or false"),
        ("\ntrace = \"--check\"\n", "FILE:2: trace: expected true or false"),
        ("idle-timeout = true\n", "FILE:1: "),
        ("config = \"other.toml\"\n", "FILE:1: unknown key 'config'"),
        ("[echo]\naddress = \"7\"\n", "FILE:1: echo: expected a string, a number, true, false or a list"),
    ] {
        let said = refused(text);
        assert!(said.starts_with(&format!("eagain: {expected}")), "{text:?}: {said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_one_line() {
    let output = Command::new(program()).args(["serve", "--config", "/nonexistent/eagain.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"eagain: /nonexistent/eagain.toml: no such file or directory\n");
}

#[test]
fn an_option_on_the_command_line_replaces_its_key() {
    let file = File::new("discard = \"127.0.0.1:0\"\necho = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nworkers = 1\n");
    let server = Server::start(&["--config", file.path(), "--echo", "127.0.0.1:0"]);
    exchange(&connect(server.addr("echo")), b"served");
    let listening = || -> Vec<String> {
        server.stdout().lines().filter_map(|line| Some(line.split(' ').nth(1)?.to_owned())).collect()
    };
    wait_until("both are told", || listening().len() == 2);
    assert_eq!(listening(), ["echo", "discard"]);
}

#[test]
fn every_option_of_the_command_line_has_its_key() {
    let help = Command::new(program()).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut keys = 0;
    for line in help.lines().filter_map(|line| line.trim_start().strip_prefix("--")) {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap();
        if matches!(key, "config" | "check" | "help") {
            continue;
        }
        let value = match words.next() {
            Some("ADDRESS") => "\"127.0.0.1:0\"",
            Some("N" | "SECONDS" | "BYTES") => "7",
            Some("CIDR") => "\"10.0.0.0/8\"",
            Some("HOW") => "\"exclusive\"",
            Some("LEVEL") => "\"debug\"",
            Some("FORMAT") => "\"json\"",
            Some("NAME") => "\"epoll\"",
            _ => "true",
        };
        let (output, said) = check(&format!("{key} = {value}\n"), &[]);
        assert_eq!(output.status.code(), Some(0), "{key} = {value}: {said}");
        keys += 1;
    }
    assert!(keys > 15, "only {keys} options found in the help");
}

#[test]
fn a_reload_changes_limits_and_timeouts_and_disturbs_nobody() {
    let file = File::new("max-connections = 2\n");
    let server = Server::start(&["--config", file.path(), "--echo", "127.0.0.1:0"]);
    let inside = [connect(server.addr("echo")), connect(server.addr("echo"))];
    inside.iter().for_each(|stream| exchange(stream, b"in"));
    file.write("max-connections = 3\n");
    server.signal(Signal::SIGHUP);
    wait_until("the reload is told", || server.stderr().contains("reloaded"));
    exchange(&connect(server.addr("echo")), b"a third");
    inside.iter().for_each(|stream| exchange(stream, b"still in"));

    file.write("idle-timeout = 0.2\n");
    server.signal(Signal::SIGHUP);
    for mut stream in &inside {
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut rest).expect("the new timeout holds for those who are connected");
        assert!(rest.is_empty());
    }
}

#[test]
fn a_bad_file_changes_nothing_and_says_which_line() {
    let file = File::new("max-connections = 1\n");
    let server = Server::start(&["--config", file.path(), "--echo", "127.0.0.1:0"]);
    let inside = connect(server.addr("echo"));
    exchange(&inside, b"in");
    file.write("max-connections = 5\nidle-timeout = -1\n");
    server.signal(Signal::SIGHUP);
    wait_until("the refusal is told", || server.stderr().contains(&format!("{}:2: ", file.path())));
    // The limit of the bad file would let this one in.
    let second = connect(server.addr("echo"));
    let mut nothing = Vec::new();
    let _ = std::io::Read::read_to_end(&mut &second, &mut nothing);
    exchange(&inside, b"still in");
}

#[test]
fn a_reload_that_would_need_a_restart_says_so() {
    let file = File::new("");
    let server = Server::start(&["--config", file.path(), "--echo", "127.0.0.1:0"]);
    file.write("discard = \"127.0.0.1:0\"\nworkers = 3\nbacklog = 7\n");
    server.signal(Signal::SIGHUP);
    wait_until("it is told", || server.stderr().contains("a restart is needed to change workers, backlog"));
    exchange(&connect(server.addr("echo")), b"served on");
    assert!(!server.stdout().contains("discard"), "nothing is changed");
}

#[test]
fn a_reload_opens_and_shuts_listeners_and_disturbs_nobody() {
    // Addresses of this test alone.
    let host = format!("127.{}.{}", 10 + std::process::id() % 200, std::process::id() / 200 % 250);
    let [first, second, third] = [1, 2, 3].map(|last| format!("{host}.{last}:7007"));
    let line = |name: &str, address: &str| format!("{name} = \"{address}\"\n");
    let reload = |server: &Server, file: &File, lines: &[String]| {
        file.write(&lines.concat());
        server.signal(Signal::SIGHUP);
    };
    let is_shut = |address: &str| std::net::TcpStream::connect(address).is_err();
    let file = File::new(&[line("echo", &first), line("frames", &second)].concat());
    let mut server = Server::spawn(&["--config", file.path()]);
    server.wait_until_listening(2);
    let (echo, frames) = (connect(&first), connect(&second));
    exchange(&echo, b"before");
    exchange(&frames, b"\0\0\0\x01x");

    reload(&server, &file, &[line("echo", &third), line("frames", &second), line("discard", &first)]);
    wait_until("the conflict is told", || server.stderr().contains("a restart is needed to have discard instead of"));
    exchange(&connect(&first), b"nothing is changed");

    reload(&server, &file, &[line("echo", &third), line("frames", &second)]);
    wait_until("it listens", || server.stdout().contains(&format!("listening echo {third}")));
    wait_until("the old one is shut", || is_shut(&first));
    exchange(&connect(&third), b"new");
    exchange(&echo, b"who is there stays");
    exchange(&frames, b"\0\0\0\x01y");

    // To and fro, more often than there are places for counters.
    for _ in 0..20 {
        for (to, from) in [(&first, &third), (&third, &first)] {
            reload(&server, &file, &[line("echo", to), line("frames", &second)]);
            wait_until("the old one is shut", || is_shut(from));
            exchange(&connect(to), b"again");
        }
    }
    exchange(&echo, b"still here");
}

#[test]
fn a_listener_that_cannot_be_had_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = File::new("echo = \"127.0.0.1:0\"\n");
    let mut server = Server::spawn(&["--config", file.path()]);
    server.wait_until_listening(1);
    file.write(&format!("echo = \"127.0.0.1:0\"\ndiscard = \"{}\"\n", taken.local_addr().unwrap()));
    server.signal(Signal::SIGHUP);
    wait_until("it is told", || server.stderr().contains("not reloaded, nothing is changed: discard: "));
    exchange(&connect(server.addr("echo")), b"served on");
}
