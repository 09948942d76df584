//! `eagain connect`: the terminal and the socket in one thread and one epoll, level-triggered.
//!
//! The way of a byte: stdin → [`Outgoing`] → socket, and socket → [`Incoming`] → stdout. Each turn asks the epoll for
//! what the queues need and for nothing else, so that a full queue stops its source.
//!
//! Neither stdin nor stdout is made non-blocking, for that would change them for the shell too
//! (RULE(nonblock-is-shared-by-dup)). stdin is read once per report, when there is something to read; stdout may block,
//! and then the socket is not read either, which is as it should be.

mod dial;
mod incoming;
mod outgoing;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use eagain::sys::epoll::{self, Epoll, Events, Interest, Mode, Timeout};
use eagain::sys::net;
use socket2::Socket;

use crate::cli;
use crate::say;
use dial::Dialled;
use incoming::{FrameTooLong, Incoming};
use outgoing::{LineTooLong, Outgoing};

/// stdin is not read while more than this is waiting to be sent.
const HIGH_WATER_BYTES: usize = 64 << 10;
/// One read of stdin or of the socket; Linux pipes hold as much.
const CHUNK_BYTES: usize = 64 << 10;

const SOCKET: u64 = 0;
const STDIN: u64 = 1;
const STDOUT: u64 = 2;

/// Why the exit code is 1.
enum Failure {
    /// To be said in one line.
    Said(String),
    /// The reader of stdout has gone and wants to hear nothing more.
    Quiet,
}

pub(crate) fn run(options: cli::Connect) -> ExitCode {
    match Session::open(&options).and_then(Session::talk) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Quiet) => ExitCode::FAILURE,
        Err(Failure::Said(why)) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

/// How the stream from the server ended.
enum End {
    /// It sent a FIN.
    Closed,
    /// The connection is gone, with what was on its way.
    Lost(io::Error),
    /// We do not want to go on: the input or the stream breaks a limit.
    GivenUp(String),
}

struct Session {
    epoll: Epoll,
    socket: Socket,
    stdin: File,
    stdout: File,
    socket_watch: Watch,
    stdin_watch: Watch,
    stdout_watch: Watch,
    outgoing: Outgoing,
    incoming: Incoming,
    /// Shown bytes that a non-blocking stdout (someone else's doing) has not taken; empty with any other.
    unshown: Vec<u8>,
    /// Set by `read_input` at the end of stdin.
    input_ended: bool,
    /// Set by `send` once all input is with the kernel and the FIN is sent.
    half_closed: bool,
    end: Option<End>,
    chunk: Vec<u8>,
    no_echo: bool,
    framed: bool,
}

impl Session {
    fn open(options: &cli::Connect) -> Result<Session, Failure> {
        let broken = |what: &str, e: io::Error| Failure::Said(format!("{what}: {}", say::reason(&e)));
        let stdin = own(io::stdin().as_fd()).map_err(|e| broken("cannot use stdin", e))?;
        let stdout = own(io::stdout().as_fd()).map_err(|e| broken("cannot use stdout", e))?;
        let epoll = Epoll::new().map_err(epoll_failure)?;
        let timeout = options.connect_timeout;
        let Dialled { socket, lost } =
            dial::dial(&epoll, &options.address, &options.address_text, timeout).map_err(Failure::Said)?;
        if stdin.is_terminal() && io::stderr().is_terminal() {
            let peer = &options.address_text;
            say::note(format_args!("connected to {peer}; ^D ends the input, ^C the program"));
        }
        let max_frame = options.frames.then_some(options.max_frame);
        let mut session = Session {
            epoll,
            socket,
            socket_watch: Watch::new(SOCKET),
            stdin_watch: Watch::new(STDIN),
            stdout_watch: Watch::new(STDOUT),
            outgoing: Outgoing::new(max_frame),
            incoming: Incoming::new(max_frame, options.hex, stdout.is_terminal()),
            stdin,
            stdout,
            unshown: Vec::new(),
            input_ended: false,
            half_closed: false,
            end: None,
            chunk: vec![0; CHUNK_BYTES],
            no_echo: options.no_echo,
            framed: options.frames,
        };
        if let Some(e) = lost {
            session.lose(e)?;
        }
        Ok(session)
    }

