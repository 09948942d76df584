//! What the tests of the program share: a server that is started and always stopped, clients whose
//! every call has a deadline, bytes that betray loss and reordering, and a macro that runs a fact
//! under both disciplines.
//!
//! Everything goes through the public door: the command line, sockets, signals and `/proc`.
//! `EAGAIN_BIN` names another binary to test, for instance the release build.
#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]
#![allow(unused_imports, unused_macros, reason = "likewise")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take before it counts as hung. Only a failing test ever waits this long,
/// so it is generous: the machine may be busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Port 0 of the loopback address: the kernel chooses, the `listening` line tells.
pub(crate) const ANY: &str = "127.0.0.1:0";

const SERVICES: [&str; 7] = ["echo", "discard", "chargen", "frames", "log", "delay", "metrics"];

/// Under which model, which discipline and with how many workers a fact is tested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) edge_triggered: bool,
    pub(crate) workers: u32,
    /// `--model`, if it is not epoll; then the two others say nothing.
    pub(crate) model: Option<&'static str>,
}

impl Setup {
    /// The options of `serve` that select this setup.
    pub(crate) fn args(self) -> Vec<String> {
        if let Some(model) = self.model {
            return vec!["--model".to_owned(), model.to_owned()];
        }
        let mut args = vec!["--workers".to_owned(), self.workers.to_string()];
        if self.edge_triggered {
            args.push("--edge-triggered".to_owned());
        }
        args
    }

    /// `eagain serve` with this setup and `more` options.
    #[track_caller]
    pub(crate) fn serve(self, more: &[&str]) -> Server {
        let setup = self.args();
        let args: Vec<&str> = setup.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Server::start(&args)
    }
}

/// Makes four tests of each function `fn fact(setup: Setup)` in the list: {level, edge} × {1, 2
/// workers}. A function that is missing from the list is dead code, which Clippy reports.
macro_rules! in_every_setup {
    ($($fact:ident),+ $(,)?) => {
        $crate::common::in_one_setup!(level_1, false, 1, $($fact),+);
        $crate::common::in_one_setup!(level_2, false, 2, $($fact),+);
        $crate::common::in_one_setup!(edge_1, true, 1, $($fact),+);
        $crate::common::in_one_setup!(edge_2, true, 2, $($fact),+);
    };
}
pub(crate) use in_every_setup;

/// As [`in_every_setup`], and under the other models too: eight tests of each.
macro_rules! in_every_model {
    ($($fact:ident),+ $(,)?) => {
        $crate::common::in_every_setup!($($fact),+);
        $crate::common::in_other_models!($($fact),+);
    };
}
pub(crate) use in_every_model;

/// Under the models that are not epoll: four tests of each function.
macro_rules! in_other_models {
    ($($fact:ident),+ $(,)?) => {
        $crate::common::in_one_setup!(threads, Some("threads"), false, 1, $($fact),+);
        $crate::common::in_one_thread!($($fact),+);
    };
}
pub(crate) use in_other_models;

/// Under select, poll and completion: three tests of each function.
macro_rules! in_one_thread {
    ($($fact:ident),+ $(,)?) => {
        $crate::common::in_one_setup!(select, Some("select"), false, 1, $($fact),+);
        $crate::common::in_one_setup!(poll, Some("poll"), false, 1, $($fact),+);
        $crate::common::in_one_setup!(completion, Some("completion"), false, 1, $($fact),+);
    };
}
pub(crate) use in_one_thread;

macro_rules! in_one_setup {
    ($module:ident, $edge_triggered:literal, $workers:literal, $($fact:ident),+) => {
        $crate::common::in_one_setup!($module, None, $edge_triggered, $workers, $($fact),+);
    };
    ($module:ident, $model:expr, $edge_triggered:literal, $workers:literal, $($fact:ident),+) => {
        mod $module {
            $(#[test]
            fn $fact() {
                let (edge_triggered, workers, model) = ($edge_triggered, $workers, $model);
                super::$fact($crate::common::Setup { edge_triggered, workers, model });
            })+
        }
    };
}
pub(crate) use in_one_setup;

/// A running `eagain serve`. Dropping it kills the process; if the test has failed, what the server
/// said is printed.
pub(crate) struct Server {
    child: Child,
    listening: Vec<(String, String)>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts `eagain serve ARGS` and waits until it has named every listener that `args` ask for.
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Server {
        Server::start_as(Command::new(program()), args)
    }

    /// As [`Server::start`], by a command that turns into the program, as `prlimit PROGRAM` does.
    #[track_caller]
    pub(crate) fn start_as(command: Command, args: &[&str]) -> Server {
        let asked = args.iter().filter(|arg| is_listener_option(arg)).count();
        assert!(asked > 0, "name a listener: the default ports are shared by all tests");
        let mut server = Server::spawn_as(command, args);
        server.wait_until_listening(asked);
        server
    }

