//! Lines for stderr, written by a thread of its own: a reader of the log that is slow, or has stopped, must not stop
//! the server.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::say::{self, Level};

/// Lines of clients' input that may wait (up to 4 KiB each); then their clients do.
const INPUT_LINES_MAX: usize = 256;
/// Lines of any kind that may wait. What comes when they do is dropped, counted, and said.
const LINES_MAX: usize = 65_536;
/// How long the end of the program waits for a reader of stderr.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How many lines wait, and how many were dropped.
#[derive(Default)]
struct Count {
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

/// Where the workers leave their lines. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scribe {
    lines: Sender<(Level, String)>,
    count: Arc<Count>,
}

/// The thread that writes.
pub(crate) struct Writer {
    ended: Receiver<()>,
}

impl Scribe {
    pub(crate) fn start() -> io::Result<(Self, Writer)> {
        let (lines, waiting) = channel();
        let (alive, ended) = channel();
        let count = Arc::new(Count::default());
        let seen = Arc::clone(&count);
        let body = move || {
            write(&waiting, &seen);
            drop(alive);
        };
        std::thread::Builder::new().name("scribe".to_owned()).spawn(body)?;
        Ok((Self { lines, count }, Writer { ended }))
    }

    /// Leaves a line that must not be lost as long as there is any room.
    pub(crate) fn line(&self, line: impl Display) {
        self.tell(Level::Info, line);
    }

    /// As [`line`](Self::line), for what matters more, or less.
    pub(crate) fn tell(&self, level: Level, line: impl Display) {
        if !self.leave(level, line, LINES_MAX) {
            self.count.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Leaves a line of a client's input; `false` if too many wait.
    pub(crate) fn input_line(&self, line: impl Display) -> bool {
        self.leave(Level::Info, line, INPUT_LINES_MAX)
    }

    fn leave(&self, level: Level, line: impl Display, most: usize) -> bool {
        if self.count.waiting.load(Ordering::Relaxed) >= most {
            return false;
        }
        self.count.waiting.fetch_add(1, Ordering::Relaxed);
        // Nobody receives only if the thread has panicked; then there is nobody to tell.
        let _ = self.lines.send((level, line.to_string()));
        true
    }
}

impl Writer {
    /// Waits until everything is written, when all scribes are gone; not for ever, since stderr may be stuck.
    pub(crate) fn finish(self) {
        // A timeout cannot be told: stderr is what is stuck.
        let _ = self.ended.recv_timeout(LAST_LINES);
    }
}

fn write(lines: &Receiver<(Level, String)>, count: &Count) {
    while let Ok((level, line)) = lines.recv() {
        say::tell(level, line);
        count.waiting.fetch_sub(1, Ordering::Relaxed);
        let lost = count.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            say::warning(format_args!("{lost} lines were dropped: stderr is read too slowly"));
        }
    }
}