    fn talk(mut self) -> Result<(), Failure> {
        let mut events = Events::with_capacity(3);
        while self.end.is_none() || !self.unshown.is_empty() {
            self.watch().map_err(epoll_failure)?;
            let timeout = if self.input_is_always_ready() { Timeout::Now } else { Timeout::Never };
            self.epoll.wait(&mut events, timeout).map_err(epoll_failure)?;
            if self.input_is_always_ready() {
                self.read_input()?;
            }
            for event in &events {
                match event.data() {
                    STDIN => self.read_input()?,
                    STDOUT => self.show()?,
                    // An earlier event of this batch may have ended it.
                    SOCKET if event.should_read() && self.end.is_none() => self.receive()?,
                    _ => {}
                }
            }
            self.send()?;
        }
        self.verdict()
    }

    /// Asks for what the queues need.
    fn watch(&mut self) -> Result<(), epoll::Error> {
        let reads = self.end.is_none() && self.unshown.is_empty();
        let writes = self.end.is_none() && !self.outgoing.unsent().is_empty();
        let socket = match (reads, writes) {
            (true, true) => Some(Interest::READ | Interest::WRITE),
            (true, false) => Some(Interest::READ),
            (false, true) => Some(Interest::WRITE),
            (false, false) => None,
        };
        let stdin = self.wants_input().then_some(Interest::READ);
        let stdout = (!self.unshown.is_empty()).then_some(Interest::WRITE);
        self.socket_watch.set(&self.epoll, self.socket.as_fd(), socket)?;
        self.stdin_watch.set(&self.epoll, self.stdin.as_fd(), stdin)?;
        self.stdout_watch.set(&self.epoll, self.stdout.as_fd(), stdout)
    }

    fn wants_input(&self) -> bool {
        let room = self.outgoing.unsent().len() <= HIGH_WATER_BYTES;
        room && !self.input_ended && self.end.is_none()
    }

    fn input_is_always_ready(&self) -> bool {
        self.stdin_watch.always_ready && self.wants_input()
    }

    fn read_input(&mut self) -> Result<(), Failure> {
        if !self.wants_input() {
            return Ok(());
        }
        let why = match self.stdin.read(&mut self.chunk) {
            Ok(0) => {
                self.input_ended = true;
                self.outgoing.finish();
                return Ok(());
            }
            Ok(count) => match self.outgoing.push(&self.chunk[..count]) {
                Ok(()) => return Ok(()),
                Err(LineTooLong) => "a line of the input is longer than --max-frame allows".to_owned(),
            },
            Err(e) if is_transient(&e) => return Ok(()),
            Err(e) => format!("cannot read the input: {}", say::reason(&e)),
        };
        self.finish(End::GivenUp(why))
    }

    /// Sends what is queued; when the input is over and all is sent, the FIN.
    fn send(&mut self) -> Result<(), Failure> {
        while self.end.is_none() && !self.outgoing.unsent().is_empty() {
            match net::send(&self.socket, self.outgoing.unsent()) {
                Ok(count) => self.outgoing.advance(count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return self.lose(e),
            }
        }
        if self.end.is_none() && self.input_ended && !self.half_closed {
            self.half_closed = true;
            if let Err(e) = self.socket.shutdown(Shutdown::Write) {
                return self.lose(e);
            }
        }
        Ok(())
    }

    /// The connection is gone, as a failed send or a late SO_ERROR tells; but what came before that is still in the
    /// socket and is shown. It is no more than the kernel's receive buffer.
    fn lose(&mut self, error: io::Error) -> Result<(), Failure> {
        while self.end.is_none() {
            match net::recv_slice(&self.socket, &mut self.chunk) {
                // On a unix socket EPIPE is no more than a peer that has closed.
                Ok(0) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return self.finish(End::Closed);
                }
                Ok(0) => break,
                Ok(count) => self.take(count)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return self.finish(End::Lost(e)),
            }
        }
        self.finish(End::Lost(error))
    }