    /// Starts `eagain serve ARGS` and waits for nothing: for servers that are expected to fail.
    #[track_caller]
    pub(crate) fn spawn(args: &[&str]) -> Server {
        Server::spawn_as(Command::new(program()), args)
    }

    /// As [`Server::spawn`], by a command that turns into the program.
    #[track_caller]
    pub(crate) fn spawn_as(mut command: Command, args: &[&str]) -> Server {
        let mut child = command
            .arg("serve")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program()));
        let (stdout, stdout_reader) = collect(child.stdout.take().unwrap());
        let (stderr, stderr_reader) = collect(child.stderr.take().unwrap());
        let readers = vec![stdout_reader, stderr_reader];
        Server { child, listening: Vec::new(), stdout, stderr, readers }
    }

    /// Waits until so many listeners are named, for those that a file asks for.
    #[track_caller]
    pub(crate) fn wait_until_listening(&mut self, asked: usize) {
        let start = Instant::now();
        while self.listening.len() < asked {
            // The exit is looked at before the output: what a dying process said last still counts.
            let exited = self.child.try_wait().unwrap();
            self.listening = parse_listening(&self.stdout());
            let in_time = exited.is_none() && start.elapsed() < DEADLINE;
            assert!(
                self.listening.len() >= asked || in_time,
                "{asked} listeners asked for, `listening` lines: {:?}, exit: {exited:?}",
                self.listening
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The address of the first listener of `service`, as the server printed it.
    #[track_caller]
    pub(crate) fn addr(&self, service: &str) -> &str {
        self.addrs(service).first().copied().unwrap_or_else(|| panic!("no listener for {service}"))
    }

    /// The addresses of all listeners of `service` in the order of their lines.
    pub(crate) fn addrs(&self, service: &str) -> Vec<&str> {
        let of_service = self.listening.iter().filter(|(name, _)| name == service);
        of_service.map(|(_, address)| address.as_str()).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything on standard output so far.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().unwrap()).into_owned()
    }

    /// Everything on standard error so far, as the bytes that a terminal would get.
    pub(crate) fn stderr_bytes(&self) -> Vec<u8> {
        self.stderr.lock().unwrap().clone()
    }

    /// Everything on standard error so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    /// The number of open descriptors of the server. For a number to come back to, let it come to
    /// rest first: the listeners are named while the workers may still be starting.
    #[track_caller]
    pub(crate) fn fd_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    /// Waits until the server has exactly `count` descriptors open.
    #[track_caller]
    pub(crate) fn wait_for_fd_count(&self, count: usize) {
        let start = Instant::now();
        while self.fd_count() != count {
            let now = self.fd_count();
            assert!(start.elapsed() < DEADLINE, "the server has {now} descriptors open instead of {count}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Resident memory in bytes (`VmRSS`, proc_pid_status(5)).
    #[track_caller]
    pub(crate) fn rss(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a running process has VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Processor time used so far by all threads, user and system, in clock ticks of 10 ms
    /// (proc_pid_stat(5)).
    #[track_caller]
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = self.proc_file("stat");
        // The name in parentheses may hold anything; after it utime and stime are fields 12 and 13.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// Waits for half a second in which the server uses no more than one tick of processor time. A
    /// loaded machine makes the wait longer but not the server busier.
    #[track_caller]
    pub(crate) fn wait_until_idle(&self) {
        let start = Instant::now();
        loop {
            let before = self.cpu_ticks();
            thread::sleep(Duration::from_millis(500));
            let used = self.cpu_ticks() - before;
            if used <= 1 {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "the server does not come to rest: {used} ticks in half a second");
        }
    }

    /// Waits until every thread of the server sleeps: what had arrived has been dealt with.
    #[track_caller]
    pub(crate) fn wait_until_at_rest(&self) {
        // A thread that sleeps twice with the same number of switches has slept all the time
        // between, and the times of all threads have the moment between the two looks in common.
        wait_until("the server is at rest", || {
            let first = self.threads();
            first.iter().all(|thread| thread.state == 'S') && self.threads() == first
        });
    }

    /// Stops the server with SIGSTOP, so that several things can happen before it looks. The kernel
    /// still accepts connections for it, and bytes.
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        wait_until("the server has stopped", || self.threads().iter().all(|thread| thread.state == 'T'));
    }

    #[track_caller]
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn threads(&self) -> Vec<ThreadState> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the server runs");
        // A thread that ends meanwhile has no status to read and is left out.
        let status =
            |task: io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("status")).ok();
        tasks.filter_map(status).map(|status| ThreadState::parse(&status)).collect()
    }

    #[track_caller]
    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).expect("the server runs")
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the server runs");
    }

    /// Sends SIGTERM and waits for the exit.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_for_exit()
    }

    /// Waits until the server has gone and all that it said has been collected.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let status = wait_with_deadline(&mut self.child).expect("the server does not exit");
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Whether the server has ended already.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Fails if the server has ended, which a test of hostile input has to ask.
    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        let exited = self.child.try_wait().unwrap();
        assert!(exited.is_none(), "the server has ended: {exited:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() {
            println!("--- the server's standard output:\n{}", self.stdout());
            println!("--- the server's standard error:\n{}---", self.stderr());
        }
    }
}

