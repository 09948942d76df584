//! Where services listen: ports, sockets in the file system, abstract names; and how they stop.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::*;

in_every_setup! {
    port_0_is_a_real_port_in_the_listening_line,
    a_service_listens_in_several_places,
    a_bare_port_is_an_address,
    an_ipv6_address_is_named_in_brackets,
    standard_output_has_the_listening_lines_and_nothing_else,
    a_port_in_use_ends_the_start,
    a_socket_file_serves_and_is_removed_at_exit,
    an_abstract_name_serves,
    a_stale_socket_file_is_replaced,
    a_live_socket_file_is_in_use,
    an_abstract_name_in_use_ends_the_start,
    a_file_that_is_no_socket_is_left_alone,
    sigterm_ends_idle_connections_and_the_server,
    sigterm_waits_for_an_answer_that_is_due,
}

in_other_models! {
    a_socket_file_serves_and_is_removed_at_exit,
    an_abstract_name_serves,
    sigterm_ends_idle_connections_and_the_server,
    sigterm_waits_for_an_answer_that_is_due,
}

/// A directory of its own for each test, removed with all that is in it. Short, as a socket's path
/// holds 107 bytes (unix(7)).
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        let path = std::env::temp_dir().join(unique());
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("eagain-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
fn assert_echoes(address: &str) {
    let message = pattern(100_000, 1);
    if address.starts_with("unix:") {
        let client = connect_unix(address);
        for part in message.chunks(10_000) {
            send(&client, part);
            expect(&client, part);
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
        expect_to_end(&client, b"");
    } else {
        let client = connect(address);
        exchange(&client, &message);
        half_close(&client);
        expect_to_end(&client, b"");
    }
}

/// Starts a server that cannot start: it must exit with 1 and say on one line of standard error
/// what is in the way.
#[track_caller]
fn assert_refused(setup: Setup, address: &str, reason: &str) {
    let setup = setup.args();
    let mut args: Vec<&str> = setup.iter().map(String::as_str).collect();
    args.extend(["--echo", address]);
    let mut server = Server::spawn(&args);
    let status = server.wait_for_exit();
    assert_eq!(status.code(), Some(1), "{}", server.stderr());
    assert_eq!(server.stdout(), "", "nothing listens");
    let said = server.stderr().to_lowercase();
    assert!(said.contains(reason), "{reason} is not in: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

fn port_0_is_a_real_port_in_the_listening_line(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames=127.0.0.1:0"]);
    for service in ["echo", "frames"] {
        let (host, port) = server.addr(service).rsplit_once(':').unwrap();
        assert_eq!(host, "127.0.0.1");
        assert_ne!(port.parse::<u16>().unwrap(), 0);
        connect(server.addr(service));
    }
    assert_echoes(server.addr("echo"));
}

fn a_service_listens_in_several_places(setup: Setup) {
    let directory = Directory::new();
    let path = format!("unix:{}", directory.file("echo.sock"));
    let server = setup.serve(&["--echo", ANY, "--echo", ANY, "--discard", ANY, "--echo", &path, "--discard", ANY]);
    let (echo, discard) = (server.addrs("echo"), server.addrs("discard"));
    assert_eq!((echo.len(), discard.len()), (3, 2));
    assert_ne!(echo[0], echo[1]);
    echo.iter().for_each(|address| assert_echoes(address));
    for address in discard {
        let client = connect(address);
        send(&client, b"x");
        half_close(&client);
        expect_to_end(&client, b"");
    }
}

fn a_bare_port_is_an_address(setup: Setup) {
    let server = setup.serve(&["--echo", "0"]);
    assert_echoes(server.addr("echo"));
}

fn an_ipv6_address_is_named_in_brackets(setup: Setup) {
    if TcpListener::bind("[::1]:0").is_err() {
        not_tested("IPv6: this machine has no [::1]");
        return;
    }
    let server = setup.serve(&["--echo", "[::1]:0"]);
    assert!(server.addr("echo").starts_with("[::1]:"), "{}", server.addr("echo"));
    assert_echoes(server.addr("echo"));
}

fn standard_output_has_the_listening_lines_and_nothing_else(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--log", ANY]);
    assert_echoes(server.addr("echo"));
    send(connect(server.addr("log")), b"this goes to standard error");
    let expected = format!("listening echo {}\nlistening log {}\n", server.addr("echo"), server.addr("log"));
    assert!(server.terminate().success());
    assert_eq!(server.stdout(), expected);
}

fn a_port_in_use_ends_the_start(setup: Setup) {
    let taken = TcpListener::bind(ANY).unwrap();
    assert_refused(setup, &taken.local_addr().unwrap().to_string(), "in use");
    // Also where the other is a server of the same kind, whose sockets may be shared among its
    // workers.
    let server = setup.serve(&["--echo", ANY]);
    assert_refused(setup, server.addr("echo"), "in use");
    assert_echoes(server.addr("echo"));
}

fn a_socket_file_serves_and_is_removed_at_exit(setup: Setup) {
    let directory = Directory::new();
    let path = directory.file("echo.sock");
    let mut server = setup.serve(&["--echo", &format!("unix:{path}")]);
    assert_eq!(server.addr("echo"), format!("unix:{path}"));
    assert_echoes(server.addr("echo"));
    assert!(server.terminate().success());
    assert!(!fs::exists(&path).unwrap(), "the socket file has outlived the server");
}

fn an_abstract_name_serves(setup: Setup) {
    let name = format!("unix:@{}", unique());
    let mut server = setup.serve(&["--echo", &name]);
    assert_eq!(server.addr("echo"), name);
    assert_echoes(&name);
    assert!(server.terminate().success());
}

fn a_stale_socket_file_is_replaced(setup: Setup) {
    let directory = Directory::new();
    let path = directory.file("echo.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(fs::exists(&path).unwrap());
    let server = setup.serve(&["--echo", &format!("unix:{path}")]);
    assert_echoes(server.addr("echo"));
}

fn a_live_socket_file_is_in_use(setup: Setup) {
    let directory = Directory::new();
    let address = format!("unix:{}", directory.file("echo.sock"));
    let server = setup.serve(&["--echo", &address]);
    assert_refused(setup, &address, "in use");
    assert_echoes(server.addr("echo"));
}

fn an_abstract_name_in_use_ends_the_start(setup: Setup) {
    let address = format!("unix:@{}", unique());
    let server = setup.serve(&["--echo", &address]);
    assert_refused(setup, &address, "in use");
    assert_echoes(server.addr("echo"));
}

fn a_file_that_is_no_socket_is_left_alone(setup: Setup) {
    let directory = Directory::new();
    let path = directory.file("notes.txt");
    fs::write(&path, "precious").unwrap();
    assert_refused(setup, &format!("unix:{path}"), &path);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

fn sigterm_ends_idle_connections_and_the_server(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--discard", ANY, "--frames", ANY]);
    let idle: Vec<TcpStream> =
        ["echo", "discard", "frames"].into_iter().map(|service| connect(server.addr(service))).collect();
    let used = connect(server.addr("echo"));
    exchange(&used, b"hello");
    server.wait_until_at_rest();
    let status = server.terminate();
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
    idle.iter().chain([&used]).for_each(|client| expect_to_end(client, b""));
}

fn sigterm_waits_for_an_answer_that_is_due(setup: Setup) {
    let mut server = setup.serve(&["--delay", ANY, "--delay-ms", "1000", "--drain-timeout", "60"]);
    let client = connect(server.addr("delay"));
    send(&client, b"due");
    server.wait_until_at_rest();
    let status = server.terminate();
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
    expect_to_end(&client, b"due");
}
