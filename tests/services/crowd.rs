//! Five thousand connections at once.

use std::net::TcpStream;

use crate::common::*;

in_every_setup! { five_thousand_connections_are_served_at_once }

const CLIENTS: usize = 5000;

fn five_thousand_connections_are_served_at_once(setup: Setup) {
    let _turn = one_crowd_at_a_time();
    let limit = raise_nofile_limit();
    if limit < CLIENTS as u64 + 500 {
        not_tested(&format!("5,000 connections: the hard limit of open files is {limit}"));
        return;
    }
    let mut server = setup.serve(&["--echo", ANY]);
    server.wait_until_at_rest();
    let fds = server.fd_count();
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(server.addr("echo"))).collect();
    server.wait_for_fd_count(fds + CLIENTS);
    let message = |index: usize| pattern(200, index as u64);
    for (index, client) in clients.iter().enumerate() {
        send(client, &message(index));
    }
    for (index, client) in clients.iter().enumerate() {
        expect(client, &message(index));
    }
    // Once more in the other order: nobody was forgotten after the first answer.
    for (index, client) in clients.iter().enumerate().rev() {
        send(client, &message(index + CLIENTS));
        expect(client, &message(index + CLIENTS));
    }
    drop(clients);
    server.wait_for_fd_count(fds);
    server.assert_running();
}
