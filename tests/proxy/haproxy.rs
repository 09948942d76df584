//! The real HAProxy, as Debian has it, in front of the program.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::*;

in_every_setup! {
    the_log_names_the_client_and_not_haproxy,
    a_server_that_is_killed_costs_its_own_connections_alone,
}

/// A running HAProxy in TCP mode with ten health checks a second, of which so many must fail that a loaded machine does
/// not make them. Dropping it kills it.
struct Haproxy {
    child: Child,
    address: String,
    config: PathBuf,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Haproxy {
    /// `None`, and a line that says so, if it is not installed. `option` is `send-proxy` or `send-proxy-v2`.
    #[track_caller]
    fn start(option: &str, servers: &[&Server], service: &str) -> Option<Haproxy> {
        // It inherits a listener, so that no port has to be guessed and clients can connect at once.
        let listener = TcpListener::bind(ANY).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = std::env::temp_dir().join(format!("eagain-{}.cfg", address.replace(':', "-")));
        std::fs::write(&config, config_for(option, servers, service)).unwrap();
        let mut command = Command::new("haproxy");
        // Not -q: it would close the standard streams, and with them the listener.
        command.args(["-db", "-f"]).arg(&config);
        match command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(mut child) => {
                let (said, _) = collect(child.stderr.take().unwrap());
                Some(Haproxy { child, address, config, said })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = std::fs::remove_file(&config);
                not_tested("haproxy is not installed");
                None
            }
            Err(error) => panic!("haproxy does not start: {error}"),
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
        if thread::panicking() {
            println!("--- HAProxy said:\n{}---", String::from_utf8_lossy(&self.said.lock().unwrap()));
        }
    }
}

fn config_for(option: &str, servers: &[&Server], service: &str) -> String {
    let mut config = format!(
        "global
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1
    default-server check inter 100ms fall 100 rise 1 {option}
listen eagain
    bind fd@0
    balance roundrobin
"
    );
    for (number, server) in servers.iter().enumerate() {
        config += &format!("    server number{number} {}\n", server.addr(service));
    }
    config
}

fn the_log_names_the_client_and_not_haproxy(setup: Setup) {
    for option in ["send-proxy", "send-proxy-v2"] {
        let server = setup.serve(&["--proxy-protocol", "--log", ANY]);
        let Some(haproxy) = Haproxy::start(option, &[&server], "log") else { return };
        let client = connect(&haproxy.address);
        let address = client.local_addr().unwrap();
        send(&client, b"hello");
        let received = format!("log: {address} received 5 bytes \"hello\"");
        wait_until(&received, || server.stderr().contains(&received));
        half_close(&client);
        expect_to_end(&client, b"");
        let offline = format!("log: {address} offline");
        wait_until(&offline, || server.stderr().contains(&offline));
        // Its health checks, several by now or soon, are taken as such: each comes and goes.
        wait_until("health checks", || server.stderr().matches(" offline: Connection reset").count() >= 3);
        assert!(!server.stderr().contains("closing"), "a header of {option} was refused");
    }
}

/// Sends and receives until it is told to stop; connects anew whenever its connection fails.
struct Retrying {
    rounds: AtomicU32,
    failures: AtomicU32,
}

impl Retrying {
    fn run(&self, address: &str, stop: &AtomicBool) {
        let message = pattern(1000, 1);
        let mut client = connect(address);
        while !stop.load(Ordering::Relaxed) {
            match round_trip(&client, &message) {
                Ok(()) => drop(self.rounds.fetch_add(1, Ordering::Relaxed)),
                Err(_) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    client = connect(address);
                }
            }
            thread::yield_now();
        }
    }
}

fn round_trip(mut client: &TcpStream, message: &[u8]) -> io::Result<()> {
    let mut answer = vec![0; message.len()];
    client.write_all(message)?;
    client.read_exact(&mut answer)?;
    assert_same(&answer, message);
    Ok(())
}

fn a_server_that_is_killed_costs_its_own_connections_alone(setup: Setup) {
    let servers = [0; 3].map(|_| setup.serve(&["--proxy-protocol", "--echo", ANY]));
    let Some(haproxy) = Haproxy::start("send-proxy-v2", &servers.each_ref(), "echo") else { return };
    let [one, two, killed] = servers;
    let clients: Vec<Retrying> =
        (0..12).map(|_| Retrying { rounds: AtomicU32::new(0), failures: AtomicU32::new(0) }).collect();
    let stop = AtomicBool::new(false);
    let all_have_served = |rounds: u32| {
        let marks: Vec<u32> = clients.iter().map(|client| client.rounds.load(Ordering::Relaxed) + rounds).collect();
        wait_until("every client is served", || {
            clients.iter().zip(&marks).all(|(client, mark)| client.rounds.load(Ordering::Relaxed) >= *mark)
        });
    };
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| client.run(&haproxy.address, &stop));
        }
        // The clients stop also if something in here fails.
        let _stop = OnDrop(|| stop.store(true, Ordering::Relaxed));
        all_have_served(10);
        let failures: u32 = clients.iter().map(|client| client.failures.load(Ordering::Relaxed)).sum();
        assert_eq!(failures, 0, "connections failed before anything was killed");
        drop(killed);
        all_have_served(50);
    });
    let failures: Vec<u32> = clients.iter().map(|client| client.failures.load(Ordering::Relaxed)).collect();
    assert!(failures.iter().all(|&count| count <= 1), "somebody failed twice: {failures:?}");
    let failed = failures.iter().filter(|&&count| count == 1).count();
    // A third of twelve, taken in turns.
    assert_eq!(failed, 4, "{failures:?}");
    for server in [one, two] {
        assert!(!server.stderr().contains("closing"), "{}", server.stderr());
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn the_configuration_in_the_docs_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/machines/haproxy.cfg");
    match Command::new("haproxy").args(["-c", "-f", path]).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => not_tested("haproxy is not installed"),
        Err(error) => panic!("haproxy does not start: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !said.contains("WARNING"), "{said}");
        }
    }
}
