//! A network that is not the loopback: packets are lost, doubled and overtaken between two network namespaces, and
//! clients vanish without a FIN or an RST. No byte may be wrong, nobody else may notice, and nobody stays for ever.
#![cfg(feature = "cli")]

mod common;
#[path = "network/namespaces.rs"]
mod namespaces;
#[path = "network/wire.rs"]
mod wire;

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use namespaces::{CLIENT, DOOMED, Namespace, SERVER};
use socket2::{Domain, Socket, Type};
use wire::Wire;

in_one_setup!(
    level,
    false,
    2,
    streams_are_whole_where_packets_are_lost,
    streams_are_whole_where_packets_are_lost_doubled_and_overtaken,
    an_idle_client_that_vanished_is_ended_by_the_idle_timeout,
    an_idle_client_that_vanished_is_ended_by_keepalive,
    a_client_that_vanished_with_answers_unsent_is_ended_by_the_write_timeout,
    a_client_that_vanished_with_an_answer_on_its_way_is_ended_by_the_kernel
);
in_one_setup!(
    edge,
    true,
    2,
    streams_are_whole_where_packets_are_lost,
    streams_are_whole_where_packets_are_lost_doubled_and_overtaken,
    an_idle_client_that_vanished_is_ended_by_the_idle_timeout,
    an_idle_client_that_vanished_is_ended_by_keepalive,
    a_client_that_vanished_with_answers_unsent_is_ended_by_the_write_timeout,
    a_client_that_vanished_with_an_answer_on_its_way_is_ended_by_the_kernel
);

/// The server's address with a port that the kernel chooses.
const ANY_PORT: &str = "10.77.0.1:0";

/// Two namespaces and what joins them.
struct Net {
    server: Namespace,
    clients: Namespace,
}

impl Net {
    /// Namespaces that nothing joins yet.
    fn apart() -> Result<Net, String> {
        let new = || Namespace::new().map_err(|error| format!("no network namespace: {error}"));
        Ok(Net { server: new()?, clients: new()? })
    }

    fn configured(self) -> Result<Net, String> {
        self.server.configure(&[SERVER])?;
        self.clients.configure(&[CLIENT, DOOMED])?;
        Ok(self)
    }

    /// By a link on which nothing is lost.
    fn good() -> Result<Net, String> {
        let net = Net::apart()?;
        net.server.join(&net.clients)?;
        let net = net.configured()?;
        // Whether nft(8) works is asked before anything depends on it.
        net.server.command("nft list ruleset")?;
        Ok(net)
    }

    /// By a link on which three of a hundred packets are lost, in either direction.
    fn lossy() -> Result<Net, String> {
        let net = Net::good()?;
        for end in [&net.server, &net.clients] {
            end.drop_incoming("numgen random mod 100 < 3")?;
        }
        Ok(net)
    }

    /// By a wire that loses, doubles and delays.
    fn wired(seed: u64) -> Result<(Net, Wire), String> {
        let net = Net::apart()?;
        let wire = Wire::between(&net.server, &net.clients, seed).map_err(|error| format!("no TUN device: {error}"))?;
        Ok((net.configured()?, wire))
    }

    /// From now on no packet from or to [`DOOMED`] arrives.
    #[track_caller]
    fn cut(&self) {
        self.server.drop_incoming(&format!("ip saddr {DOOMED}")).expect("a rule of nftables");
        self.clients.drop_incoming(&format!("ip daddr {DOOMED}")).expect("a rule of nftables");
    }

    /// Sets a number of TCP in the server's namespace (tcp(7)).
    #[track_caller]
    fn set(&self, name: &str, value: u32) {
        let file = format!("/proc/sys/net/ipv4/{name}");
        self.server.run(|| std::fs::write(&file, value.to_string())).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    #[track_caller]
    fn serve(&self, setup: Setup, options: &[&str]) -> Server {
        self.server.run(|| setup.serve(options))
    }

    #[track_caller]
    fn connect(&self, address: &str) -> TcpStream {
        self.clients.run(|| connect(address))
    }

    /// A client whose link can be cut without that of the others.
    #[track_caller]
    fn connect_doomed(&self, address: &str) -> TcpStream {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address").into();
        self.clients.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&at(&format!("{DOOMED}:0"))).expect("bind");
            socket.connect_timeout(&at(address), DEADLINE).expect("connect");
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.into()
        })
    }
}

