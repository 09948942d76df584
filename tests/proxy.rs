//! `--proxy-protocol`: headers through sockets, and the real HAProxy in front.
#![cfg(feature = "cli")]

mod common;

#[path = "proxy/haproxy.rs"]
mod haproxy;

use std::io::Read;
use std::net::TcpStream;

use common::*;

in_every_setup! {
    a_header_may_come_in_pieces,
    what_follows_a_header_at_once_is_served,
    the_log_names_the_client,
    a_service_that_speaks_first_waits_for_the_header,
    a_small_input_limit_holds_behind_the_header,
    garbage_is_closed_without_an_answer,
    a_header_that_is_cut_off_is_said,
    health_checks_disturb_nobody,
    clients_that_send_no_header_cost_nothing,
    timeouts_hold_for_the_header,
    unix_listeners_expect_it_too,
}

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5678 7007\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for 203.0.113.9:4321, with a TLV (NOOP) behind the addresses.
fn binary() -> Vec<u8> {
    let addresses = [203, 0, 113, 9, 198, 51, 100, 1, 0x10, 0xe1, 0x1b, 0x5f];
    let tlv = [4, 0, 2, 0xab, 0xcd];
    [SIGNATURE, &[0x21, 0x11, 0, 17], &addresses, &tlv].concat()
}

/// What HAProxy sends in front of a health check.
fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

fn serve(setup: Setup, more: &[&str]) -> Server {
    setup.serve(&[&["--proxy-protocol"], more].concat())
}

/// Waits for a line of the log service that begins with the address of the client.
#[track_caller]
fn wait_for_log(server: &Server, address: &str, what: &str) {
    let line = format!("log: {address} {what}");
    wait_until(&format!("standard error has \"{line}\""), || server.stderr().contains(&line));
}

/// Fails unless the server ends the connection without a byte; a reset is an end too.
#[track_caller]
fn expect_to_be_closed(mut client: &TcpStream) {
    match client.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
}

fn a_header_may_come_in_pieces(setup: Setup) {
    let server = serve(setup, &["--echo", ANY]);
    for header in [LINE.to_vec(), binary(), local()] {
        let clients: Vec<TcpStream> = (0..=header.len()).map(|_| connect(server.addr("echo"))).collect();
        for (cut, client) in clients.iter().enumerate() {
            send(client, &header[..cut]);
        }
        server.wait_until_at_rest();
        for (cut, client) in clients.iter().enumerate() {
            expect_silence(client);
            send(client, &header[cut..]);
        }
        server.wait_until_at_rest();
        for client in &clients {
            expect_silence(client);
            send(client, b"data");
            expect(client, b"data");
            half_close(client);
            expect_to_end(client, b"");
        }
    }
}

fn what_follows_a_header_at_once_is_served(setup: Setup) {
    let server = serve(setup, &["--echo", ANY]);
    for header in [LINE.to_vec(), binary(), local()] {
        let message = pattern(300_000, 1);
        let client = connect(server.addr("echo"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                send(&client, &[&header[..], &message].concat());
                half_close(&client);
            });
            expect_to_end(&client, &message);
        });
    }
}

fn the_log_names_the_client(setup: Setup) {
    let server = serve(setup, &["--log", ANY]);
    for (header, address) in [(LINE.to_vec(), "192.0.2.7:5678"), (binary(), "203.0.113.9:4321")] {
        let client = connect(server.addr("log"));
        send(&client, &header);
        wait_for_log(&server, address, "connected");
        send(&client, b"hello");
        wait_for_log(&server, address, "received 5 bytes \"hello\"");
        half_close(&client);
        wait_for_log(&server, address, "offline");
        assert!(!server.stderr().contains(&client.local_addr().unwrap().to_string()));
    }
    let client = connect(server.addr("log"));
    send(&client, &local());
    wait_for_log(&server, &client.local_addr().unwrap().to_string(), "connected");
}

fn a_service_that_speaks_first_waits_for_the_header(setup: Setup) {
    let server = serve(setup, &["--chargen", ANY]);
    let mut client = connect(server.addr("chargen"));
    server.wait_until_at_rest();
    expect_silence(&client);
    send(&client, LINE);
    // Many times what is written at once: it must go on.
    let mut wheel = vec![0; 5_000_000];
    client.read_exact(&mut wheel).unwrap();
    assert!(wheel.starts_with(b" !\"#"));
    assert!(wheel.chunks_exact(74).all(|line| line.ends_with(b"\r\n")));
}

