//! What the program says to people. Nothing here can fail: `println!` and `eprintln!` panic when the
//! reader has gone (`eagain --help | true`), and there is no one left to tell.

use std::fmt::{Display, Write as _};
use std::io::Write as _;

/// Writes `text` to stdout as it is.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Tells what goes well, where someone is watching.
pub(crate) fn note(what: impl Display) {
    error(what);
}

/// Writes `eagain: why` to stderr: one line and one `write(2)`, so that lines of several processes do not mix.
pub(crate) fn error(why: impl Display) {
    let line = format!("eagain: {}\n", one_line(&why.to_string()));
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
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
    fn a_reason_has_no_number_and_no_capital() {
        let e = std::io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(reason(&e), "permission denied");
        assert_eq!(reason(&std::io::ErrorKind::TimedOut.into()), "timed out");
    }
}
