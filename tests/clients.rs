//! Clients that this project did not write: netcat, socat, Python's socket module, Erlang's
//! `{packet, 4}`.
//!
//! A client that is not installed is named on standard error and left out.
#![cfg(feature = "cli")]

mod common;

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};
use std::thread;

use common::*;

in_every_setup! {
    netcat_gets_its_bytes_back,
    netcat_is_ended_by_discard,
    netcat_reads_the_wheel,
    socat_gets_its_bytes_back,
    socat_gets_its_bytes_back_through_unix_sockets,
    python_gets_its_bytes_back,
    python_half_closes_and_reads_on,
    python_gets_its_frames_back,
    erlang_gets_its_packets_back,
}

/// Runs `command` with `input` on its standard input; `None`, and a line that says so, if it is not
/// installed.
#[track_caller]
fn run(command: &mut Command, input: &[u8]) -> Option<Output> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match piped.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            not_tested(&format!("{} is not installed", command.get_program().display()));
            return None;
        }
        other => other.unwrap(),
    };
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    // A client that has had enough may leave before it has read all; what it wrote is what counts.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let (stdout, stdout_reader) = collect(child.stdout.take().unwrap());
    let (stderr, stderr_reader) = collect(child.stderr.take().unwrap());
    let status = wait_with_deadline(&mut child);
    for helper in [writer, stdout_reader, stderr_reader] {
        helper.join().unwrap();
    }
    let stderr = std::mem::take(&mut *stderr.lock().unwrap());
    let status = status.unwrap_or_else(|| panic!("{command:?} hangs: {}", stderr.escape_ascii()));
    let stdout = std::mem::take(&mut *stdout.lock().unwrap());
    Some(Output { status, stdout, stderr })
}

/// Fails unless the client has ended well and has written `expected`.
#[track_caller]
fn assert_wrote(output: &Output, expected: &[u8]) {
    assert_same(&output.stdout, expected);
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

fn host_and_port(address: &str) -> (&str, &str) {
    address.rsplit_once(':').unwrap()
}

/// Whether the netcat of OpenBSD is here. Others have no `-N` (half-close at the end of the input).
#[track_caller]
fn netcat_is_installed() -> bool {
    let Some(help) = run(Command::new("nc").arg("-h"), b"") else {
        return false;
    };
    let openbsd = [help.stdout, help.stderr].concat().starts_with(b"OpenBSD netcat");
    if !openbsd {
        not_tested("the nc that is installed is not OpenBSD's");
    }
    openbsd
}

#[track_caller]
fn netcat(address: &str, input: &[u8]) -> Option<Output> {
    let (host, port) = host_and_port(address);
    netcat_is_installed().then(|| run(Command::new("nc").args(["-N", host, port]), input))?
}

fn netcat_gets_its_bytes_back(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    for length in [0, 1, 5_000_000] {
        let message = pattern(length, 1);
        let Some(output) = netcat(server.addr("echo"), &message) else {
            return;
        };
        assert_wrote(&output, &message);
    }
}

fn netcat_is_ended_by_discard(setup: Setup) {
    let server = setup.serve(&["--discard", ANY]);
    let Some(output) = netcat(server.addr("discard"), &pattern(1_000_000, 2)) else {
        return;
    };
    assert_wrote(&output, b"");
}

fn netcat_reads_the_wheel(setup: Setup) {
    if !netcat_is_installed() {
        return;
    }
    let mut server = setup.serve(&["--chargen", ANY]);
    let (host, port) = host_and_port(server.addr("chargen"));
    // `head` leaves after three lines, and netcat after it: a client that goes in full flow.
    let script = format!("nc -d {host} {port} | head -n 3");
    let output = run(Command::new("sh").args(["-c", &script]), b"").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with(" !\"#") && lines[0].ends_with("efg"), "{}", lines[0]);
    assert!(lines[2].starts_with("\"#$%") && lines[2].ends_with("ghi"), "{}", lines[2]);
    server.assert_running();
}

fn socat(address: &str, input: &[u8]) -> Option<Output> {
    // Without -t it gives up half a second after its input has ended.
    run(Command::new("socat").args(["-t", "60", "-", address]), input)
}

fn socat_gets_its_bytes_back(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    for length in [0, 1, 5_000_000] {
        let message = pattern(length, 3);
        let Some(output) = socat(&format!("TCP:{}", server.addr("echo")), &message) else {
            return;
        };
        assert_wrote(&output, &message);
    }
}