fn a_small_input_limit_holds_behind_the_header(setup: Setup) {
    let server = serve(setup, &["--max-frame", "16", "--frames", ANY]);
    let frames = frame(b"sixteen letters.").repeat(2000);
    let client = connect(server.addr("frames"));
    send(&client, &[LINE, &frames].concat());
    half_close(&client);
    expect_to_end(&client, &frames);
}

fn garbage_is_closed_without_an_answer(setup: Setup) {
    let mut server = serve(setup, &["--echo", ANY, "--chargen", ANY]);
    let binary = binary();
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 05678 7007\r\n",
        &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        &[&binary[..12], b"\x31"].concat(),
        &pattern(300_000, 1),
    ];
    for service in ["echo", "chargen"] {
        for bytes in garbage {
            let client = connect(server.addr(service));
            // The server may close before all is sent.
            let _ = std::io::Write::write_all(&mut &client, bytes);
            expect_to_be_closed(&client);
            let from = client.local_addr().unwrap();
            wait_until("the reason is said", || server.stderr().contains(&format!("closing {from}: ")));
        }
    }
    server.assert_running();
}

fn a_header_that_is_cut_off_is_said(setup: Setup) {
    let server = serve(setup, &["--echo", ANY]);
    let client = connect(server.addr("echo"));
    send(&client, &LINE[..20]);
    half_close(&client);
    expect_to_be_closed(&client);
    let line = format!("closing {}: the PROXY protocol header is cut off", client.local_addr().unwrap());
    wait_until("the reason is said", || server.stderr().contains(&line));
}

fn health_checks_disturb_nobody(setup: Setup) {
    let mut server = serve(setup, &["--echo", ANY]);
    let other = connect(server.addr("echo"));
    send(&other, LINE);
    exchange(&other, b"there");
    server.wait_until_at_rest();
    let before = server.fd_count();
    for round in 0..200 {
        let check = connect(server.addr("echo"));
        match round % 4 {
            0 => {}
            1 => send(&check, &local()),
            2 => send(&check, &local()[..7]),
            _ => send(&check, &binary()),
        }
        if round < 100 {
            rst(check);
        }
    }
    server.wait_for_fd_count(before);
    exchange(&other, b"still there");
    server.assert_running();
    // Only a FIN in the middle of a header is worth a line: 25 of them.
    let lines = || server.stderr().lines().filter(|line| line.contains("closing")).count();
    wait_until("the headers that were cut off are said", || lines() == 25);
}

fn clients_that_send_no_header_cost_nothing(setup: Setup) {
    let server = serve(setup, &["--echo", ANY]);
    let silent: Vec<TcpStream> = (0..100).map(|_| connect(server.addr("echo"))).collect();
    for client in &silent[..50] {
        send(client, &LINE[..30]);
    }
    server.wait_until_idle();
    let client = connect(server.addr("echo"));
    send(&client, &binary());
    exchange(&client, &pattern(100_000, 2));
}

fn timeouts_hold_for_the_header(setup: Setup) {
    let server = serve(setup, &["--echo", ANY, "--first-byte-timeout", "0.2", "--frame-timeout", "0.2"]);
    // The server finds them with what they have sent: a busy machine may hold us up for longer than a timeout.
    server.pause();
    let [silent, slow, quiet] = [0; 3].map(|_| connect(server.addr("echo")));
    send(&quiet, LINE);
    send(&slow, &LINE[..20]);
    server.resume();
    expect_to_be_closed(&silent);
    expect_to_be_closed(&slow);
    // Whoever has sent a header has said something.
    exchange(&quiet, b"still there");
}

fn unix_listeners_expect_it_too(setup: Setup) {
    let name = format!("unix:@eagain-proxy-{}-{}-{}", std::process::id(), setup.edge_triggered, setup.workers);
    let server = serve(setup, &["--log", &name]);
    let client = connect_unix(&name);
    send(&client, LINE);
    wait_for_log(&server, "192.0.2.7:5678", "connected");
}
