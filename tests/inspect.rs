//! `eagain inspect`, of this very process, of a server of ours, and of one of somebody else.

mod common;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{ANY, Server, program};
use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

fn inspect(words: &[&str]) -> Output {
    Command::new(program()).arg("inspect").args(words).stdin(Stdio::null()).output().expect("the program starts")
}

#[track_caller]
fn shown(words: &[&str]) -> String {
    let output = inspect(words);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The lines about one epoll of this process: the tests of this file share it.
fn of_this_process(epoll: &Epoll) -> Vec<String> {
    let picture = shown(&[&std::process::id().to_string()]);
    let head = format!("epoll {}: ", epoll.as_fd().as_raw_fd());
    let part = picture.split("\n\n").find(|part| part.trim_start().starts_with(&head)).expect("our epoll");
    part.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn each_registration_has_its_file_its_mode_its_events_and_its_data() {
    let epoll = Epoll::new().unwrap();
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let eventfd = EventFd::new().unwrap();
    eventfd.write(3).unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    epoll.add(&listener, 0xab, Interest::READ, Mode::EDGE).unwrap();
    epoll.add(&eventfd, 1, Interest::READ | Interest::WRITE, Mode::LEVEL).unwrap();
    epoll.add(&reader, 2, Interest::NONE, Mode::LEVEL).unwrap();
    assert_eq!(
        of_this_process(&epoll),
        [
            format!("{} tcp {address} listening ET IN 0xab", listener.as_raw_fd()),
            format!("{} eventfd of 3 LT IN|OUT 0x1", eventfd.as_fd().as_raw_fd()),
            format!("{} pipe LT 0 0x2", reader.as_raw_fd()),
        ]
    );
}

#[test]
fn a_connection_has_both_addresses_and_its_state() {
    let listener = TcpListener::bind(ANY).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (served, peer) = listener.accept().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&served, 0, Interest::READ, Mode::LEVEL).unwrap();
    let own = listener.local_addr().unwrap();
    let expected = format!("{} tcp {own} - {peer} established LT IN 0x0", served.as_raw_fd());
    assert_eq!(of_this_process(&epoll), [expected]);
    drop(client);
}

#[test]
fn a_registration_whose_number_was_closed_is_shown_as_such() {
    let epoll = Epoll::new().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let _duplicate = reader.try_clone().unwrap();
    epoll.add(&reader, 0, Interest::READ, Mode::LEVEL).unwrap();
    drop(reader);
    let lines = of_this_process(&epoll);
    assert!(lines[0].contains(" closed here, and alive in a duplicate (inode "), "{lines:?}");
}

#[test]
fn a_oneshot_registration_that_has_fired_is_told_from_one_that_waits() {
    let epoll = Epoll::new().unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    epoll.add(&reader, 0, Interest::READ, Mode::LEVEL.oneshot()).unwrap();
    assert!(of_this_process(&epoll)[0].ends_with(" pipe LT IN|ONESHOT 0x0"));
    writer.write_all(b"x").unwrap();
    assert_eq!(epoll.wait(&mut Events::with_capacity(1), Timeout::After(common::DEADLINE)), Ok(1));
    assert!(of_this_process(&epoll)[0].ends_with(" pipe LT ONESHOT (fired) 0x0"));
}

#[test]
fn files_of_the_kernel_are_told_with_what_they_are_about() {
    let epoll = Epoll::new().unwrap();
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR2);
    signals.add(Signal::SIGWINCH);
    let signalfd = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK).unwrap();
    let netlink = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, None).unwrap();
    // Only from its first message on it has an address, and stands in a table.
    netlink.send(&[0; 16]).unwrap();
    epoll.add(&signalfd, 1, Interest::READ, Mode::LEVEL).unwrap();
    epoll.add(&netlink, 2, Interest::READ, Mode::LEVEL).unwrap();
    let lines = of_this_process(&epoll);
    let expected = [
        format!("{} signalfd of SIGUSR2, SIGWINCH LT IN 0x1", signalfd.as_fd().as_raw_fd()),
        format!("{} netlink route LT IN 0x2", netlink.as_raw_fd()),
    ];
    assert_eq!(lines, expected);
}

