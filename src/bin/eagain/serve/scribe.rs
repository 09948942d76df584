//! Lines for stderr, written by a thread of its own: a reader of the log that is slow, or has stopped, must not stop
//! the server.

use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::quota::{Kind, Quotas, Verdict};
use crate::say::{self, Event, Level, Line};

/// Lines of clients' input that may wait (up to 4 KiB each); then their clients do.
const INPUT_LINES_MAX: usize = 256;
/// Lines of any kind that may wait. What comes when they do is dropped, counted, and said.
const LINES_MAX: usize = 65_536;
/// How long the end of the program waits for a reader of stderr.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How often it waits as long again while stderr takes lines, and who writes them only has no processor.
const LAST_ROUNDS: u32 = 10;

/// What the workers and the thread share.
#[derive(Default)]
struct Shared {
    waiting: AtomicUsize,
    dropped: AtomicUsize,
    quotas: Quotas,
}

/// A line; or nothing, but a look at the quotas is due.
type Message = Option<Line>;

/// Where the workers leave their lines. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scribe {
    lines: Sender<Message>,
    shared: Arc<Shared>,
}

/// The thread that writes.
pub(crate) struct Writer {
    ended: Receiver<()>,
}

impl Scribe {
    pub(crate) fn start() -> io::Result<(Self, Writer)> {
        let (lines, waiting) = channel();
        let (alive, ended) = channel();
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let body = move || {
            write(&waiting, &seen);
            drop(alive);
        };
        std::thread::Builder::new().name("scribe".to_owned()).spawn(body)?;
        Ok((Self { lines, shared }, Writer { ended }))
    }

    /// Leaves a line that must not be lost as long as there is any room.
    pub(crate) fn line(&self, line: impl Display) {
        self.tell(Level::Info, line);
    }

    /// As [`line`](Self::line), for what matters more, or less.
    pub(crate) fn tell(&self, level: Level, line: impl Display) {
        if say::is_told(level) {
            self.leave(Line::new(level, line));
        }
    }

    /// As [`tell`](Self::tell), for lines that clients can cause; too many of a kind are only counted.
    pub(crate) fn tell_some<M: Display>(&self, kind: Kind, line: impl FnOnce() -> (M, Event)) {
        if !say::is_told(kind.level()) {
            return;
        }
        match self.shared.quotas.take(kind, Instant::now()) {
            Verdict::Write => {
                let (message, event) = line();
                self.leave(Line::new(kind.level(), message).with(event));
            }
            Verdict::Count { first: true } => self.send(None),
            Verdict::Count { first: false } => {}
        }
    }

    /// As [`line`](Self::line), for what the program is asked to show, whatever the level.
    pub(crate) fn show(&self, line: impl Display, event: Event) {
        self.leave(Line::new(Level::Info, line).with(event));
    }

    /// As [`show`](Self::show), for a client's input; `false` if too many lines wait.
    pub(crate) fn show_input(&self, line: impl Display, event: Event) -> bool {
        let room = self.has_room(INPUT_LINES_MAX);
        if room {
            self.show(line, event);
        }
        room
    }

    fn has_room(&self, most: usize) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) < most
    }

    fn leave(&self, line: Line) {
        if self.has_room(LINES_MAX) {
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            self.send(Some(line));
        } else {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(&self, message: Message) {
        // Nobody receives only if the thread has panicked; then there is nobody to tell.
        let _ = self.lines.send(message);
    }
}

impl Writer {
    /// Waits until everything is written, when all scribes are gone; not for ever, since stderr may be stuck.
    pub(crate) fn finish(self) {
        for _ in 0..LAST_ROUNDS {
            // A timeout cannot be told: stderr is what is stuck.
            if self.ended.recv_timeout(LAST_LINES) != Err(RecvTimeoutError::Timeout) || !stderr_takes_more() {
                return;
            }
        }
    }
}

/// Whether a line could be written to stderr now.
fn stderr_takes_more() -> bool {
    let stderr = io::stderr();
    let mut list = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut list, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn write(lines: &Receiver<Message>, shared: &Shared) {
    loop {
        shared.quotas.due(Instant::now()).iter().for_each(Line::write);
        match next(lines, shared.quotas.next()) {
            Ok(Some(line)) => {
                line.write();
                shared.waiting.fetch_sub(1, Ordering::Relaxed);
                tell_dropped(shared);
            }
            Ok(None) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    shared.quotas.rest(Instant::now()).iter().for_each(Line::write);
}

/// Sleeps until there is a line, or it is `until`.
fn next(lines: &Receiver<Message>, until: Option<Instant>) -> Result<Message, RecvTimeoutError> {
    match until {
        Some(until) => lines.recv_timeout(until.saturating_duration_since(Instant::now())),
        None => lines.recv().map_err(|RecvError| RecvTimeoutError::Disconnected),
    }
}

/// Whatever the level: a log with a hole must say so.
fn tell_dropped(shared: &Shared) {
    let lost = shared.dropped.swap(0, Ordering::Relaxed);
    if lost > 0 {
        Line::new(Level::Warning, format_args!("{lost} lines were dropped: stderr is read too slowly")).write();
    }
}
