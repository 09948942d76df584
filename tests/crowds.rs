//! Many clients at once: none is lost at accept, none starves, none hears what was meant for another, and those that
//! say nothing cost nothing.
#![cfg(feature = "cli")]

mod common;
#[path = "common/pressure.rs"]
mod pressure;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use pressure::*;

in_every_setup! {
    connects_all_at_once_are_all_answered,
    connect_request_and_fin_at_once_lose_nothing,
    one_byte_segments_from_hundreds_of_clients,
    clients_that_pipeline_64_kib_at_once,
    long_streams_arrive_whole,
    flooding_neighbours_starve_nobody,
    silent_clients_and_a_talker,
    idle_connections_cost_no_time,
    answers_reach_their_own_client_while_others_come_and_go,
    idle_connections_among_resets_stay,
    stopping_and_continuing_the_process_loses_nothing,
}

/// As many clients as were asked for, or as the limits of this machine allow: they all wait in one accept queue, and
/// two tests run at a time, each end of a connection with a descriptor of its own.
fn crowd(wanted: usize) -> usize {
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let queue: usize = somaxconn.trim().parse().unwrap();
    let descriptors = raise_nofile_limit() as usize / 4;
    let count = wanted.min(queue).min(descriptors);
    if count < wanted {
        println!("{count} clients instead of {wanted}: net.core.somaxconn {queue}, descriptors {descriptors}");
    }
    count
}

#[track_caller]
fn connect_all(address: &str, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(address)).collect()
}

/// A request that no other client of the test sends.
fn request_of(index: usize) -> Vec<u8> {
    pattern(16, index as u64 + 1000)
}

fn connects_all_at_once_are_all_answered(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo");
    let fds = fds_at_rest(&server);
    let count = crowd(3000);
    // First behind one wake-up, then as fast as one client can.
    let stopped = while_stopped(&server, || connect_all(address, count));
    every_one_is_answered(&stopped);
    drop(stopped);
    server.wait_for_fd_count(fds);
    every_one_is_answered(&connect_all(address, count));
    server.wait_for_fd_count(fds);
    // Small crowds as well: each number of clients around a budget.
    for count in 1..=40 {
        let stopped = while_stopped(&server, || connect_all(address, count));
        every_one_is_answered(&stopped);
    }
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
}

#[track_caller]
fn every_one_is_answered(clients: &[TcpStream]) {
    for (index, client) in clients.iter().enumerate() {
        send(client, &request_of(index));
    }
    for (index, client) in clients.iter().enumerate() {
        expect(client, &request_of(index));
    }
}

fn connect_request_and_fin_at_once_lose_nothing(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY, "--discard", ANY]);
    let fds = fds_at_rest(&server);
    let at_once = |service: &str, index: usize| {
        let request = frame(&request_of(index));
        let client = connect(server.addr(service));
        send(&client, &request);
        half_close(&client);
        (client, if service == "discard" { Vec::new() } else { request })
    };
    for service in ["echo", "frames", "discard"] {
        for index in 0..200 {
            let (client, answer) = at_once(service, index);
            expect_to_end(&client, &answer);
        }
        let stopped = while_stopped(&server, || (0..300).map(|index| at_once(service, index)).collect::<Vec<_>>());
        for (client, answer) in &stopped {
            expect_to_end(client, answer);
        }
    }
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
}

fn one_byte_segments_from_hundreds_of_clients(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let echo = connect_all(server.addr("echo"), 200);
    let frames = connect_all(server.addr("frames"), 200);
    let requests: Vec<Vec<u8>> = (0..200).map(|index| frame(&request_of(index))).collect();
    for at in 0..requests[0].len() {
        for (index, request) in requests.iter().enumerate() {
            send(&echo[index], &request[at..=at]);
            send(&frames[index], &request[at..=at]);
        }
    }
    for (index, request) in requests.iter().enumerate() {
        expect(&echo[index], request);
        expect(&frames[index], request);
    }
    // In step as well: each byte is answered before the next one is sent.
    let lone = connect(server.addr("echo"));
    for byte in pattern(300, 1) {
        send(&lone, &[byte]);
        expect(&lone, &[byte]);
    }
    wait_until_at_rest(&server);
}

fn clients_that_pipeline_64_kib_at_once(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let small_frames: Vec<u8> = (0..1024).flat_map(|seed| frame(&pattern(60, seed))).collect();
    assert_eq!(small_frames.len(), 64 * 1024);
    let clients: Vec<TcpStream> = (0..200).map(|index| connect(server.addr(["echo", "frames"][index % 2]))).collect();
    thread::scope(|scope| {
        for part in clients.chunks(50) {
            let small_frames = &small_frames;
            scope.spawn(move || {
                part.iter().for_each(|client| send(client, small_frames));
                part.iter().for_each(half_close);
                part.iter().for_each(|client| expect_to_end(client, small_frames));
            });
        }
    });
    wait_until_at_rest(&server);
}

fn long_streams_arrive_whole(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let block = frame(&pattern(700_001, 11));
    let times = 24;
    thread::scope(|scope| {
        for service in ["echo", "frames"] {
            let (server, block) = (&server, &block);
            scope.spawn(move || {
                let client = connect(server.addr(service));
                thread::scope(|scope| {
                    scope.spawn(|| {
                        (0..times).for_each(|_| send(&client, block));
                        half_close(&client);
                    });
                    assert_eq!(compare_to_end(&client, block), times * block.len());
                });
            });
        }
    });
    wait_until_at_rest(&server);
}

