//! `--metrics`: `GET /metrics`, `/healthz` and `/readyz` over HTTP/1.1 (RFC 9112), as one more service of the loop.
//!
//! It answers from what is in memory and in `/proc`, so it never blocks. What a client can cost is bounded: a head of
//! [`HEAD_MAX_BYTES`], [`PATIENCE`] for each request, and no answer is made while 64 KiB of older ones wait. Bodies
//! are not read: a request that has one is answered, and its connection closed.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use eagain::{Client, Input, Next, Output, Service};
use httparse::{EMPTY_HEADER, Error, Header, Request, Status};

use super::exposition::Exposition;

/// Bytes of a request line and its header fields.
const HEAD_MAX_BYTES: usize = 8 * 1024;
const HEADER_FIELDS_MAX: usize = 64;
/// How long a request may take to come, from the answer to the one before. More than the usual intervals between two
/// scrapes, so that we do not hang up at the moment when the next one is on its way.
const PATIENCE: Duration = Duration::from_secs(75);

const PLAIN: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PATHS: &str = "there are /metrics, /healthz and /readyz\n";

/// The service.
pub(crate) struct Endpoint {
    exposition: Exposition,
}

/// What it remembers of a connection.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// Its deadline is set.
    timed: bool,
    /// Bytes of the unfinished head that hold no more to be found.
    searched: usize,
}

/// A complete head.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// Bytes that it took.
    length: usize,
    head_only: bool,
    /// Neither GET nor HEAD.
    other_method: bool,
    path: String,
    /// No other request may follow.
    last: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Head {
    Unfinished,
    Complete(Asked),
    Wrong(u16),
}

struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Endpoint {
    pub(crate) fn new(exposition: Exposition) -> Self {
        Self { exposition }
    }

    /// Answers every request that is complete, as long as there is room for answers.
    fn serve(&self, session: &mut Conversation, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let mut next = Next::More;
        while output.room() > 0 {
            let blank = input.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
            input.consume(blank);
            match find_head(session, input) {
                Head::Unfinished => break,
                Head::Wrong(status) => {
                    input.consume(input.len());
                    write(output, &Answer::short(status), true, false);
                    return Next::Finish;
                }
                Head::Complete(asked) => {
                    input.consume(asked.length);
                    write(output, &self.answer(&asked), asked.last, asked.head_only);
                    if asked.last {
                        return Next::Finish;
                    }
                    next = Next::At(output.now() + PATIENCE);
                }
            }
        }
        next
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let text = |status, body: &str| Answer { status, kind: PLAIN, body: body.to_owned() };
        match asked.path.as_str() {
            "/metrics" | "/healthz" | "/readyz" if asked.other_method => Answer::short(405),
            "/metrics" => Answer { status: 200, kind: EXPOSITION, body: self.exposition.text() },
            "/healthz" => text(200, "alive\n"),
            "/readyz" if self.exposition.is_draining() => text(503, "draining\n"),
            "/readyz" => text(200, "serving\n"),
            _ => Answer::short(404),
        }
    }
}

impl Service for Endpoint {
    type Session = Conversation;

    fn open(&mut self, _: &Client) -> Conversation {
        Conversation::default()
    }

    fn data(&mut self, session: &mut Conversation, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        self.serve(session, input, output)
    }

    fn room(&mut self, session: &mut Conversation, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        if std::mem::replace(&mut session.timed, true) {
            return self.serve(session, input, output);
        }
        Next::At(output.now() + PATIENCE)
    }

    fn timer(&mut self, _: &mut Conversation, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        if !output.is_empty() {
            return Next::Abort;
        }
        if !input.is_empty() {
            write(output, &Answer::short(408), true, false);
        }
        Next::Finish
    }

    fn eof(&mut self, session: &mut Conversation, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        match self.serve(session, input, output) {
            // There may be complete requests left.
            next @ (Next::More | Next::At(_)) if output.room() == 0 => next,
            _ => Next::Finish,
        }
    }

    fn input_limit(&self, _: &Conversation) -> usize {
        HEAD_MAX_BYTES + 1
    }
}

