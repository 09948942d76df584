//! `eagain connect` against servers that the tests themselves play: well-behaved, cutting, silent, gone.

use std::fs::File;
use std::io::{self, ErrorKind, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// Long enough for a loaded machine; nothing that works waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

/// The program, its stdin and what it has printed. Killed if the test is over first.
struct Client {
    child: Child,
    /// `None`: stdin was given as a file, or is closed.
    stdin: Option<PipeWriter>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

#[derive(Debug, PartialEq)]
struct Outcome {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Client {
    /// With a pipe as stdin, which stays open until [`Client::end_input`].
    fn start(args: &[&str]) -> Client {
        let (reader, writer) = io::pipe().expect("pipe");
        let mut client = Client::with_stdin(reader.into(), args);
        client.stdin = Some(writer);
        client
    }

    fn with_stdin(stdin: Stdio, args: &[&str]) -> Client {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eagain"));
        command.arg("connect").args(args);
        Client::spawn(command.stdin(stdin))
    }

    fn spawn(command: &mut Command) -> Client {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Client { child, stdin: None, stdout, stderr }
    }

    fn give(&mut self, input: &[u8]) {
        self.stdin.as_mut().expect("a pipe").write_all(input).expect("the client reads");
    }

    fn end_input(&mut self) {
        self.stdin = None;
    }

    #[track_caller]
    fn outcome(mut self) -> Outcome {
        let deadline = Instant::now() + DEADLINE;
        while self.child.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "the client does not end");
            thread::sleep(Duration::from_millis(2));
        }
        let code = self.child.wait().expect("wait").code();
        let taken = |output: &mut Option<JoinHandle<Vec<u8>>>| {
            output.take().map_or(Vec::new(), |thread| thread.join().expect("read"))
        };
        let out = taken(&mut self.stdout);
        let err = String::from_utf8(taken(&mut self.stderr)).expect("UTF-8");
        Outcome { code, out, err }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("read");
        all
    })
}

/// One connection is accepted and given to `play`.
fn server<T: Send + 'static>(play: impl FnOnce(TcpStream) -> T + Send + 'static) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("timeout");
        play(stream)
    });
    (address, thread)
}

fn echo(stream: TcpStream) {
    io::copy(&mut &stream, &mut &stream).expect("echo");
}

fn echo_server() -> String {
    server(echo).0
}

#[track_caller]
fn all_came_back(client: Client, expected: &[u8]) {
    let outcome = client.outcome();
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    assert!(outcome.out == expected, "{} of {} bytes, or others", outcome.out.len(), expected.len());
}

#[track_caller]
fn failed(client: Client, out: &[u8], line: &str) {
    let expected = Outcome { code: Some(1), out: out.to_vec(), err: format!("eagain: {line}\n") };
    assert_eq!(client.outcome(), expected);
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 253) as u8).collect()
}

/// A file that is gone when the test is over.
struct TempFile(PathBuf);

impl TempFile {
    fn named(name: &str) -> TempFile {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        TempFile(directory.join(format!("{name}-{}", std::process::id())))
    }

    fn with(name: &str, content: &[u8]) -> TempFile {
        let file = TempFile::named(name);
        std::fs::write(&file.0, content).expect("write");
        file
    }