    fn receive(&mut self) -> Result<(), Failure> {
        match net::recv_slice(&self.socket, &mut self.chunk) {
            Ok(0) => self.finish(End::Closed),
            Ok(count) => self.take(count),
            Err(e) if is_transient(&e) => Ok(()),
            Err(e) => self.finish(End::Lost(e)),
        }
    }

    /// Shows the first `count` bytes of the chunk.
    fn take(&mut self, count: usize) -> Result<(), Failure> {
        let taken = self.incoming.take(&self.chunk[..count], &mut self.unshown);
        if let Err(FrameTooLong(length)) = taken {
            let why = format!(
                "the server announced a frame of {length} bytes; --max-frame allows fewer, \
                 or it does not speak frames"
            );
            return self.finish(End::GivenUp(why));
        }
        self.show()
    }

    /// Notes how the stream ended; what was noted first stays.
    fn finish(&mut self, end: End) -> Result<(), Failure> {
        if self.end.is_none() {
            self.end = Some(end);
            self.incoming.finish(&mut self.unshown);
        }
        self.show()
    }

    fn show(&mut self) -> Result<(), Failure> {
        let mut shown = 0;
        while shown < self.unshown.len() {
            match self.stdout.write(&self.unshown[shown..]) {
                Ok(count) => shown += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(Failure::Quiet),
                Err(e) => {
                    let why = format!("cannot write the output: {}", say::reason(&e));
                    return Err(Failure::Said(why));
                }
            }
        }
        self.unshown.drain(..shown);
        Ok(())
    }

    fn verdict(self) -> Result<(), Failure> {
        let unsent = self.outgoing.unsent().len();
        let (sent, back, unit) = match self.framed {
            true => (self.outgoing.total_frames, self.incoming.complete_frames(), "frames"),
            false => (self.outgoing.total_bytes, self.incoming.total_bytes, "bytes"),
        };
        let why = match self.end {
            Some(End::GivenUp(why)) => why,
            Some(End::Lost(e)) => lost_line(&e),
            _ if unsent > 0 => {
                format!("the server closed the connection; {unsent} bytes were not sent")
            }
            _ if !self.half_closed => "the server closed the connection".to_owned(),
            _ if self.incoming.is_inside_frame() => "the server closed the connection inside a frame".to_owned(),
            _ if !self.no_echo && back < sent => {
                format!("the server closed after {back} of {sent} {unit} had come back")
            }
            _ => return Ok(()),
        };
        Err(Failure::Said(why))
    }
}

fn lost_line(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => {
            "the server reset the connection".to_owned()
        }
        _ => format!("the connection is lost: {}", say::reason(e)),
    }
}

fn is_transient(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn epoll_failure(e: epoll::Error) -> Failure {
    Failure::Said(format!("epoll: {e}"))
}

/// The descriptor without std's buffer: what epoll does not see is not there for it.
fn own(fd: BorrowedFd<'_>) -> io::Result<File> {
    fd.try_clone_to_owned().map(File::from)
}

/// One descriptor's place in the epoll.
struct Watch {
    token: u64,
    current: Option<Interest>,
    /// RULE(stdin-file-eperm): epoll takes no regular file and no /dev/null; they never block.
    always_ready: bool,
}

impl Watch {
    fn new(token: u64) -> Watch {
        Watch { token, current: None, always_ready: false }
    }

    /// `None` takes the descriptor out. An empty interest would not do: HUP and ERR are reported whatever is asked,
    /// and a closed pipe that we do not want to read yet would wake every wait.
    fn set(&mut self, epoll: &Epoll, fd: BorrowedFd<'_>, wanted: Option<Interest>) -> Result<(), epoll::Error> {
        if self.always_ready || self.current == wanted {
            return Ok(());
        }
        match (self.current, wanted) {
            (None, Some(interest)) => match epoll.add(fd, self.token, interest, Mode::LEVEL) {
                Err(epoll::Error::NotPollable) => {
                    self.always_ready = true;
                    return Ok(());
                }
                added => added?,
            },
            (Some(_), Some(interest)) => epoll.modify(fd, self.token, interest, Mode::LEVEL)?,
            (_, None) => epoll.delete(fd)?,
        }
        self.current = wanted;
        Ok(())
    }
}
