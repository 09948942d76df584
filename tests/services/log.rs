//! Log: says on standard error who connects, what they send and when they go; sends nothing.

use std::net::TcpStream;

use crate::common::*;

in_every_model! {
    connect_received_and_offline_are_said_with_the_address,
    a_reset_client_is_offline_too,
    nothing_is_sent_back,
    what_is_not_text_is_escaped,
    nothing_that_moves_a_terminal_reaches_it,
    a_line_cannot_be_forged,
    huge_lines_are_survived,
}

/// Waits for a line on standard error that has `words` and the address of `client` in it, and
/// returns it.
#[track_caller]
fn wait_for_line(server: &Server, client: &str, words: &[&str]) -> String {
    let find = || {
        let said = server.stderr();
        let mut lines = said.lines();
        lines.find(|line| line.contains(client) && words.iter().all(|w| line.contains(w))).map(str::to_owned)
    };
    wait_until(&format!("standard error has a line with {client} and {words:?}"), || find().is_some());
    find().unwrap()
}

fn address_of(client: &TcpStream) -> String {
    client.local_addr().unwrap().to_string()
}

fn connect_received_and_offline_are_said_with_the_address(setup: Setup) {
    let server = setup.serve(&["--log", ANY]);
    let (first, second) = (connect(server.addr("log")), connect(server.addr("log")));
    let (one, two) = (address_of(&first), address_of(&second));
    wait_for_line(&server, &one, &["connect"]);
    wait_for_line(&server, &two, &["connect"]);
    send(&second, b"from the second");
    wait_for_line(&server, &two, &["received", "from the second"]);
    send(&first, b"from the first");
    wait_for_line(&server, &one, &["received", "from the first"]);
    drop(second);
    wait_for_line(&server, &two, &["offline"]);
    let said = server.stderr();
    assert!(!said.lines().any(|line| line.contains(&one) && line.contains("offline")), "{said}");
    half_close(&first);
    wait_for_line(&server, &one, &["offline"]);
}

fn a_reset_client_is_offline_too(setup: Setup) {
    let server = setup.serve(&["--log", ANY]);
    let client = connect(server.addr("log"));
    let address = address_of(&client);
    wait_for_line(&server, &address, &["connect"]);
    rst(client);
    wait_for_line(&server, &address, &["offline"]);
}

fn nothing_is_sent_back(setup: Setup) {
    let server = setup.serve(&["--log", ANY]);
    let client = connect(server.addr("log"));
    send(&client, b"hello?\r\n");
    wait_for_line(&server, &address_of(&client), &["received", "hello?"]);
    expect_silence(&client);
    half_close(&client);
    expect_to_end(&client, b"");
}

fn what_is_not_text_is_escaped(setup: Setup) {
    let server = setup.serve(&["--log", ANY]);
    let client = connect(server.addr("log"));
    send(&client, b"text\nand\tmore\r\x00\x07\xff\xfe\\x41");
    let line = wait_for_line(&server, &address_of(&client), &["received"]);
    for escaped in [r"text\nand\tmore\r", r"\x00\x07", r"\xff\xfe"] {
        assert!(line.contains(escaped), "{escaped} is missing in: {line}");
    }
    // A backslash that was sent does not look like one that escapes.
    assert!(line.contains(r"\\x41"), "{line}");
}

fn nothing_that_moves_a_terminal_reaches_it(setup: Setup) {
    let server = setup.serve(&["--log", ANY]);
    let client = connect(server.addr("log"));
    let every_byte: Vec<u8> = (0..=255).collect();
    for hostile in [&b"\x1b[31mred\x1b]0;title\x07"[..], b"\x9b2J", "\u{9b}2J".as_bytes(), &every_byte, b"the end"] {
        // Each for itself: beside bytes that are not UTF-8 the control characters of UTF-8 would go unseen.
        send(&client, hostile);
        server.wait_until_at_rest();
    }
    half_close(&client);
    wait_for_line(&server, &address_of(&client), &["offline"]);
    assert!(server.stderr().contains("the end"));
    assert_harmless(&server.stderr_bytes());
}

/// UTF-8 without control characters but the newline: neither ASCII's nor those from 0x80 to 0x9f,
/// of which 0x9b begins a sequence in some terminals as ESC [ does.
#[track_caller]
fn assert_harmless(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let raw = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(raw, None, "a control character on standard error");
}

fn a_line_cannot_be_forged(setup: Setup) {
    let server = setup.serve(&["--log", ANY]);
    let client = connect(server.addr("log"));
    send(&client, b"innocent\n192.0.2.1:1 offline\r192.0.2.1:2 offline");
    half_close(&client);
    wait_for_line(&server, &address_of(&client), &["offline"]);
    for line in server.stderr().lines().filter(|line| line.contains("192.0.2.1")) {
        assert!(line.contains(&address_of(&client)), "a line without its sender: {line}");
    }
}

fn huge_lines_are_survived(setup: Setup) {
    let mut server = setup.serve(&["--log", ANY, "--echo", ANY]);
    let before = server.rss();
    let client = connect(server.addr("log"));
    send(&client, &vec![b'a'; 3_000_000]);
    send(&client, &pattern(3_000_000, 1));
    send(&client, b"\nshort");
    wait_until("the end of the input is said", || server.stderr().contains("short"));
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 5_000_000, "the server has grown by {grown} bytes");
    half_close(&client);
    expect_to_end(&client, b"");
    wait_for_line(&server, &address_of(&client), &["offline"]);
    assert_harmless(&server.stderr_bytes());
    let other = connect(server.addr("echo"));
    exchange(&other, b"still there?");
    server.assert_running();
}