/// What a thread of the server was doing when `/proc` was read.
#[derive(PartialEq)]
struct ThreadState {
    id: u32,
    /// `R` running, `S` sleeping, `T` stopped (proc_pid_status(5)).
    state: char,
    switches: u64,
}

impl ThreadState {
    fn parse(status: &str) -> ThreadState {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
        };
        ThreadState {
            id: field("Pid:").parse().unwrap(),
            state: field("State:").chars().next().unwrap(),
            switches: field("voluntary_ctxt_switches:").parse().unwrap(),
        }
    }
}

/// The program under test.
pub(crate) fn program() -> String {
    std::env::var("EAGAIN_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_eagain").to_owned())
}

fn is_listener_option(arg: &str) -> bool {
    let name = arg.split('=').next().unwrap_or(arg);
    name.strip_prefix("--").is_some_and(|name| SERVICES.contains(&name))
}

/// The complete `listening SERVICE ADDRESS` lines in `stdout`.
fn parse_listening(stdout: &str) -> Vec<(String, String)> {
    let complete = stdout.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let listening = complete.filter_map(|line| line.strip_prefix("listening ")?.split_once(' '));
    listening.map(|(service, address)| (service.to_owned(), address.to_owned())).collect()
}

/// Collects a pipe in a thread, so that the process at its other end never waits for a reader.
pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&collected);
    let reader = thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut chunk) {
            sink.lock().unwrap().extend_from_slice(&chunk[..count]);
        }
    });
    (collected, reader)
}

/// Waits for the end of `child`; `None` if it is not over within the deadline, and then the child
/// is killed.
pub(crate) fn wait_with_deadline(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Waits until `condition` holds; `what` names it if it never does.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "this never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The children of all threads of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let lists: Vec<String> = tasks.into_iter().flatten().flatten().map(of).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

/// What a process was started with; nothing if it has ended.
pub(crate) fn arguments(pid: u32) -> Vec<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split_terminator('\0').map(str::to_owned).collect()
}

/// Raises the limit on open files of this process to its hard limit and returns it.
pub(crate) fn raise_nofile_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

/// Says past the test harness, which keeps the output of tests that pass, what was left out and
/// why.
pub(crate) fn not_tested(why: &str) {
    // Where standard error is closed, nobody is there to be told.
    let _ = io::stderr().write_all(format!("not tested: {why}\n").as_bytes());
}

/// Tests with thousands of connections take turns: together they would need more descriptors than
/// one process has.
pub(crate) fn one_crowd_at_a_time() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::new(());
    CROWD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port of the loopback at which nobody listens. As long as this lives, the kernel gives it to nobody who asks for
/// any port, as other tests do; a program that is told the number can listen there, if it sets SO_REUSEADDR
/// (socket(7)).
pub(crate) struct FreePort(socket2::Socket);

