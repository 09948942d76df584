//! What the program says to people. Nothing here can fail: `println!` and `eprintln!` panic when the
//! reader has gone (`eagain --help | true`), and there is no one left to tell.

mod json;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Display, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::SystemTime;

pub(crate) use self::json::Event;

/// Writes `text` to stdout as it is.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The same for what was asked for, and must not be taken for whole if it is not: a full disk is an error. A reader
/// who has gone (`| head`) has had enough.
pub(crate) fn deliver(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("stdout: {}", reason(&error))),
        _ => Ok(()),
    }
}

/// How much a line matters, as syslog(3) and the journal number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

impl Level {
    pub(crate) const ALL: [Self; 5] = [Self::Error, Self::Warning, Self::Notice, Self::Info, Self::Debug];
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        })
    }
}

/// What a line on stderr looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Of the whole program, as stderr is.
static FORMAT: OnceLock<Format> = OnceLock::new();
/// Lines of a higher number are not written.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static JOURNAL: LazyLock<bool> = LazyLock::new(stderr_is_the_journal);

/// To be called once, before the first line.
pub(crate) fn set_format(format: Format) {
    let _ = FORMAT.set(format);
    if format == Format::Json || *JOURNAL {
        std::panic::set_hook(Box::new(tell_panic));
    }
}

/// As the standard library does, but in one line, with a priority.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let trace = Backtrace::capture();
    match trace.status() {
        BacktraceStatus::Captured => error(format_args!("thread {name} {panic}\n{trace}")),
        _ => error(format_args!("thread {name} {panic}")),
    }
}

pub(crate) fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether lines of this level are written.
#[inline]
pub(crate) fn is_told(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Tells what goes well, where someone is watching.
pub(crate) fn note(what: impl Display) {
    tell(Level::Info, what);
}

/// Tells why it does not go as it was asked to, or will not for long.
pub(crate) fn warning(what: impl Display) {
    tell(Level::Warning, what);
}

/// Tells why the program ends.
pub(crate) fn error(why: impl Display) {
    tell(Level::Error, why);
}

/// Writes a line to stderr if lines of this level are written.
pub(crate) fn tell(level: Level, what: impl Display) {
    if is_told(level) {
        Line::new(level, what).write();
    }
}

/// A line for stderr.
pub(crate) struct Line {
    time: SystemTime,
    level: Level,
    message: String,
    event: Option<Event>,
}

impl Line {
    /// Of this moment.
    pub(crate) fn new(level: Level, message: impl Display) -> Self {
        Self { time: SystemTime::now(), level, message: message.to_string(), event: None }
    }

    pub(crate) fn with(self, event: Event) -> Self {
        Self { event: Some(event), ..self }
    }

    /// Writes it, whatever its level, by one `write(2)`, so that lines of several processes do not mix.
    pub(crate) fn write(&self) {
        let line = form(self, *FORMAT.get().unwrap_or(&Format::Text), *JOURNAL);
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// `<4>what` for the journal, which adds time and name itself and takes the priority out again (sd-daemon(3)), also out
/// of JSON; `eagain: warning: what` for people.
fn form(line: &Line, format: Format, journal: bool) -> String {
    // In JSON too: whoever decodes it most likely shows it on a terminal.
    let message = one_line(&line.message);
    let text = match (format, line.level) {
        (Format::Json, level) => json::object(line.time, level, &message, line.event.as_ref()),
        (Format::Text, _) if journal => message,
        (Format::Text, Level::Warning) => format!("eagain: warning: {message}"),
        (Format::Text, _) => format!("eagain: {message}"),
    };
    if journal { format!("<{}>{text}\n", line.level as u8) } else { format!("{text}\n") }
}

/// Whether stderr is what JOURNAL_STREAM names; it is inherited by processes whose stderr goes elsewhere
/// (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let file = stderr.and_then(|stderr| stderr.metadata());
    file.is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

/// What an error of the system says, to stand after a colon: "Permission denied (os error 13)" → "permission denied".
pub(crate) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |c| c.to_lowercase().chain(letters).collect())
}

/// `text` with its control characters escaped: a message may quote what a user, a file or a peer wrote,
/// and that must neither start a second line nor command the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\nb\x1b[2Jc\u{85}ü"), "a\\nb\\u{1b}[2Jc\\u{85}ü");
    }

    #[test]
    fn the_journal_gets_the_priority_and_people_get_the_name() {
        let form = |level, what, journal| form(&Line::new(level, what), Format::Text, journal);
        assert_eq!(form(Level::Warning, "low", true), "<4>low\n");
        assert_eq!(form(Level::Error, "a\n<6>b", true), "<3>a\\n<6>b\n");
        assert_eq!(form(Level::Warning, "low", false), "eagain: warning: low\n");
        assert_eq!(form(Level::Info, "well", false), "eagain: well\n");
    }

    #[test]
    fn json_has_the_priority_of_the_journal_in_front_and_escapes_even_when_decoded() {
        let line = form(&Line::new(Level::Notice, "a\nb\u{9b}2J\""), Format::Json, true);
        let object = line.strip_prefix("<5>").unwrap().strip_suffix('\n').unwrap();
        let object: serde_json::Value = serde_json::from_str(object).unwrap();
        assert_eq!(object["message"], "a\\nb\\u{9b}2J\"");
        assert!(form(&Line::new(Level::Info, ""), Format::Json, false).starts_with('{'));
    }

    #[test]
    fn a_reason_has_no_number_and_no_capital() {
        let e = std::io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(reason(&e), "permission denied");
        assert_eq!(reason(&std::io::ErrorKind::TimedOut.into()), "timed out");
    }
}