fn socat_gets_its_bytes_back_through_unix_sockets(setup: Setup) {
    let name = format!("eagain-clients-{}-{}-{}", std::process::id(), setup.edge_triggered, setup.workers);
    let path = std::env::temp_dir().join(&name);
    let path = path.to_str().unwrap();
    let mut server = setup.serve(&["--echo", &format!("unix:{path}"), "--echo", &format!("unix:@{name}")]);
    let message = pattern(1_000_000, 4);
    for address in [format!("UNIX-CONNECT:{path}"), format!("ABSTRACT-CONNECT:{name}")] {
        if let Some(output) = socat(&address, &message) {
            assert_wrote(&output, &message);
        }
    }
    assert!(server.terminate().success());
}

/// Runs a Python program; its arguments are host and port, and its first lines connect `s` to them.
#[track_caller]
fn python(address: &str, program: &str) -> Option<Output> {
    let connect = "import socket, struct, sys, threading\n\
                   s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)\n";
    let (host, port) = host_and_port(address);
    run(Command::new("python3").args(["-c", &format!("{connect}{program}"), host, port]), b"")
}

fn python_gets_its_bytes_back(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    let program = "
message = bytes((i * 31 + (i >> 8)) & 255 for i in range(1_000_000))
sender = threading.Thread(target=s.sendall, args=(message,))
sender.start()
received = bytearray()
while len(received) < len(message):
    received += s.recv(65536)
sender.join()
assert received == message
print('all came back')
";
    let Some(output) = python(server.addr("echo"), program) else {
        return;
    };
    assert_wrote(&output, b"all came back\n");
}

fn python_half_closes_and_reads_on(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    let program = "
s.sendall(b'question' * 20_000)
s.shutdown(socket.SHUT_WR)
with s.makefile('rb') as answer:
    assert answer.read() == b'question' * 20_000
print('answered to the end')
";
    let Some(output) = python(server.addr("echo"), program) else {
        return;
    };
    assert_wrote(&output, b"answered to the end\n");
}

fn python_gets_its_frames_back(setup: Setup) {
    let server = setup.serve(&["--frames", ANY]);
    let program = "
payloads = [bytes((i * n + (i >> 8)) & 255 for i in range(n)) for n in (0, 1, 3, 70_000, 1000, 200_000)]
frames = b''.join(struct.pack('>I', len(payload)) + payload for payload in payloads)
sender = threading.Thread(target=s.sendall, args=(frames,))
sender.start()
answer = s.makefile('rb')
for payload in payloads:
    (length,) = struct.unpack('>I', answer.read(4))
    assert length == len(payload)
    assert answer.read(length) == payload
sender.join()
s.shutdown(socket.SHUT_WR)
assert answer.read() == b''
print('all frames came back')
";
    let Some(output) = python(server.addr("frames"), program) else {
        return;
    };
    assert_wrote(&output, b"all frames came back\n");
}

fn erlang_gets_its_packets_back(setup: Setup) {
    let server = setup.serve(&["--frames", ANY]);
    let (_, port) = host_and_port(server.addr("frames"));
    // Ping-pong first, then all at once; at the end Erlang must see a clean close.
    let program = format!(
        "{{ok, S}} = gen_tcp:connect({{127,0,0,1}}, {port}, [binary, {{packet, 4}}, {{active, false}}]), \
         Packet = fun(N) -> << <<(I * N + I div 256)>> || I <- lists:seq(1, N) >> end, \
         Packets = [Packet(N) || N <- [0, 1, 5, 1000, 70000, 200000, 0, 3]], \
         [begin ok = gen_tcp:send(S, P), {{ok, P}} = gen_tcp:recv(S, 0, 60000) end || P <- Packets], \
         [ok = gen_tcp:send(S, P) || P <- Packets], \
         [{{ok, P}} = gen_tcp:recv(S, 0, 60000) || P <- Packets], \
         ok = gen_tcp:shutdown(S, write), \
         {{error, closed}} = gen_tcp:recv(S, 0, 60000), \
         io:format(\"all packets came back~n\"), \
         halt(0)."
    );
    let mut erlang = Command::new("erl");
    erlang.args(["+S", "1", "-noinput", "-noshell", "-boot", "start_clean", "-eval", &program]);
    let Some(output) = run(&mut erlang, b"") else {
        return;
    };
    assert_wrote(&output, b"all packets came back\n");
}