    fn open(&self) -> File {
        File::open(&self.0).expect("open")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

// What comes in, and what comes back.

#[test]
fn a_pipe_comes_back() {
    let input = pattern(1 << 20);
    let mut client = Client::start(&[&echo_server()]);
    client.give(&input);
    client.end_input();
    all_came_back(client, &input);
}

#[test]
fn each_line_comes_back_while_the_input_is_open() {
    let (heard, lines) = std::sync::mpsc::channel();
    let (address, _) = server(move |mut stream| {
        let mut line = [0; 4];
        while stream.read_exact(&mut line).is_ok() {
            stream.write_all(&line).expect("echo");
            heard.send(line).expect("the test listens");
        }
    });
    let mut client = Client::start(&[&address]);
    for line in [b"one\n", b"two\n"] {
        client.give(line);
        assert_eq!(&lines.recv_timeout(DEADLINE).expect("the line arrives"), line);
    }
    client.end_input();
    all_came_back(client, b"one\ntwo\n");
}

#[test]
fn a_regular_file_comes_back_though_epoll_refuses_it() {
    let input = pattern(300_000);
    let file = TempFile::with("regular", &input);
    all_came_back(Client::with_stdin(file.open().into(), &[&echo_server()]), &input);
}

#[test]
fn no_input_is_no_failure() {
    all_came_back(Client::with_stdin(Stdio::null(), &[&echo_server()]), b"");
    let mut closed = Command::new("sh");
    let script = r#"exec "$0" connect "$1" <&-"#;
    closed.args(["-c", script, env!("CARGO_BIN_EXE_eagain"), &echo_server()]);
    all_came_back(Client::spawn(&mut closed), b"");
}

#[test]
fn an_input_that_cannot_be_read_is_a_failure() {
    let directory = File::open(env!("CARGO_TARGET_TMPDIR")).expect("open");
    let client = Client::with_stdin(directory.into(), &[&echo_server()]);
    failed(client, b"", "cannot read the input: is a directory");
}

#[test]
fn answers_after_the_half_close_are_shown() {
    let (address, _) = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("read to the client's FIN");
        stream.write_all(&all).expect("answer");
    });
    let mut client = Client::start(&[&address]);
    client.give(b"one\ntwo\n");
    client.end_input();
    all_came_back(client, b"one\ntwo\n");
}

#[test]
fn unix_sockets_work_by_path_and_by_abstract_name() {
    let path = TempFile::named("socket");
    let abstract_name = format!("eagain-test-{}", std::process::id());
    use std::os::linux::net::SocketAddrExt;
    let abstract_address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).expect("address");
    let by_path = (UnixListener::bind(&path.0).expect("bind"), format!("unix:{}", path.0.display()));
    let by_name = (UnixListener::bind_addr(&abstract_address).expect("bind"), format!("unix:@{abstract_name}"));
    for (listener, address) in [by_path, by_name] {
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accept");
            io::copy(&mut &stream, &mut &stream).expect("echo");
        });
        let mut client = Client::start(&[&address]);
        client.give(b"hello");
        client.end_input();
        all_came_back(client, b"hello");
    }
}

#[test]
fn ipv6_works() {
    let listener = TcpListener::bind("[::1]:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    thread::spawn(move || echo(listener.accept().expect("accept").0));
    let mut client = Client::start(&[&address]);
    client.give(b"hello");
    client.end_input();
    all_came_back(client, b"hello");
}

// Frames and dumps.

#[test]
fn lines_go_as_frames_and_frames_come_as_lines() {
    let (address, sent) = server(|mut stream| {
        let mut all = Vec::new();
        let mut chunk = [0; 1000];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            all.extend_from_slice(&chunk[..count]);
            // Every split of the client's reading is provoked.
            chunk[..count].iter().for_each(|b| stream.write_all(&[*b]).expect("echo"));
        }
        all
    });
    let mut client = Client::start(&["--frames", &address]);
    client.give(b"one\n\nthe last");
    client.end_input();
    all_came_back(client, b"one\n\nthe last\n");
    assert_eq!(sent.join().expect("server"), b"\0\0\0\x03one\0\0\0\0\0\0\0\x08the last");
}

#[test]
fn a_line_of_16_mib_is_a_frame() {
    let mut input = pattern(16 << 20);
    input.iter_mut().filter(|b| **b == b'\n').for_each(|b| *b = b' ');
    let mut client = Client::start(&[&echo_server(), "--frames"]);
    client.give(&input);
    client.end_input();
    input.push(b'\n');
    all_came_back(client, &input);
}

#[test]
fn a_line_longer_than_a_frame_may_be_is_refused() {
    let mut client = Client::start(&[&echo_server(), "--frames", "--max-frame=4"]);
    client.give(b"12345\n");
    failed(client, b"", "a line of the input is longer than --max-frame allows");
}

#[test]
fn an_announced_frame_that_is_too_long_is_refused() {
    let (address, server) = server(|mut stream| {
        stream.write_all(b"\0\0\0\x02ok\0\0\0\x05").expect("write");
        stream
    });
    let client = Client::start(&[&address, "--frames", "--max-frame=4"]);
    failed(
        client,
        b"ok\n",
        "the server announced a frame of 5 bytes; --max-frame allows fewer, or it does not speak frames",
    );
    server.join().expect("server");
}