impl FreePort {
    pub(crate) fn new() -> FreePort {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any: std::net::SocketAddr = ANY.parse().unwrap();
        socket.bind(&any.into()).unwrap();
        FreePort(socket)
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// A connection to `address` (`HOST:PORT`) without Nagle's delay, on which every call has a
/// deadline.
#[track_caller]
pub(crate) fn connect(address: &str) -> TcpStream {
    let address = address.parse().unwrap_or_else(|_| panic!("not HOST:PORT: {address}"));
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// As [`connect`], with the smallest receive buffer that the kernel grants: asked for 4,096 bytes,
/// which it doubles for its own bookkeeping (SO_RCVBUF, socket(7)). Set before the connection, so
/// that the window offered is small as well.
#[track_caller]
pub(crate) fn connect_with_small_receive_buffer(address: &str) -> TcpStream {
    let address: std::net::SocketAddr = address.parse().expect("HOST:PORT");
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect_timeout(&address.into(), DEADLINE).expect("connect");
    socket.set_tcp_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket.into()
}

/// A connection to `unix:PATH` or `unix:@NAME` on which every call has a deadline.
#[track_caller]
pub(crate) fn connect_unix(address: &str) -> UnixStream {
    let name = address.strip_prefix("unix:").unwrap_or_else(|| panic!("not unix:PATH: {address}"));
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(name),
    };
    let stream = UnixStream::connect_addr(&address.unwrap()).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Sends all of `bytes`.
#[track_caller]
pub(crate) fn send(mut stream: impl Write, bytes: &[u8]) {
    stream.write_all(bytes).unwrap_or_else(|error| panic!("send of {} bytes: {error}", bytes.len()));
}

/// Receives exactly as many bytes as `expected` has and compares them.
#[track_caller]
pub(crate) fn expect(mut stream: impl Read, expected: &[u8]) {
    let mut received = Vec::with_capacity(expected.len());
    let outcome = stream.by_ref().take(expected.len() as u64).read_to_end(&mut received);
    assert_same(&received, expected);
    outcome.expect("recv");
}

/// Sends `input` until the server reads no more of it, because its answers are not read and their bound is reached.
/// Returns how much it has read by then: a client that sends a little less and stops leaves the server with output that
/// the kernel does not take.
#[track_caller]
pub(crate) fn send_until_refused(server: &Server, client: &TcpStream, input: &[u8]) -> usize {
    let mut sent = 0;
    for piece in input.chunks(SMALL_PIECE) {
        send_small_pieces(server, client, piece);
        sent += piece.len();
        let unread = unread_by_the_server(client);
        if unread > 0 {
            return sent - unread;
        }
    }
    panic!("the server has read {sent} bytes from a client that does not read the answers");
}

/// Small enough to fit into a receive buffer that is empty.
const SMALL_PIECE: usize = 32 * 1024;

/// Sends `bytes` so that the server comes to rest after each piece.
#[track_caller]
pub(crate) fn send_small_pieces(server: &Server, client: &TcpStream, bytes: &[u8]) {
    for piece in bytes.chunks(SMALL_PIECE) {
        send(client, piece);
        server.wait_until_at_rest();
    }
}

/// How many bytes from `client` wait in the server's socket (`rx_queue` in `/proc/net/tcp`, proc_pid_net(5)).
#[track_caller]
fn unread_by_the_server(client: &TcpStream) -> usize {
    let ends =
        format!(":{:04X} 0100007F:{:04X} ", client.peer_addr().unwrap().port(), client.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.contains(&ends)).expect("the server's end of the connection");
    let queues = line.split_whitespace().nth(4).unwrap();
    usize::from_str_radix(queues.split_once(':').unwrap().1, 16).unwrap()
}

/// Receives until the other side has finished and compares; a reset is a failure, an empty
/// `expected` asks for EOF alone.
#[track_caller]
pub(crate) fn expect_to_end(mut stream: impl Read, expected: &[u8]) {
    let mut received = Vec::with_capacity(expected.len());
    let outcome = stream.read_to_end(&mut received);
    assert_same(&received, expected);
    outcome.expect("recv until the end");
}

/// Asserts that nothing at all has arrived: no byte, no end, no error. What is on its way is not
/// waited for, so let the server come to rest first.
#[track_caller]
pub(crate) fn expect_silence(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let outcome = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        other => panic!("the server is not silent: {other:?}"),
    }
}

/// Sends `bytes` and receives as many at the same time, as an echo of more than the socket buffers
/// needs.
#[track_caller]
pub(crate) fn exchange(stream: &TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| send(stream, bytes));
        expect(stream, bytes);
    });
}

/// No more will be sent: the client's FIN.
#[track_caller]
pub(crate) fn half_close(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("shutdown");
}

/// Closes with an RST instead of a FIN (SO_LINGER with time 0, socket(7)).
#[track_caller]
pub(crate) fn rst(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// `length` bytes that depend on their position and on `seed`: a lost, doubled or swapped byte does
/// not go unseen.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    // splitmix64 (Steele, Lea, Flood 2014): consecutive states, well mixed.
    let mut state = seed.wrapping_mul(0xD1B5_4A32_D192_ED03);
    let mut bytes = Vec::with_capacity(length + 7);
    while bytes.len() < length {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // Whole words: byte by byte a debug build takes a second for what some tests send.
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(received: &[u8], expected: &[u8]) {
    if received == expected {
        return;
    }
    let same = received.iter().zip(expected).take_while(|(left, right)| left == right).count();
    let after = |bytes: &[u8]| bytes[same..bytes.len().min(same + 24)].escape_ascii().to_string();
    panic!(
        "received {} bytes, expected {}; they differ from byte {same}: received \"{}\", expected \"{}\"",
        received.len(),
        expected.len(),
        after(received),
        after(expected)
    );
}

/// One frame: the length of `payload` as 4 bytes, big-endian, and `payload`.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload shorter than 4 GiB");
    [&length.to_be_bytes(), payload].concat()
}
