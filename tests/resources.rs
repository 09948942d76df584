//! What the server does when something runs out, and what it takes: descriptors, memory, the accept queue.
#![cfg(feature = "cli")]

mod common;
#[path = "common/pressure.rs"]
mod pressure;

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use pressure::*;

in_every_setup! {
    out_of_descriptors_it_waits_quietly_and_serves_all_in_the_end,
    out_of_descriptors_a_close_lets_the_next_one_in,
    out_of_descriptors_resets_in_the_queue_hurt_nobody,
    idle_connections_cost_at_most_128_bytes,
    churn_leaves_no_memory_and_no_descriptor_behind,
    soft_limit_on_descriptors_is_raised_and_said,
}

// Threads have a limit of their own, and what each of them costs is another matter.
in_one_thread! {
    out_of_descriptors_it_waits_quietly_and_serves_all_in_the_end,
    out_of_descriptors_a_close_lets_the_next_one_in,
    out_of_descriptors_resets_in_the_queue_hurt_nobody,
    churn_leaves_no_memory_and_no_descriptor_behind,
}

/// The program under limits on open files of its own: `prlimit` of util-linux turns into it.
fn with_nofile(soft: u32, hard: u32) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={soft}:{hard}")).arg(program());
    command
}

/// `eagain serve` with room for `limit` descriptors altogether.
#[track_caller]
fn serve_within(limit: u32, setup: Setup, more: &[&str]) -> Server {
    let setup = setup.args();
    let args: Vec<&str> = setup.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Server::start_as(with_nofile(limit, limit), &args)
}

/// Connects `count` clients, more than the server has descriptors for, each with a request on its way.
#[track_caller]
fn crowd_with_requests(server: &Server, count: usize) -> Vec<TcpStream> {
    let crowd: Vec<TcpStream> = (0..count).map(|_| connect(server.addr("echo"))).collect();
    crowd.iter().enumerate().for_each(|(index, client)| send(client, &request_of(index)));
    wait_until("the server has used all of its descriptors", || server.fd_count() >= 60);
    crowd
}

fn request_of(index: usize) -> Vec<u8> {
    pattern(24, index as u64)
}

/// The server must not burn time while it can accept nobody: at most 5 % of one processor over two seconds.
#[track_caller]
fn assert_quiet_for_two_seconds(server: &Server) {
    let before = server.cpu_ticks();
    thread::sleep(Duration::from_secs(2));
    let used = server.cpu_ticks() - before;
    assert!(used <= 10, "{used} ticks of 10 ms in 2 s without descriptors");
}

fn out_of_descriptors_it_waits_quietly_and_serves_all_in_the_end(setup: Setup) {
    let mut server = serve_within(64, setup, &["--echo", ANY]);
    let fds = fds_at_rest(&server);
    let crowd = crowd_with_requests(&server, 200);
    assert_quiet_for_two_seconds(&server);
    let lines = server.stderr().lines().count();
    assert!(lines <= 20, "{lines} lines on standard error");
    server.assert_running();
    // Those who are in are served as before.
    wait_until("40 of 200 are answered with 64 descriptors", || crowd.iter().filter(|c| has_answer(c)).count() >= 40);
    let (inside, waiting): (Vec<_>, Vec<_>) = crowd.into_iter().enumerate().partition(|(_, client)| has_answer(client));
    for (index, client) in &inside {
        expect(client, &request_of(*index));
        exchange(client, b"as before");
    }
    // As they go one by one, everyone else gets a turn.
    drop(inside);
    for (index, client) in waiting {
        expect(&client, &request_of(index));
        half_close(&client);
        expect_to_end(&client, b"");
    }
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    let lines = server.stderr().lines().count();
    assert!(lines <= 40, "{lines} lines on standard error");
    server.assert_running();
}

/// Something has arrived, without waiting for it.
fn has_answer(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let outcome = client.peek(&mut [0]);
    client.set_nonblocking(false).unwrap();
    matches!(outcome, Ok(1))
}

fn out_of_descriptors_a_close_lets_the_next_one_in(setup: Setup) {
    let server = serve_within(64, setup, &["--echo", ANY, "--frames", ANY]);
    let mut crowd = crowd_with_requests(&server, 100);
    // No new connection comes any more that could wake the listener: only the closes can.
    for _ in 0..10 {
        let (inside, waiting): (Vec<_>, Vec<_>) = crowd.into_iter().partition(has_answer);
        if waiting.is_empty() {
            return;
        }
        let start = Instant::now();
        drop(inside);
        crowd = waiting;
        wait_until("one of those who wait is served", || crowd.iter().any(has_answer));
        // It is served at once; this is for the machine alone.
        assert!(start.elapsed() < DEADLINE / 3, "it took {:?} after the closes", start.elapsed());
        let answered = |crowd: &[TcpStream]| crowd.iter().filter(|client| has_answer(client)).count();
        wait_until("all that there is room for are served", || answered(&crowd) >= crowd.len().min(40));
    }
    panic!("{} clients still wait after ten rounds", crowd.len());
}

fn out_of_descriptors_resets_in_the_queue_hurt_nobody(setup: Setup) {
    let mut server = serve_within(64, setup, &["--echo", ANY]);
    let fds = fds_at_rest(&server);
    let crowd = crowd_with_requests(&server, 200);
    for (index, client) in crowd.into_iter().enumerate() {
        match index % 3 {
            0 => rst(client),
            1 => drop(client),
            _ => {
                expect(&client, &request_of(index));
            }
        }
    }
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    ping(server.addr("echo"), b"ping");
    server.assert_running();
}

fn idle_connections_cost_at_most_128_bytes(setup: Setup) {
    idle_connections_cost_at_most(128, setup);
}