#[test]
fn a_frame_that_is_cut_off_is_not_shown() {
    let (address, _) = server(|mut stream| {
        stream.write_all(b"\0\0\0\x02ok\0\0\0\x05abc").expect("write");
        stream.shutdown(Shutdown::Write).expect("half-close");
        stream.read_to_end(&mut Vec::new()).expect("read");
    });
    let client = Client::with_stdin(Stdio::null(), &[&address, "--frames"]);
    failed(client, b"ok\n", "the server closed the connection inside a frame");
}

#[test]
fn hex_shows_what_hexdump_would() {
    let mut client = Client::start(&["--hex", &echo_server()]);
    client.give(b"0123456789abcdef\x00\xff~ ");
    client.end_input();
    let dump = "\
00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|
00000010  00 ff 7e 20                                       |..~ |
00000014
";
    all_came_back(client, dump.as_bytes());
}

#[test]
fn hex_with_frames_shows_each_frame_for_itself() {
    let mut client = Client::start(&["--hex", "--frames", &echo_server()]);
    client.give(b"hi\n!\n");
    client.end_input();
    let dump = "\
00000000  68 69                                             |hi|
00000002
00000000  21                                                |!|
00000001
";
    all_came_back(client, dump.as_bytes());
}

// The server refuses, resets, goes.

#[test]
fn a_refusal_names_the_address() {
    // Bound, so that no other test gets the port, and not listening.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    nobody.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("address").into()).expect("bind");
    let address = nobody.local_addr().expect("address").as_socket().expect("TCP").to_string();
    let line = format!("cannot connect to {address}: connection refused, nobody listens there");
    failed(Client::start(&[&address]), b"", &line);
}

#[test]
fn a_unix_socket_that_is_not_there_is_named() {
    let line = "cannot connect to unix:/no/such/socket: no such file or directory";
    failed(Client::start(&["unix:/no/such/socket"]), b"", line);
}

#[test]
fn a_connect_without_an_answer_ends_at_its_timeout() {
    // A queue of one that is full: the kernel drops further SYNs.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("address");
    listener.bind(&any.into()).expect("bind");
    listener.listen(0).expect("listen");
    let address = listener.local_addr().expect("address").as_socket().expect("TCP");
    let _waiting = TcpStream::connect(address).expect("the first one");
    let client = Client::start(&["--connect-timeout=0.2", &address.to_string()]);
    failed(client, b"", &format!("cannot connect to {address}: no answer within 200ms"));
}

#[test]
fn a_unix_connect_to_a_full_queue_ends_at_its_timeout() {
    let path = TempFile::named("full");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
    let address = SockAddr::unix(&path.0).expect("address");
    listener.bind(&address).expect("bind");
    listener.listen(0).expect("listen");
    let _waiting: Vec<Socket> = std::iter::repeat_with(|| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
        socket.set_nonblocking(true).expect("nonblocking");
        socket.connect(&address).map(|()| socket)
    })
    .map_while(Result::ok)
    .collect();
    let name = format!("unix:{}", path.0.display());
    let client = Client::start(&["--connect-timeout", "0.2", &name]);
    failed(client, b"", &format!("cannot connect to {name}: no answer within 200ms"));
}

#[test]
fn a_server_that_goes_is_told_though_nobody_types() {
    let (address, _) = server(|mut stream| stream.write_all(b"bye\n").expect("write"));
    // Its stdin stays open and silent.
    failed(Client::start(&[&address]), b"bye\n", "the server closed the connection");
}

#[test]
fn a_reset_is_told_after_what_came_before_it() {
    let (address, _) = server(|mut stream| {
        stream.write_all(b"last words\n").expect("write");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    });
    failed(Client::start(&[&address]), b"last words\n", "the server reset the connection");
}

#[test]
fn a_reset_while_sending_is_told_after_what_came_before_it() {
    let (address, _) = server(|mut stream| {
        stream.write_all(b"enough\n").expect("write");
        stream.read_exact(&mut [0; 100_000]).expect("read some");
        // Closing with unread data makes the kernel send RST.
    });
    let file = TempFile::with("flood", &vec![b'x'; 64 << 20]);
    let client = Client::with_stdin(file.open().into(), &[&address]);
    failed(client, b"enough\n", "the server reset the connection");
}

