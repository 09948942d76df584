//! `serve --model`: what is each model's own. That they serve as epoll does is in the tests of the services, of hostile
//! clients and of the shutdown, which run under every model.
#![cfg(feature = "cli")]

mod common;

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use common::*;
use nix::sys::signal::Signal;

in_other_models! {
    nine_hundred_idle_clients_and_one_that_talks,
    above_the_maximum_a_client_is_closed_and_the_others_stay,
    an_idle_server_sleeps,
    a_reload_changes_the_time_of_a_drain_and_nothing_else,
    out_of_descriptors_it_says_so_and_goes_on_when_the_limit_is_raised,
}

/// Whether the server closes the connection without a byte.
fn is_refused(mut client: &TcpStream) -> bool {
    matches!(client.read(&mut [0; 1]), Ok(0) | Err(_))
}

fn nine_hundred_idle_clients_and_one_that_talks(setup: Setup) {
    let _turn = one_crowd_at_a_time();
    raise_nofile_limit();
    let mut server = setup.serve(&["--echo", ANY]);
    server.wait_until_at_rest();
    let fds = server.fd_count();
    let idle: Vec<TcpStream> = (0..900).map(|_| connect(server.addr("echo"))).collect();
    let talker = connect(server.addr("echo"));
    for round in 0..20 {
        exchange(&talker, &pattern(10_000, round));
    }
    // Each of them is still served, in another order than that of their coming.
    for (index, client) in idle.iter().enumerate().rev() {
        exchange(client, &pattern(100, index as u64));
    }
    drop((idle, talker));
    server.wait_for_fd_count(fds);
    server.assert_running();
}

fn above_the_maximum_a_client_is_closed_and_the_others_stay(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--max-connections", "3"]);
    let mut inside: Vec<TcpStream> = (0..3).map(|_| connect(server.addr("echo"))).collect();
    inside.iter().for_each(|client| exchange(client, b"in"));
    assert!(is_refused(&connect(server.addr("echo"))));
    wait_until("it is told", || server.stderr().contains("1 client refused: 3 "));
    assert!(server.stderr().contains("--max-connections"));
    inside.iter().for_each(|client| exchange(client, b"still in"));
    // A place that becomes free is a place.
    drop(inside.pop());
    wait_until("the next one is let in", || {
        let next = connect(server.addr("echo"));
        send(&next, b"x");
        !is_refused(&next)
    });
}

fn an_idle_server_sleeps(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--delay", ANY]);
    let client = connect(server.addr("echo"));
    exchange(&client, b"awake");
    let late = connect(server.addr("delay"));
    send(&late, b"late");
    expect(&late, b"late");
    server.wait_until_idle();
    exchange(&client, b"awake again");
}

fn a_reload_changes_the_time_of_a_drain_and_nothing_else(setup: Setup) {
    let path = std::env::temp_dir().join(format!("eagain-models-{}-{setup:?}.toml", std::process::id()));
    let file = path.to_str().unwrap();
    std::fs::write(&path, "drain-timeout = 50\n").unwrap();
    let mut server = setup.serve(&["--config", file, "--delay", ANY, "--delay-ms", "60000"]);
    let client = connect(server.addr("delay"));
    send(&client, b"due in a minute");
    std::fs::write(&path, "drain-timeout = 0.2\nmax-connections = 1\n").unwrap();
    server.signal(Signal::SIGHUP);
    wait_until("the refusal is told", || server.stderr().contains("a restart is needed to change max-connections"));
    std::fs::write(&path, "drain-timeout = 0.2\n").unwrap();
    server.signal(Signal::SIGHUP);
    wait_until("the reload is told", || server.stderr().contains("reloaded: "));
    server.wait_until_at_rest();
    // It would hold the server for a minute, or 50 seconds.
    assert!(server.terminate().success());
    assert!(server.stderr().contains("draining, for 200ms"), "{}", server.stderr());
    let _ = std::fs::remove_file(&path);
}

/// No connection ends meanwhile: nothing but time lets it try again. There are two listeners, and both have to.
fn out_of_descriptors_it_says_so_and_goes_on_when_the_limit_is_raised(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let inside = connect(server.addr("echo"));
    exchange(&inside, b"in");
    let limit = |soft: usize| {
        let mut command = Command::new("prlimit");
        command.args([format!("--pid={}", server.pid()), format!("--nofile={soft}:")]);
        command.status().is_ok_and(|status| status.success())
    };
    if !limit(server.fd_count()) {
        return not_tested("models without descriptors (prlimit of util-linux)");
    }
    let waiting = ["echo", "frames"].map(|service| connect(server.addr(service)));
    waiting.iter().for_each(|client| send(client, &frame(b"a place")));
    wait_until("it is told", || server.stderr().contains("clients have to wait: "));
    exchange(&inside, b"still in");
    assert!(limit(64));
    waiting.iter().for_each(|client| expect(client, &frame(b"a place")));
}

