//! The examples, run as they are, with real clients.
//!
//! They are built by `cargo test` (all targets) or `cargo build --examples`.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf =
        [tests.parent().unwrap().parent().unwrap(), "examples".as_ref(), name.as_ref()].iter().collect();
    // Cargo does not build examples for one test alone.
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).with_extension("rs");
    assert!(changed(&path) > changed(&source), "{} is missing or old: cargo build --examples", path.display());
    Command::new(path)
}

/// An example that serves, at a port of the kernel's choice. Killed at the end.
struct Running {
    child: Child,
    address: String,
    lines: Receiver<String>,
}

impl Running {
    #[track_caller]
    fn start(name: &str, more: &[&str]) -> Running {
        Self::start_as(example(name), more)
    }

    #[track_caller]
    fn start_as(mut command: Command, more: &[&str]) -> Running {
        command.arg("127.0.0.1:0").args(more).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines(child.stdout.take().unwrap());
        let first = lines.recv_timeout(PATIENCE).expect("the first line");
        let address = first.rsplit(' ').next().unwrap().to_owned();
        assert!(first.starts_with("listening "), "{first}");
        Running { child, address, lines }
    }

    #[track_caller]
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Clock ticks (10 ms) of processor time so far.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    #[track_caller]
    fn expect_line(&self, wanted: &str) {
        let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line: {wanted}"));
        assert_eq!(line, wanted);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

#[track_caller]
fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut received = vec![0; wanted.len()];
    stream.read_exact(&mut received).unwrap();
    assert!(received == wanted, "{}", received.escape_ascii());
}

/// Closes with an RST.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], payload].concat()
}

#[test]
fn framed_echo_answers_whole_messages_of_any_split_and_survives_a_reset() {
    let server = Running::start("framed_echo", &[]);
    reset(server.connect());
    let mut client = server.connect();
    let stream = [frame(b"first"), frame(b""), frame(b"second")].concat();
    for byte in &stream {
        client.write_all(&[*byte]).unwrap();
    }
    expect(&mut client, &stream);
    // Longer than any socket buffer takes at once.
    let long = frame(&vec![7; 1 << 20]);
    let mut writer = client.try_clone().unwrap();
    let sender = thread::spawn({
        let long = long.clone();
        move || writer.write_all(&long).unwrap()
    });
    expect(&mut client, &long);
    sender.join().unwrap();
    client.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "a length over the cap ends the connection");
}