#[test]
fn all_that_came_before_a_failing_send_is_shown() {
    let path = TempFile::named("reset");
    let listener = UnixListener::bind(&path.0).expect("bind");
    let mut client = Client::start(&[&format!("unix:{}", path.0.display())]);
    let (mut stream, _) = listener.accept().expect("accept");
    client.give(b"x");
    stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
    SockRef::from(&stream).peek(&mut [std::mem::MaybeUninit::uninit()]).expect("x has come");
    // Stopped, the client finds it all at once: the input, more bytes than one read takes, and the reset,
    // which the kernel makes of a close with unread bytes.
    let pid = nix::unistd::Pid::from_raw(client.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("stop");
    stream.set_nonblocking(true).expect("nonblocking");
    let chunk = [b'.'; 16 << 10];
    let count: usize = std::iter::from_fn(|| stream.write(&chunk).ok()).sum();
    assert!(count > 64 << 10, "{count}");
    drop(stream);
    client.give(b"y");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("continue");
    failed(client, &vec![b'.'; count], "the server reset the connection");
}

#[test]
fn bytes_that_do_not_come_back_are_a_failure() {
    let (address, _) = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("read");
        stream.write_all(&all[..10]).expect("write");
    });
    let mut client = Client::start(&[&address]);
    client.give(b"12345678901234567890");
    client.end_input();
    failed(client, b"1234567890", "the server closed after 10 of 20 bytes had come back");
}

#[test]
fn frames_that_do_not_come_back_are_a_failure() {
    let (address, _) = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("read");
        stream.write_all(&all[..6]).expect("write");
    });
    let mut client = Client::start(&[&address, "--frames"]);
    client.give(b"ab\nlong line\n");
    client.end_input();
    failed(client, b"ab\n", "the server closed after 1 of 2 frames had come back");
}

#[test]
fn with_no_echo_nothing_has_to_come_back() {
    let (address, _) = server(|mut stream| {
        stream.read_to_end(&mut Vec::new()).expect("read");
    });
    let mut client = Client::start(&["--no-echo", &address]);
    client.give(b"into the void");
    client.end_input();
    all_came_back(client, b"");
}

// The terminal's descriptors and the bounds.

#[test]
fn neither_stdin_nor_stdout_is_made_non_blocking() {
    let (reader, writer) = io::pipe().expect("pipe");
    let (mut shown, output) = io::pipe().expect("pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_eagain"));
    command.args(["connect", &echo_server()]);
    command.stdin(reader.try_clone().expect("dup")).stdout(output.try_clone().expect("dup"));
    let mut child = command.spawn().expect("spawn");
    drop(command);
    (&writer).write_all(b"x").expect("write");
    shown.read_exact(&mut [0]).expect("it came back");
    assert!(!SockRef::from(&reader).nonblocking().expect("flags"), "stdin");
    assert!(!SockRef::from(&output).nonblocking().expect("flags"), "stdout");
    drop(writer);
    assert!(child.wait().expect("wait").success());
}

#[test]
fn a_stdout_that_somebody_made_non_blocking_loses_nothing() {
    let input = pattern(4 << 20);
    let file = TempFile::with("nonblocking", &input);
    let (mut shown, output) = io::pipe().expect("pipe");
    SockRef::from(&output).set_nonblocking(true).expect("flags");
    let mut command = Command::new(env!("CARGO_BIN_EXE_eagain"));
    command.args(["connect", &echo_server()]).stdin(file.open()).stdout(output);
    let mut child = command.spawn().expect("spawn");
    drop(command);
    let mut all = Vec::new();
    shown.read_to_end(&mut all).expect("read");
    assert!(child.wait().expect("wait").success());
    assert!(all == input, "{} of {} bytes, or others", all.len(), input.len());
}

#[test]
fn a_reader_of_stdout_that_has_gone_ends_the_client_quietly() {
    let (gone, output) = io::pipe().expect("pipe");
    drop(gone);
    let mut command = Command::new(env!("CARGO_BIN_EXE_eagain"));
    command.args(["connect", &echo_server()]).stdin(TempFile::with("gone", b"hello").open());
    let output = command.stdout(output).stderr(Stdio::piped()).output().expect("spawn");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]));
}