/// Sends as fast as the kernel takes it and reads as fast as it comes, until `stop`. Adds what came back to `passed`.
fn flood(client: &TcpStream, bytes: &[u8], passed: &AtomicUsize, stop: &AtomicBool) {
    thread::scope(|scope| {
        scope.spawn(|| while (&*client).write_all(bytes).is_ok() {});
        let mut chunk = vec![0; 64 * 1024];
        while !stop.load(Ordering::Relaxed) {
            match (&*client).read(&mut chunk) {
                Ok(count @ 1..) => passed.fetch_add(count, Ordering::Relaxed),
                other => panic!("a flooding client was cut off: {other:?}"),
            };
        }
        client.shutdown(Shutdown::Both).unwrap();
    });
}

/// Stops the flood when the test is over, also where it has failed.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn flooding_neighbours_starve_nobody(setup: Setup) {
    const PINGS_EACH: usize = 25;
    let server = setup.serve(&["--echo", ANY, "--frames", ANY, "--chargen", ANY]);
    let bytes = frame(&pattern(1000, 12)).repeat(64);
    let (passed, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop_at_the_end = StopOnDrop(&stop);
        // Two of each kind, so that with two workers each of them most likely has its flood.
        for service in ["echo", "echo", "frames", "frames", "chargen", "chargen"] {
            let client = connect(server.addr(service));
            // Chargen takes what it is sent and throws it away; this one only reads.
            let bytes = if service == "chargen" { &[] } else { &bytes[..] };
            let (passed, stop) = (&passed, &stop);
            if bytes.is_empty() {
                scope.spawn(move || read_on(&client, passed, stop));
            } else {
                scope.spawn(move || flood(&client, bytes, passed, stop));
            }
        }
        wait_until("the flood runs", || passed.load(Ordering::Relaxed) > 4 << 20);
        let start = Instant::now();
        let pingers = connect_all(server.addr("echo"), 8);
        for (round, pinger) in (0..PINGS_EACH).flat_map(|round| pingers.iter().map(move |pinger| (round, pinger))) {
            send(pinger, &request_of(round));
            expect(pinger, &request_of(round));
            // A liveness bound: with a fair server all pings together take well under a second. On a busy machine two
            // dozen of such floods share two processors; who is starved waits for ever.
            assert!(start.elapsed() < DEADLINE, "8 clients have {round} pings answered in {DEADLINE:?}");
        }
    });
    wait_until_at_rest(&server);
}

/// Reads as fast as it comes, until `stop`.
fn read_on(client: &TcpStream, passed: &AtomicUsize, stop: &AtomicBool) {
    let mut chunk = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        match (&*client).read(&mut chunk) {
            Ok(count @ 1..) => passed.fetch_add(count, Ordering::Relaxed),
            other => panic!("a reading client was cut off: {other:?}"),
        };
    }
}

fn silent_clients_and_a_talker(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let fds = fds_at_rest(&server);
    let silent: Vec<TcpStream> = (0..500).map(|index| connect(server.addr(["echo", "frames"][index % 2]))).collect();
    let talker = connect(server.addr("echo"));
    for round in 0..200 {
        exchange(&talker, &request_of(round));
    }
    wait_until_at_rest(&server);
    silent.iter().for_each(expect_silence);
    drop((silent, talker));
    server.wait_for_fd_count(fds);
}

fn idle_connections_cost_no_time(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let mut clients = Vec::new();
    for service in ["echo", "frames"] {
        for index in 0..crowd(500) {
            let client = connect(server.addr(service));
            if index % 2 == 0 {
                exchange(&client, &frame(&request_of(index)));
            }
            clients.push(client);
        }
    }
    wait_until_at_rest(&server);
    let before = activity(&server);
    thread::sleep(Duration::from_secs(1));
    let after = activity(&server);
    assert_eq!(before, after, "(ticks, context switches) before and after a second in which nothing happened");
}

fn answers_reach_their_own_client_while_others_come_and_go(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo").to_owned();
    let fds = fds_at_rest(&server);
    thread::scope(|scope| {
        for thread in 0..6 {
            let address = &address;
            scope.spawn(move || {
                let mut kept = Vec::new();
                for round in 0..200 {
                    let request = request_of(thread * 1000 + round);
                    let client = connect(address);
                    send(&client, &request);
                    match round % 4 {
                        0 => rst(client),
                        1 => drop(client),
                        2 => {
                            half_close(&client);
                            expect_to_end(&client, &request);
                        }
                        _ => {
                            expect(&client, &request);
                            kept.push((client, request));
                        }
                    }
                }
                for (client, request) in kept {
                    exchange(&client, &request);
                }
            });
        }
    });
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    server.assert_running();
}

fn idle_connections_among_resets_stay(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo");
    let (stay, go): (Vec<_>, Vec<_>) =
        connect_all(address, 400).into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
    go.into_iter().for_each(|(_, client)| rst(client));
    let newcomers = connect_all(address, 200);
    every_one_is_answered(&newcomers);
    for (index, client) in &stay {
        exchange(client, &request_of(*index));
    }
}

fn stopping_and_continuing_the_process_loses_nothing(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY]);
    let clients = connect_all(server.addr("echo"), 10);
    every_one_is_answered(&clients);
    for _ in 0..20 {
        // A wait that is interrupted by SIGCONT returns EINTR (signal(7)).
        while_stopped(&server, || ());
        every_one_is_answered(&clients);
    }
    wait_until_at_rest(&server);
    server.assert_running();
}