/// The network, or a line that says why there is none.
macro_rules! net_or_return {
    ($net:expr) => {
        match $net {
            Ok(net) => net,
            Err(why) => return not_tested(&format!("bad networks, for want of root, ip(8) or nft(8): {why}")),
        }
    };
}

// ---- packets ------------------------------------------------------------------------------------------------------

fn streams_are_whole_where_packets_are_lost(setup: Setup) {
    let net = net_or_return!(Net::lossy());
    streams_are_whole(&net, setup);
    for end in [&net.server, &net.clients] {
        assert!(end.tcp_counter("RetransSegs") > 20, "nothing was lost");
    }
}

fn streams_are_whole_where_packets_are_lost_doubled_and_overtaken(setup: Setup) {
    let (net, wire) = net_or_return!(Net::wired(1 + u64::from(setup.edge_triggered)));
    streams_are_whole(&net, setup);
    for count in [&wire.counts.lost, &wire.counts.doubled, &wire.counts.delayed] {
        assert!(count.load(Ordering::Relaxed) > 20, "{:?}", wire.counts);
    }
    for end in [&net.server, &net.clients] {
        assert!(end.tcp_counter("TCPOFOQueue") > 20, "no packet was overtaken");
    }
}

/// How much each client sends, and hears back.
const STREAM: usize = 2 << 20;

/// Eight clients send and compare 2 MiB each, of bytes or of frames, and finish.
fn streams_are_whole(net: &Net, setup: Setup) {
    let server = net.serve(setup, &["--echo", ANY_PORT, "--frames", ANY_PORT]);
    server.wait_until_at_rest();
    let fds = server.fd_count();
    thread::scope(|scope| {
        for number in 0..8 {
            let (server, net) = (&server, &net);
            scope.spawn(move || {
                let bytes = pattern(STREAM, number);
                let (service, bytes) = if number % 2 == 0 { ("echo", bytes) } else { ("frames", frames(&bytes)) };
                let client = net.connect(server.addr(service));
                exchange(&client, &bytes);
                half_close(&client);
                expect_to_end(&client, b"");
            });
        }
    });
    server.wait_for_fd_count(fds);
}

/// As frames of many lengths, from none to more than any buffer on the way.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    for length in [0, 1, 5, 1000, 1448, 4096, 65_536, 300_000].into_iter().cycle() {
        let (payload, rest) = bytes.split_at(bytes.len().min(length));
        framed.extend(frame(payload));
        bytes = rest;
        if bytes.is_empty() {
            return framed;
        }
    }
    unreachable!("the lengths never end")
}

// ---- half-open connections ----------------------------------------------------------------------------------------

/// One client's link is cut, and the client gone: no FIN, no RST, no answer any more. The server ends the connection
/// when it should, and one who stays is served as before.
struct HalfOpen {
    net: Net,
    server: Server,
    /// Without clients.
    fds: usize,
    bystander: TcpStream,
}

impl HalfOpen {
    #[track_caller]
    fn begin(net: Net, setup: Setup, options: &[&str]) -> HalfOpen {
        let server = net.serve(setup, &[&["--echo", ANY_PORT][..], options].concat());
        server.wait_until_at_rest();
        let fds = server.fd_count();
        let bystander = net.connect(server.addr("echo"));
        exchange(&bystander, b"hello");
        HalfOpen { net, server, fds, bystander }
    }

    /// The client vanishes, and the server notices.
    #[track_caller]
    fn vanishes(&self, client: TcpStream) {
        assert_eq!(self.server.fd_count(), self.fds + 2);
        thread::scope(|scope| {
            // Six processes, which on a busy machine take as long as a timeout. One who talks is not idle.
            let cut = scope.spawn(|| self.net.cut());
            while !cut.is_finished() {
                exchange(&self.bystander, b"still here");
            }
        });
        self.has_vanished(client);
    }