#[test]
fn a_full_disk_is_told() {
    let full = File::options().write(true).open("/dev/full").expect("open");
    let mut command = Command::new(env!("CARGO_BIN_EXE_eagain"));
    command.args(["connect", &echo_server()]).stdin(TempFile::with("full-disk", b"hello").open());
    let output = command.stdout(full).stderr(Stdio::piped()).output().expect("spawn");
    let line = "eagain: cannot write the output: no space left on device\n";
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), line.as_bytes()));
}

/// Writes until `pipe` stays full: its reader has stopped reading. Returns how many bytes went in.
fn fill(pipe: &PipeWriter) -> usize {
    SockRef::from(&pipe).set_nonblocking(true).expect("flags");
    let (mut written, mut full_since) = (0, Instant::now());
    while full_since.elapsed() < Duration::from_millis(500) {
        match (&mut &*pipe).write(&[b'x'; 4096]) {
            Ok(count) => (written, full_since) = (written + count, Instant::now()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(e) => panic!("{e}"),
        }
        // The sockets' buffers take a few MiB.
        assert!(written < 64 << 20, "the client takes all it is given");
    }
    written
}

/// Neither running nor waiting for a processor: field 3 of /proc/PID/stat.
fn is_asleep(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let behind_name = stat.rsplit(')').next().expect("fields");
    behind_name.trim_start().starts_with('S')
}

fn peak_memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB")
}

#[test]
fn a_server_that_does_not_read_stops_the_input_and_costs_nothing() {
    let (go, told) = std::sync::mpsc::channel::<()>();
    let (address, _) = server(move |stream| {
        if told.recv().is_ok() {
            echo(stream);
        }
    });
    let mut client = Client::start(&[&address]);
    let mut written = fill(client.stdin.as_ref().expect("a pipe"));
    let pid = client.child.id();
    // The pipe's writer goes while the pipe is full: a HUP that an idle registration would report for ever.
    client.end_input();
    // It may have something to do yet: on a busy machine it has had no processor while we filled its pipe, and is seen
    // waiting for one. If it spins, this never ends.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let awake = (0..100).filter(|_| {
            thread::sleep(Duration::from_millis(2));
            !is_asleep(pid)
        });
        let awake = awake.count();
        if awake <= 10 {
            break;
        }
        assert!(Instant::now() < deadline, "a client with nothing to do was seen awake {awake} times of 100");
    }
    assert!(peak_memory_kib(pid) < 16 << 10);
    go.send(()).expect("the server waits");
    let outcome = client.outcome();
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    written -= outcome.out.len();
    assert_eq!(written, 0, "bytes missing");
}

/// A terminal is made by script(1) of util-linux; what we write to its stdin is typed there.
fn on_a_terminal(address: &str) -> Client {
    let (reader, writer) = io::pipe().expect("pipe");
    let line = format!("'{}' connect {address}", env!("CARGO_BIN_EXE_eagain"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(reader);
    let mut client = Client::spawn(&mut command);
    client.stdin = Some(writer);
    client
}

#[test]
fn on_a_terminal_a_line_comes_back_and_control_d_ends_it() {
    let (heard, line) = std::sync::mpsc::channel();
    let (address, _) = server(move |mut stream| {
        let mut line = [0; 6];
        stream.read_exact(&mut line).expect("a line");
        stream.write_all(&line).expect("answer");
        heard.send(()).expect("the test listens");
        echo(stream);
    });
    let mut client = on_a_terminal(&address);
    client.give(b"hello\n");
    line.recv_timeout(DEADLINE).expect("the line arrives");
    client.give(b"\x04");
    let outcome = client.outcome();
    let screen = String::from_utf8(outcome.out).expect("UTF-8");
    assert_eq!(outcome.code, Some(0), "{screen}");
    assert!(screen.contains(&format!("connected to {address}; ^D ends the input")), "{screen}");
    assert_eq!(screen.matches("hello\r\n").count(), 2, "typed and come back: {screen}");
}

#[test]
fn on_a_terminal_a_server_that_goes_is_told_at_once() {
    let (address, _) = server(drop);
    let outcome = on_a_terminal(&address).outcome();
    let screen = String::from_utf8(outcome.out).expect("UTF-8");
    assert_eq!(outcome.code, Some(1), "{screen}");
    assert!(screen.contains("eagain: the server closed the connection\r\n"), "{screen}");
}