#[test]
fn epoll_only_gives_back_more_than_the_buffers_take() {
    let server = Running::start("epoll_only", &[]);
    let mut client = server.connect();
    let long: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let sender = thread::spawn({
        let long = long.clone();
        move || {
            writer.write_all(&long).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    expect(&mut client, &long);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    sender.join().unwrap();
}

#[test]
fn edge_logger_sees_everybody_everything_and_every_end() {
    let server = Running::start("edge_logger", &[]);
    let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for client in &clients {
        server.expect_line(&format!("connected {}", client.local_addr().unwrap()));
    }
    let mut first = clients.remove(0);
    drop(clients.remove(0));
    let second = clients.remove(0);
    let line = server.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.starts_with("offline ") && line.ends_with(" end"), "{line}");

    // More than one `recv` takes, and the end behind it.
    let (from, long) = (first.local_addr().unwrap(), vec![b'x'; 100_000]);
    first.write_all(&long).unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    let mut received = 0;
    loop {
        let line = server.lines.recv_timeout(PATIENCE).expect("all of it, and the end");
        match line.strip_prefix(&format!("received {from} ")) {
            Some(bytes) => received += bytes.len(),
            None => break assert_eq!(line, format!("offline {from} end")),
        }
    }
    assert_eq!(received, long.len());

    let from = second.local_addr().unwrap();
    reset(second);
    let line = server.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.starts_with(&format!("offline {from} ")) && line.contains("reset"), "{line}");
}

#[test]
fn select_echo_answers_late_and_all_clients_at_the_same_time() {
    let server = Running::start("select_echo", &["300"]);
    let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    let start = Instant::now();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    for client in &mut clients {
        expect(client, b"hello");
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    // One after the other would be 30 seconds, on any machine; a busy one has needed 3 for ten of them.
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn select_echo_sleeps_when_a_client_has_gone_and_owes_nobody_an_answer() {
    let server = Running::start("select_echo", &["50"]);
    reset(server.connect());
    let mut client = server.connect();
    client.write_all(b"the last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"the last words");
    let before = server.ticks();
    thread::sleep(Duration::from_millis(300));
    assert!(server.ticks() - before <= 5, "it spins");
}

/// The listener stays readable; whoever waits is served when descriptors are free again.
#[test]
fn no_server_spins_when_descriptors_run_out_and_all_serve_afterwards() {
    for (name, more) in [
        ("framed_echo", None),
        ("select_echo", Some("10")),
        ("completion_echo", None),
        ("epoll_only", None),
        ("edge_logger", None),
        ("chat", None),
    ] {
        let mut command = Command::new("prlimit");
        command.arg("--nofile=20:20").arg(example(name).get_program());
        let server = Running::start_as(command, more.as_slice());
        let crowd: Vec<_> = (0..40).map(|_| server.connect()).collect();
        let fds = || std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
        let start = Instant::now();
        while fds() < 20 {
            assert!(start.elapsed() < PATIENCE, "{name}: its descriptors are not used up");
            thread::sleep(Duration::from_millis(5));
        }
        let before = server.ticks();
        thread::sleep(Duration::from_secs(1));
        // Ten tries cost no tick; a loop that spins has some twenty even where many others run.
        assert!(server.ticks() - before <= 2, "{name} spins");
        drop(crowd);
        let mut client = server.connect();
        client.write_all(&frame(b"after")).unwrap();
        match name {
            "edge_logger" => loop {
                let line = server.lines.recv_timeout(PATIENCE).expect("the newcomer's line");
                if line.starts_with("received ") {
                    break;
                }
            },
            "chat" => assert_eq!(client.read(&mut [0; 1]).unwrap(), 1),
            _ => expect(&mut client, &frame(b"after")),
        }
    }
}

#[test]
fn arguments_that_mean_nothing_are_refused_in_words() {
    for (name, arguments, said) in [
        ("framed_echo", &["nonsense"][..], "an IP address and a port"),
        ("chat", &["127.0.0.1"], "an IP address and a port"),
        ("select_echo", &["127.0.0.1:0", "soon"], "DELAY_MS is a number"),
        ("completion_echo", &["127.0.0.1:0", "0"], "THREADS is a number from 1"),
        ("latency_client", &["127.0.0.1:1", "all"], "a number of clients"),
        ("waker", &["shout"], "eventfd, unix or tcp"),
    ] {
        let mut child = example(name).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let status = wait(&mut child);
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.contains(said), "{name}: {stderr}");
    }
}

#[test]
fn edge_logger_ends_with_its_reader() {
    let mut child = example("edge_logger").arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let address = first.trim_end().rsplit(' ').next().unwrap();
    // The pipe is closed by now, but a process that another test has forked a moment ago may hold it until its exec,
    // and a line that is written meanwhile is no error.
    let status = wait_while(&mut child, || drop(TcpStream::connect(address)));
    assert_eq!(status.code(), Some(1));
}

/// The end of a process that ends by itself.
#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
    wait_while(child, || ())
}

/// The same, while something is done again and again.
#[track_caller]
fn wait_while(child: &mut Child, mut act: impl FnMut()) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        act();
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it goes on for ever: {}", child.wait().unwrap());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_waker_loses_no_job() {
    for kind in ["eventfd", "unix", "tcp"] {
        let output = example("waker").arg(kind).output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.starts_with("400 jobs, sum 79800, in "), "{kind}: {line}");
    }
}

#[test]
fn latency_client_measures_every_round_trip() {
    let server = Running::start("framed_echo", &[]);
    let output = example("latency_client").args([&server.address, "20", "50"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("client ")).count(), 20, "{text}");
    assert!(text.contains("\n1000 round trips: mean "), "{text}");
    assert!(text.lines().last().unwrap().starts_with("100 % within "), "{text}");
}

#[test]
fn chat_tells_everybody_what_one_says_and_who_comes_and_goes() {
    let server = Running::start("chat", &[]);
    let mut alice = server.connect();
    let welcome: &[u8] = b"* Welcome. What you write, everybody reads.\n";
    let mut heard = BufReader::new(alice.try_clone().unwrap());
    // Her own coming may be told before or after the greeting.
    let mut line = || {
        let mut line = String::new();
        heard.read_line(&mut line).unwrap();
        line
    };
    let came = format!("* {} has come\n", alice.local_addr().unwrap());
    let mut first = [line(), line()];
    first.sort();
    let mut wanted = [came, String::from_utf8(welcome.to_vec()).unwrap()];
    wanted.sort();
    assert_eq!(first, wanted);
    let bob = server.connect();
    let bobs = bob.local_addr().unwrap();
    assert_eq!(line(), format!("* {bobs} has come\n"));
    (&bob).write_all(b"hel").unwrap();
    (&bob).write_all(b"lo\n").unwrap();
    assert_eq!(line(), format!("{bobs}: hello\n"));
    bob.shutdown(Shutdown::Both).unwrap();
    drop(bob);
    assert_eq!(line(), format!("* {bobs} has gone\n"));
    // A line without an end is shown out.
    let _ = alice.write_all(&[b'x'; 8192]);
    let ended = loop {
        match alice.read(&mut [0; 512]) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(ended);
}