#[test]
fn select_refuses_whom_it_cannot_watch_and_harms_nobody_else() {
    let _turn = one_crowd_at_a_time();
    if raise_nofile_limit() < 1500 {
        not_tested("descriptor 1024: the hard limit of open files is too low");
        return;
    }
    let mut server = Server::start(&["--model", "select", "--echo", ANY]);
    let mut clients: Vec<TcpStream> = (0..1200).map(|_| connect(server.addr("echo"))).collect();
    let refused = clients.split_off(1000);
    for (index, client) in clients.iter().enumerate() {
        exchange(client, &pattern(50, index as u64));
    }
    // Of the 200 behind them a few still have a descriptor below 1024.
    let above = refused.iter().filter(|client| {
        send_if_open(client);
        is_refused(client)
    });
    assert!((176..200).contains(&above.count()));
    wait_until("it is told", || server.stderr().contains("(FD_SETSIZE)"));
    drop(refused);
    clients.truncate(500);
    // Descriptors are free again.
    wait_until("a new client is served", || {
        let client = connect(server.addr("echo"));
        send_if_open(&client);
        !is_refused(&client)
    });
    clients.iter().for_each(|client| exchange(client, b"still here"));
    server.assert_running();
}

/// A client that has been refused may hear of it only after its first byte.
fn send_if_open(mut client: &TcpStream) {
    let _ = std::io::Write::write_all(&mut client, b"x");
}

#[test]
fn out_of_threads_a_client_is_refused_and_the_others_stay() {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        not_tested("threads that run out: only root can become a user who has none");
        return;
    }
    // A user of its own, whose threads are those of this server alone; and a program that it can read.
    let path = std::env::temp_dir().join(format!("eagain-models-{}", std::process::id()));
    // By another process: a child of this one, started by another test meanwhile, would have the copy open for writing
    // until its exec, and what somebody writes cannot be executed (ETXTBSY, execve(2)).
    let copied = Command::new("install").args(["--mode=755", &program()]).arg(&path).status();
    assert!(copied.is_ok_and(|status| status.success()), "install of coreutils");
    let user = 2_000_000_000 + std::process::id();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    command.args(["prlimit", "--nproc=20:20"]).arg(&path);
    let mut server = Server::start_as(command, &["--model", "threads", "--echo", ANY]);
    std::fs::remove_file(&path).unwrap();
    // The main thread and that of the log have two of the 20.
    let inside: Vec<TcpStream> = (0..18).map(|_| connect(server.addr("echo"))).collect();
    inside.iter().for_each(|client| exchange(client, b"in"));
    assert!((0..30).all(|_| is_refused(&connect(server.addr("echo")))));
    wait_until("it is told", || server.stderr().contains("refused: no thread can be started"));
    inside.iter().for_each(|client| exchange(client, b"still in"));
    server.assert_running();
}

#[test]
fn an_option_that_a_model_does_not_have_is_refused_by_name() {
    let with_value = [
        ("--workers", "1"),
        ("--accept", "exclusive"),
        ("--allow", "10.0.0.0/8"),
        ("--deny", "10.0.0.0/8"),
        ("--metrics", ANY),
        ("--max-connections-per-ip", "1"),
        ("--accept-rate", "1"),
        ("--max-buffered", "1M"),
        ("--idle-timeout", "1"),
        ("--first-byte-timeout", "1"),
        ("--write-timeout", "1"),
        ("--frame-timeout", "1"),
    ];
    let switches = [["--edge-triggered"], ["--proxy-protocol"], ["--trace"]];
    let options = with_value.iter().map(|(name, value)| vec![*name, *value]);
    for option in options.chain(switches.iter().map(|name| name.to_vec())) {
        for model in ["threads", "select", "poll", "completion", "epoll"] {
            let mut command = Command::new(program());
            command.args(["serve", "--check", "--model", model]).args(&option).stdin(Stdio::null());
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            if model == "epoll" {
                assert!(output.status.success(), "{said}");
            } else {
                assert_eq!(output.status.code(), Some(2), "{option:?}: {said}");
                let expected = format!("eagain: {} is of --model epoll, not of --model {model}\n", option[0]);
                assert_eq!(said, expected);
            }
        }
    }
}

#[test]
fn a_manager_that_asks_for_signs_of_life_is_told_that_none_will_come() {
    let socket = std::env::temp_dir().join(format!("eagain-models-notify-{}", std::process::id()));
    let _notify = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let mut command = Command::new(program());
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000000");
    let mut server = Server::spawn_as(command, &["--model", "poll", "--echo", ANY]);
    assert_eq!(server.wait_for_exit().code(), Some(1));
    assert!(server.stderr().contains("only --model epoll feeds a watchdog"), "{}", server.stderr());
    std::fs::remove_file(&socket).unwrap();
}
