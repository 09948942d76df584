//! Servers that no one here wrote run clean. Those that are not installed are passed by.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::{measured, number};
use crate::common::{FreePort, not_tested, wait_until};

/// A server of somebody else's. Ends with this value.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `None`: it is not installed.
fn start(program: &str, args: &[&str]) -> Option<Stranger> {
    start_as(program, program, args)
}

/// As [`start`]; the program is told that it is called `name`.
fn start_as(name: &str, program: &str, args: &[&str]) -> Option<Stranger> {
    let mut command = Command::new(program);
    command.arg0(name).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => Some(Stranger(child)),
        Err(_) => {
            not_tested(&format!("{program} as a target of bench: it is not installed"));
            None
        }
    }
}

#[track_caller]
fn runs_clean(port: u16, args: &[&str], messages: f64) {
    wait_until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let told = measured(&port.to_string(), args);
    assert_eq!((number(&told, "/messages"), number(&told, "/errors/total")), (messages, 0.0), "{told:#}");
}

#[test]
fn socat_runs_clean() {
    let free = FreePort::new();
    let port = free.address().port();
    let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork");
    if let Some(_socat) = start("socat", &[&listen, "EXEC:cat"]) {
        runs_clean(port, &["--messages", "50", "--connections", "5", "--size", "1000", "--depth", "3"], 250.0);
    }
}

const PYTHON: &str = "
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100
server = Server(('127.0.0.1', 0), Echo)
print(server.server_address[1], flush=True)
server.serve_forever()
";

#[test]
fn python_runs_clean() {
    let Some(mut python) = start("python3", &["-c", PYTHON]) else { return };
    let mut line = String::new();
    BufReader::new(python.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().parse().expect("a port");
    runs_clean(port, &["--messages", "30", "--connections", "8", "--rate", "2000"], 240.0);
    runs_clean(port, &["--messages", "10", "--connections", "4", "--churn"], 40.0);
}

#[test]
fn redis_runs_clean() {
    let free = FreePort::new();
    let port = free.address().port();
    let args = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    // Debian's redis-tools has the server under this name, and starts no daemon when it is installed.
    if let Some(_redis) = start_as("redis-server", "redis-check-rdb", &args) {
        runs_clean(
            port,
            &["--service", "redis-ping", "--messages", "100", "--connections", "5", "--depth", "4"],
            500.0,
        );
    }
}
