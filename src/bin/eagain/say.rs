//! What the program says to people. Nothing here can fail: `println!` and `eprintln!` panic when the
//! reader has gone (`eagain --help | true`), and there is no one left to tell.

use std::fmt::{Display, Write as _};
use std::io::Write as _;

/// Writes `text` to stdout as it is.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Writes `eagain: why` to stderr: one line and one `write(2)`, so that lines of several processes do not mix.
pub(crate) fn error(why: impl Display) {
    let line = format!("eagain: {}\n", one_line(&why.to_string()));
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
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
    use super::one_line;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\nb\x1b[2Jc\u{85}ü"), "a\\nb\\u{1b}[2Jc\\u{85}ü");
    }
}