/// The first head of the input. It is parsed when a line has ended, not at every byte, and there are only so many
/// lines.
fn find_head(session: &mut Conversation, input: &[u8]) -> Head {
    let searched = std::mem::replace(&mut session.searched, input.len());
    if !input[searched.min(input.len())..].contains(&b'\n') {
        return match input.first() {
            // TLS, for instance, which may wait for ever for what we would say to it.
            Some(first) if !first.is_ascii_alphabetic() => Head::Wrong(400),
            _ if input.len() > HEAD_MAX_BYTES => Head::Wrong(431),
            _ => Head::Unfinished,
        };
    }
    let mut fields = [EMPTY_HEADER; HEADER_FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    match request.parse(&input[..input.len().min(HEAD_MAX_BYTES)]) {
        Ok(Status::Complete(length)) => {
            session.searched = 0;
            understand(&request, length)
        }
        Ok(Status::Partial) if input.len() > HEAD_MAX_BYTES => Head::Wrong(431),
        Ok(Status::Partial) => Head::Unfinished,
        Err(Error::TooManyHeaders) => Head::Wrong(431),
        Err(Error::Version) => Head::Wrong(505),
        Err(_) => Head::Wrong(400),
    }
}

fn understand(request: &Request<'_, '_>, length: usize) -> Head {
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let values = |name| request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    // RFC 9112, 3.2: exactly one Host, or 400.
    if request.version == Some(1) && values("host").count() != 1 {
        return Head::Wrong(400);
    }
    let has_body = values("transfer-encoding").next().is_some() || values("content-length").any(|f| f.value != b"0");
    let close = values("connection").any(|field| has_token(field, "close"));
    Head::Complete(Asked {
        length,
        head_only: method == "HEAD",
        other_method: method != "GET" && method != "HEAD",
        path: path_of(target).to_owned(),
        last: request.version == Some(0) || close || has_body,
    })
}

/// Whether a comma-separated field has this token.
fn has_token(field: &Header<'_>, token: &str) -> bool {
    field.value.split(|&byte| byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// `/metrics` of `/metrics?x=1`, and of `http://host/metrics`, which a server must understand too (RFC 9112, 3.2.2).
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    path.split('?').next().unwrap_or(path)
}

impl Answer {
    /// The reason, as text.
    fn short(status: u16) -> Self {
        let more = match status {
            404 => PATHS,
            405 => "use GET or HEAD\n",
            _ => "\n",
        };
        let separator = if more.len() > 1 { ": " } else { "" };
        Self { status, kind: PLAIN, body: format!("{}{separator}{more}", reason(status)) }
    }
}

/// RFC 9110, 15; RFC 6585 for 431.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "HTTP Version Not Supported",
    }
}

fn write(output: &mut Output<'_>, answer: &Answer, last: bool, head_only: bool) {
    let mut head = format!(
        "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
        answer.status,
        reason(answer.status),
        http_date(SystemTime::now()),
        answer.kind,
        answer.body.len(),
    );
    if answer.status == 405 {
        head.push_str("Allow: GET, HEAD\r\n");
    }
    if last {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    output.write(head.as_bytes());
    if !head_only {
        output.write(answer.body.as_bytes());
    }
}

/// As in RFC 9110, 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`. The calendar is that of Howard Hinnant's `civil_from_days`.
fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from March 1 of the year 0, so that a leap day is the last one of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    let mut text = format!("{}, {day:02} {} {year}", DAYS[(days % 7) as usize], MONTHS[month as usize]);
    let _ = write!(text, " {:02}:{:02}:{:02} GMT", second / 3600, second / 60 % 60, second % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let date = |seconds| http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(951_782_399), "Mon, 28 Feb 2000 23:59:59 GMT");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(date(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
        assert_eq!(date(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    }

    #[test]
    fn a_path_has_no_query_and_no_host() {
        for target in ["/metrics", "/metrics?a=b?c", "http://h:1/metrics", "HTTP://h/metrics?x"] {
            assert_eq!(path_of(target), "/metrics");
        }
        assert_eq!(path_of("http://h"), "/");
        assert_eq!(path_of("/a://b/metrics"), "/a://b/metrics");
    }
}