/// A receive waits on each, and owns its buffer.
#[test]
fn an_idle_connection_of_a_completion_port_costs_at_most_a_kib() {
    idle_connections_cost_at_most(1024, Setup { edge_triggered: false, workers: 1, model: Some("completion") });
}

#[track_caller]
fn idle_connections_cost_at_most(most: u64, setup: Setup) {
    // Noise: pages of code that are first used here, and tables that grow by doubling.
    const NOISE: u64 = 256 * 1024;
    let _turn = one_crowd_at_a_time();
    let count = 5000.min(raise_nofile_limit() / 4);
    for service in ["--echo", "--frames"] {
        let server = setup.serve(&[service, ANY]);
        let (address, request) = (server.addr(&service[2..]), frame(&pattern(60, 1)));
        // Both workers have served someone.
        (0..20).for_each(|_| ping(address, &request));
        wait_until_at_rest(&server);
        let before = server.rss();
        let clients: Vec<TcpStream> = (0..count).map(|_| connect(address)).collect();
        wait_until_at_rest(&server);
        let bound = most * count + NOISE;
        let silent = server.rss().saturating_sub(before);
        for client in &clients {
            send(client, &request);
            expect(client, &request);
        }
        wait_until_at_rest(&server);
        let echoed = server.rss().saturating_sub(before);
        println!("{setup:?} {service}: {} B, {} B each", silent / count, echoed / count);
        assert!(silent <= bound, "{count} connections: {silent} bytes, bound {bound}");
        assert!(echoed <= bound, "{count} connections that have echoed: {echoed} bytes, bound {bound}");
    }
}

fn churn_leaves_no_memory_and_no_descriptor_behind(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let round = |count: usize| {
        for index in 0..count {
            let client = connect(server.addr(["echo", "frames"][index % 2]));
            let request = frame(&pattern(20_000, index as u64));
            exchange(&client, &request);
            if index % 4 == 0 {
                rst(client);
            }
        }
    };
    let fds = fds_at_rest(&server);
    round(300);
    let before = server.rss();
    round(1500);
    server.wait_for_fd_count(fds);
    let growth = server.rss().saturating_sub(before);
    assert!(growth <= 128 * 1024, "{growth} bytes more after 1,500 connections");
    wait_until_at_rest(&server);
}

fn soft_limit_on_descriptors_is_raised_and_said(setup: Setup) {
    let setup = setup.args();
    let mut args: Vec<&str> = setup.iter().map(String::as_str).collect();
    args.extend(["--echo", ANY]);
    let server = Server::start_as(with_nofile(256, 4096), &args);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["4096", "4096"], "soft and hard limit");
    wait_until("standard error names the limit", || server.stderr().lines().any(|line| line.contains("4096")));
    // More than the old limit really fit.
    let clients: Vec<TcpStream> = (0..300).map(|_| connect(server.addr("echo"))).collect();
    clients.iter().for_each(|client| exchange(client, b"served"));
}

#[test]
fn too_few_descriptors_to_start_are_an_error_on_one_line() {
    let mut started = 0;
    for limit in 4..16 {
        let args = ["--workers", "2", "--echo", ANY];
        let mut server = Server::spawn_as(with_nofile(limit, limit), &args);
        wait_until("it listens or it ends", || server.stdout().contains("listening echo") || server.has_ended());
        if !server.has_ended() {
            started += 1;
            continue;
        }
        let status = server.wait_for_exit();
        let stderr = server.stderr();
        if stderr.contains("error while loading shared libraries") {
            continue;
        }
        assert_eq!(status.code(), Some(1), "exit with {limit} descriptors; {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(!stderr.is_empty());
    }
    assert!(started > 0, "15 descriptors are not enough");
}

/// `net.core.somaxconn` of this network namespace.
fn somaxconn() -> u64 {
    fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap()
}

/// The accept queue's real limit of the listener at `address`: Send-Q of `ss -ltn`. `None` where there is no `ss`.
fn accept_queue_limit(address: &str) -> Option<u64> {
    let output = Command::new("ss").args(["-ltnH"]).output().ok()?;
    let table = String::from_utf8(output.stdout).unwrap();
    // State, Recv-Q, Send-Q, local address, peer.
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(3) == Some(&address)).map(|row| row[2].parse().unwrap()).min()
}

#[test]
fn backlog_that_the_kernel_clips_is_warned_of() {
    let server = Server::start(&["--backlog", "1000000", "--echo", ANY]);
    wait_until("standard error names net.core.somaxconn and its value", || {
        let stderr = server.stderr();
        stderr.contains("net.core.somaxconn") && stderr.contains(&somaxconn().to_string())
    });
    match accept_queue_limit(server.addr("echo")) {
        Some(limit) => assert_eq!(limit, somaxconn()),
        None => println!("not tested: the accept queue's limit, for want of ss (Debian package iproute2)"),
    }
    ping(server.addr("echo"), b"ping");
}

#[test]
fn backlog_is_what_was_asked_for_or_all_that_the_kernel_allows() {
    let asked = Server::start(&["--backlog", "7", "--echo", ANY]);
    let default = Server::start(&["--echo", ANY]);
    match (accept_queue_limit(asked.addr("echo")), accept_queue_limit(default.addr("echo"))) {
        (Some(asked), Some(default)) => assert_eq!((asked, default), (7, somaxconn())),
        _ => println!("not tested: no ss (Debian package iproute2)"),
    }
    for server in [asked, default] {
        ping(server.addr("echo"), b"ping");
        assert!(!server.stderr().contains("somaxconn"), "a warning without a reason: {}", server.stderr());
    }
}