    /// As [`vanishes`](Self::vanishes), of a client whose link is cut already.
    #[track_caller]
    fn has_vanished(&self, client: TcpStream) {
        drop(client);
        let start = Instant::now();
        while self.server.fd_count() > self.fds + 1 {
            // One who talks all the time is not idle.
            exchange(&self.bystander, &pattern(10_000, 1));
            assert!(start.elapsed() < DEADLINE, "a client that is gone is still there");
        }
    }

    #[track_caller]
    fn others_are_served(mut self) {
        exchange(&self.bystander, &pattern(1 << 20, 2));
        exchange(&self.net.connect(self.server.addr("echo")), &pattern(1 << 20, 3));
        drop(self.bystander);
        self.server.wait_for_fd_count(self.fds);
        self.server.assert_running();
    }
}

fn an_idle_client_that_vanished_is_ended_by_the_idle_timeout(setup: Setup) {
    let net = net_or_return!(Net::good());
    let scene = HalfOpen::begin(net, setup, &["--idle-timeout", "5"]);
    let client = scene.net.connect_doomed(scene.server.addr("echo"));
    let start = Instant::now();
    exchange(&client, b"hello");
    scene.vanishes(client);
    assert!(start.elapsed() >= Duration::from_secs(5), "after {:?}", start.elapsed());
    scene.others_are_served();
}

/// Without any option: the kernel asks a silent client whether it is there. By default after two hours; here, sooner.
fn an_idle_client_that_vanished_is_ended_by_keepalive(setup: Setup) {
    let net = net_or_return!(Net::good());
    net.set("tcp_keepalive_time", 1);
    net.set("tcp_keepalive_intvl", 1);
    net.set("tcp_keepalive_probes", 2);
    let scene = HalfOpen::begin(net, setup, &[]);
    // Silent for longer than it takes to give up, and answers the kernel's questions all the while.
    let silent = scene.net.connect(scene.server.addr("echo"));
    exchange(&silent, b"hello");
    let scene = HalfOpen { fds: scene.fds + 1, ..scene };
    let client = scene.net.connect_doomed(scene.server.addr("echo"));
    let start = Instant::now();
    exchange(&client, b"hello");
    scene.vanishes(client);
    assert!(start.elapsed() >= Duration::from_secs(2), "after {:?}", start.elapsed());
    exchange(&silent, b"still here");
    drop(silent);
    HalfOpen { fds: scene.fds - 1, ..scene }.others_are_served();
}

fn a_client_that_vanished_with_answers_unsent_is_ended_by_the_write_timeout(setup: Setup) {
    let net = net_or_return!(Net::good());
    let scene = HalfOpen::begin(net, setup, &["--chargen", ANY_PORT, "--write-timeout", "5"]);
    // Reads nothing: the socket is full, and more waits in the server. It is to vanish before its time is over.
    let client = scene.net.connect_doomed(scene.server.addr("chargen"));
    scene.server.wait_until_at_rest();
    scene.vanishes(client);
    scene.others_are_served();
}

/// The answer is in the kernel's hands, so no timeout of the server sees it. It is sent again, by default for a quarter
/// of an hour (tcp_retries2, tcp(7)); here, for as long as four times take.
fn a_client_that_vanished_with_an_answer_on_its_way_is_ended_by_the_kernel(setup: Setup) {
    let net = net_or_return!(Net::good());
    net.set("tcp_retries2", 3);
    let scene = HalfOpen::begin(net, setup, &[]);
    let client = scene.net.connect_doomed(scene.server.addr("echo"));
    exchange(&client, b"hello");
    scene.server.pause();
    send(&client, b"the question arrives, the answer does not");
    scene.net.cut();
    scene.server.resume();
    scene.has_vanished(client);
    scene.others_are_served();
}
