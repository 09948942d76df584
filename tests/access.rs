//! `--allow` and `--deny`: who is let in, who is closed at once, and what is counted.
#![cfg(feature = "cli")]

mod common;

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use common::*;
use eagain::service::Echo;
use eagain::{AccessList, Config, Counters, Listener, Trigger};
use socket2::{Domain, Socket, Type};

in_every_setup! {
    a_denied_address_is_closed_at_once_and_others_are_served,
    whoever_is_not_allowed_is_denied_if_somebody_is,
    the_longest_prefix_decides,
    unix_clients_are_always_let_in,
    ipv6_clients_are_filtered,
    behind_a_proxy_its_own_address_counts,
    many_denied_clients_leave_nothing_behind,
    a_drain_serves_who_waits_behind_many_denied,
}

/// A connection from this address of the loopback network.
#[track_caller]
fn connect_from(source: &str, server: &str) -> TcpStream {
    let (source, server): (SocketAddr, SocketAddr) = (format!("{source}:0").parse().unwrap(), server.parse().unwrap());
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
    socket.bind(&source.into()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket.connect_timeout(&server.into(), DEADLINE).expect("the kernel accepts before the server looks");
    socket.into()
}

#[track_caller]
fn assert_served(client: &TcpStream) {
    send(client, b"hello");
    expect(client, b"hello");
}

/// The client has sent nothing, so that what it sees is a FIN.
#[track_caller]
fn assert_turned_away(client: &TcpStream) {
    expect_to_end(client, b"");
}

fn a_denied_address_is_closed_at_once_and_others_are_served(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--deny", "127.0.0.2", "--deny", "127.0.1.0/24"]);
    let address = server.addr("echo");
    let before = connect_from("127.0.0.1", address);
    assert_served(&before);
    for source in ["127.0.0.2", "127.0.1.0", "127.0.1.255"] {
        assert_turned_away(&connect_from(source, address));
    }
    for source in ["127.0.0.1", "127.0.0.3", "127.0.2.0"] {
        assert_served(&connect_from(source, address));
    }
    assert_served(&before);
}

fn whoever_is_not_allowed_is_denied_if_somebody_is(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--allow", "127.0.0.2"]);
    assert_served(&connect_from("127.0.0.2", server.addr("echo")));
    assert_turned_away(&connect_from("127.0.0.1", server.addr("echo")));
}

fn the_longest_prefix_decides(setup: Setup) {
    let orders: [&[&str]; 2] = [
        &["--allow=127.0.0.0/8", "--deny=127.1.0.0/16", "--allow=127.1.2.3/32"],
        &["--allow=127.1.2.3/32", "--deny=127.1.0.0/16", "--allow=127.0.0.0/8"],
    ];
    for order in orders {
        let server = setup.serve(&[&["--echo", ANY], order].concat());
        for source in ["127.0.0.1", "127.1.2.3"] {
            assert_served(&connect_from(source, server.addr("echo")));
        }
        for source in ["127.1.2.2", "127.1.0.1"] {
            assert_turned_away(&connect_from(source, server.addr("echo")));
        }
    }
}

fn unix_clients_are_always_let_in(setup: Setup) {
    let name = format!("unix:@eagain-access-{}-{}-{}", std::process::id(), setup.edge_triggered, setup.workers);
    let server = setup.serve(&["--echo", &name, "--echo", ANY, "--deny", "0.0.0.0/0", "--deny", "::/0"]);
    assert_turned_away(&connect(server.addrs("echo")[1]));
    let client = connect_unix(&name);
    send(&client, b"hello");
    expect(&client, b"hello");
}

fn ipv6_clients_are_filtered(setup: Setup) {
    let server = setup.serve(&["--echo", "[::1]:0", "--echo", ANY, "--deny", "::1"]);
    let [v6, v4] = server.addrs("echo")[..] else { panic!("two listeners") };
    assert_turned_away(&connect(v6));
    assert_served(&connect(v4));
}

fn behind_a_proxy_its_own_address_counts(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--proxy-protocol", "--allow", "127.0.0.1", "--deny", "192.0.2.0/24"]);
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.8 5678 7007\r\n";
    let client = connect_from("127.0.0.1", server.addr("echo"));
    send(&client, header);
    assert_served(&client);
    assert_turned_away(&connect_from("127.0.0.2", server.addr("echo")));
}

fn many_denied_clients_leave_nothing_behind(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--deny", "127.0.0.2"]);
    let client = connect_from("127.0.0.1", server.addr("echo"));
    assert_served(&client);
    server.wait_until_at_rest();
    let before = server.fd_count();
    // More than are accepted in one turn, and all at once.
    server.pause();
    let denied: Vec<TcpStream> = (0..300).map(|_| connect_from("127.0.0.2", server.addr("echo"))).collect();
    let late = connect_from("127.0.0.1", server.addr("echo"));
    server.resume();
    denied.iter().for_each(assert_turned_away);
    assert_served(&late);
    drop(late);
    server.wait_for_fd_count(before);
    assert_served(&client);
    assert!(server.terminate().success());
}

fn a_drain_serves_who_waits_behind_many_denied(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--deny", "127.0.0.2"]);
    server.wait_until_at_rest();
    server.pause();
    let _denied: Vec<TcpStream> = (0..500).map(|_| connect_from("127.0.0.2", server.addr("echo"))).collect();
    let last = connect_from("127.0.0.1", server.addr("echo"));
    send(&last, b"hello");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.resume();
    expect_to_end(&last, b"hello");
    assert!(server.wait_for_exit().success());
}

fn start(trigger: Trigger, listener: impl Into<std::os::fd::OwnedFd>, access: AccessList) -> eagain::Server {
    let config = Config { trigger, workers: 1, access, ..Config::default() };
    eagain::Server::start(config, vec![Listener::adopt(listener.into()).unwrap()], |_| Echo).unwrap()
}

#[test]
fn the_denied_are_counted() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        let listener = TcpListener::bind(ANY).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = start(trigger, listener, AccessList::new([], ["127.0.0.2".parse().unwrap()]));
        for _ in 0..5 {
            assert_turned_away(&connect_from("127.0.0.2", &address));
        }
        let client = connect_from("127.0.0.1", &address);
        assert_served(&client);
        let expected = |counters: Counters| (counters.accepted, counters.denied, counters.closed) == (1, 5, 0);
        wait_until("1 accepted, 5 denied, none closed", || expected(server.handle().counters()));
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        let listener = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        listener.set_only_v6(false).unwrap();
        listener.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        listener.listen(16).unwrap();
        let port = listener.local_addr().unwrap().as_socket().unwrap().port();
        let _server = start(trigger, listener, AccessList::new([], ["127.0.0.0/8".parse().unwrap()]));
        assert_turned_away(&connect(&format!("127.0.0.1:{port}")));
        assert_served(&connect(&format!("[::1]:{port}")));
    }
}