/// A name that anybody may choose must not command the terminal of who looks.
#[test]
fn a_name_with_control_characters_is_escaped() {
    let name = format!("\u{1b}[31m-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let epoll = Epoll::new().unwrap();
    listener.set_nonblocking(true).unwrap();
    epoll.add(&listener, 0, Interest::READ, Mode::LEVEL).unwrap();
    let shown = name.replace('\u{1b}', "\\u{1b}");
    let expected = format!("{} unix stream @{shown} listening LT IN 0x0", listener.as_raw_fd());
    assert_eq!(of_this_process(&epoll), [expected]);
}

#[test]
fn an_epoll_in_an_epoll_is_drawn_below_it() {
    let (outer, inner) = (Epoll::new().unwrap(), Epoll::new().unwrap());
    let (reader, _writer) = std::io::pipe().unwrap();
    outer.add(&inner, 0, Interest::READ, Mode::LEVEL).unwrap();
    inner.add(&reader, 0, Interest::READ, Mode::LEVEL).unwrap();
    let picture = shown(&[&std::process::id().to_string()]);
    let [outer, inner] = [&outer, &inner].map(|epoll| epoll.as_fd().as_raw_fd());
    let line = picture.find(&format!("\nepoll {outer}: 1 registered\n")).expect("the outer one, at the margin");
    let below = picture.find(&format!("\n    epoll {inner}: 1 registered\n")).expect("the inner one, further in");
    assert!(line < below, "{picture}");
}

#[test]
fn the_data_of_our_own_server_are_shown_by_what_they_mean() {
    let server = Server::start(&["--workers", "1", "--edge-triggered", "--echo", ANY]);
    let client = common::connect(server.addr("echo"));
    common::exchange(&client, b"x");
    let picture = shown(&[&server.pid().to_string()]);
    let has = |words: [&str; 4]| picture.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has(["tcp 127.0.0.1:", " listening", "ET  IN", "listener 0"]), "{picture}");
    assert!(has([" established", "ET  IN|PRI|OUT|RDHUP", "slot 0", "generation 0"]), "{picture}");
    assert!(has(["eventfd", "ET", "IN", "the worker's mailbox"]), "{picture}");
}

#[test]
fn json_says_the_same_to_a_program() {
    let epoll = Epoll::new().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    epoll.add(&reader, 7, Interest::READ, Mode::EDGE).unwrap();
    let id = std::process::id();
    let picture: Value = serde_json::from_str(&shown(&["--json", &id.to_string()])).expect("JSON");
    assert_eq!(picture["pid"], id);
    let number = epoll.as_fd().as_raw_fd();
    let ours = picture["epolls"].as_array().and_then(|all| all.iter().find(|epoll| epoll["fd"] == number));
    let entry = &ours.expect("our epoll")["registrations"][0];
    assert_eq!((&entry["fd"], &entry["mode"]), (&reader.as_raw_fd().into(), &"ET".into()));
    assert_eq!((&entry["events"], &entry["data"], &entry["ghost"]), (&"IN".into(), &"0x7".into(), &false.into()));
}

#[test]
fn what_cannot_be_shown_is_told_in_one_line() {
    let mut idle = Command::new("sleep").arg("60").spawn().expect("sleep");
    let cases = [
        ("4000000000", 1, "there is no process 4000000000"),
        (&idle.id().to_string(), 1, "has no epoll"),
        ("x", 2, "expected the number of a process"),
        ("0", 2, "expected the number of a process"),
    ];
    for (word, code, said) in cases {
        let output = inspect(&[word]);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{word}: {line}");
        assert!(line.contains(said) && line.lines().count() == 1, "{word}: {line}");
    }
    idle.kill().expect("it is ours");
    idle.wait().expect("it is ours");
}

#[test]
fn a_process_that_is_over_and_a_thread_of_the_kernel_are_told_from_one_without_an_epoll() {
    let mut over = Command::new("true").spawn().expect("true");
    let id = over.id().to_string();
    let stat = || std::fs::read_to_string(format!("/proc/{id}/stat")).expect("nobody has waited for it");
    common::wait_until("it has ended", || stat().contains(") Z "));
    let own = std::process::id();
    let said = format!("process {id} (true) has ended, and its parent, process {own}, has not waited for it");
    let mut cases = vec![(id.as_str(), said)];
    // In a container there is none to be seen.
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        cases.push(("2", "process 2 (kthreadd) is a thread of the kernel".to_owned()));
    }
    for (word, said) in cases {
        let output = inspect(&[word]);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.contains(&said), "{line}");
    }
    over.wait().expect("it is ours");
}

#[test]
fn who_may_not_look_is_told_what_to_do() {
    if !nix::unistd::geteuid().is_root() {
        return common::not_tested("to become another user needs root");
    }
    use std::os::unix::process::CommandExt;
    // /tmp is open to the other user, the directory of the build may not be.
    let copy = std::env::temp_dir().join(format!("eagain-inspect-{}", std::process::id()));
    // By another process: a child of this one, started by another test meanwhile, would have the copy open for writing
    // until its exec, and what somebody writes cannot be executed (ETXTBSY, execve(2)).
    let copied = Command::new("install").args(["--mode=755", &program()]).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()), "install of coreutils");
    let mut command = Command::new(&copy);
    let output = command.args(["inspect", &std::process::id().to_string()]).uid(65_534).gid(65_534).output().unwrap();
    std::fs::remove_file(copy).expect("it is ours");
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.contains("belongs to somebody else: run this as its user, or as root"), "{line}");
}

/// A process that ends with the test.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_live_redis_shows_its_listener_and_its_client() {
    let free = common::FreePort::new();
    let port = free.address().port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let Ok(redis) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        return common::not_tested("no redis-server");
    };
    let redis = Other(redis);
    let deadline = Instant::now() + common::DEADLINE;
    let client = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    common::send(&client, b"PING\r\n");
    common::expect(&client, b"+PONG\r\n");
    let picture = shown(&[&redis.0.id().to_string()]);
    assert!(picture.contains(&format!("tcp 127.0.0.1:{port} listening")), "{picture}");
    let own = client.local_addr().unwrap();
    assert!(picture.contains(&format!("tcp 127.0.0.1:{port} - {own} established")), "{picture}");
}
