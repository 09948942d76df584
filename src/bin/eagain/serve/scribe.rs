//! Lines for stderr, written by a thread of its own: a reader of the log that is slow, or has stopped, must not stop
//! the server.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::say;

/// Lines that may wait. What comes when they do is dropped, counted, and said.
const LINES_MAX: usize = 4096;

/// Where the workers leave their lines. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scribe {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

impl Scribe {
    pub(crate) fn start() -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&dropped);
        std::thread::Builder::new().name("scribe".to_owned()).spawn(move || write(&waiting, &seen))?;
        Ok(Self { lines, dropped })
    }

    /// Leaves a line; never blocks.
    pub(crate) fn line(&self, line: impl Display) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line.to_string()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(lines: &Receiver<String>, dropped: &AtomicU64) {
    while let Ok(line) = lines.recv() {
        say::note(line);
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            say::note(format_args!("{lost} lines were dropped: stderr is read too slowly"));
        }
    }
}