#[test]
fn a_reload_changes_who_may_connect_and_closes_nobody() {
    let path = std::env::temp_dir().join(format!("eagain-access-{}.toml", std::process::id()));
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("deny = [\"127.0.0.2\", \"127.0.0.3\"]\n");
    let server = Server::start(&["--echo", ANY, "--config", path.to_str().unwrap()]);
    let address = server.addr("echo");
    let before = connect_from("127.0.0.4", address);
    assert_served(&before);
    assert_turned_away(&connect_from("127.0.0.2", address));
    write("deny = \"127.0.0.4\"\n");
    server.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until("the reload is said", || server.stderr().contains("reloaded"));
    assert_turned_away(&connect_from("127.0.0.4", address));
    assert_served(&connect_from("127.0.0.2", address));
    assert_served(&before);
    write("deny = \"127.0.0.4/8\"\n");
    server.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until("the refusal is said", || server.stderr().contains("not reloaded, nothing is changed"));
    assert_turned_away(&connect_from("127.0.0.4", address));
    let _ = std::fs::remove_file(&path);
}

#[test]
fn a_wrong_network_is_refused_with_what_to_write() {
    let refusals = [
        ("--allow", "10.0.0.1/8", "write 10.0.0.0/8, or the address alone"),
        ("--deny", "10.0.0.0/33", "0 to 32 bits"),
        ("--deny", "example.org", "as in 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"),
    ];
    for (option, value, hint) in refusals {
        let output = Command::new(program()).args(["serve", option, value]).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.starts_with(&format!("eagain: {option} '{value}': ")) && line.contains(hint), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn trace_tells_who_was_turned_away() {
    let server = Server::start(&["--echo", ANY, "--deny", "127.0.0.1", "--trace"]);
    let mut client = connect(server.addr("echo"));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let line = format!("{} is not let in", client.local_addr().unwrap());
    wait_until(&line, || server.stderr().contains(&line));
}
