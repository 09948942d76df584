//! What the program says to people. Nothing here can fail: `println!` and `eprintln!` panic when the
//! reader has gone (`eagain --help | true`), and there is no one left to tell.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::LazyLock;

/// Writes `text` to stdout as it is.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
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

/// Writes a line to stderr, by one `write(2)`, so that lines of several processes do not mix.
pub(crate) fn tell(level: Level, what: impl Display) {
    static JOURNAL: LazyLock<bool> = LazyLock::new(stderr_is_the_journal);
    let line = form(level, &what.to_string(), *JOURNAL);
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// `<4>what` for the journal, which adds time and name itself (sd-daemon(3)); `eagain: warning: what` for people.
fn form(level: Level, what: &str, journal: bool) -> String {
    let what = one_line(what);
    match level {
        _ if journal => format!("<{}>{what}\n", level as u8),
        Level::Warning => format!("eagain: warning: {what}\n"),
        _ => format!("eagain: {what}\n"),
    }
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
fn one_line(text: &str) -> String {
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
        assert_eq!(form(Level::Warning, "low", true), "<4>low\n");
        assert_eq!(form(Level::Error, "a\n<6>b", true), "<3>a\\n<6>b\n");
        assert_eq!(form(Level::Warning, "low", false), "eagain: warning: low\n");
        assert_eq!(form(Level::Info, "well", false), "eagain: well\n");
    }

    #[test]
    fn a_reason_has_no_number_and_no_capital() {
        let e = std::io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(reason(&e), "permission denied");
        assert_eq!(reason(&std::io::ErrorKind::TimedOut.into()), "timed out");
    }
}
