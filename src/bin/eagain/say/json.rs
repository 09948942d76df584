//! `--log-format json`: the fields of a line, in one place. docs/operations.md explains them.

use std::fmt::Display;
use std::time::SystemTime;

use eagain::{ConnectionId, Peer};
use serde::{Serialize, Serializer};

use super::Level;

/// What a line is about, for programs: everything that its message says to people.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Open {
        service: &'static str,
        #[serde(serialize_with = "shown")]
        peer: Peer,
        #[serde(serialize_with = "shown")]
        connection: ConnectionId,
    },
    Close {
        service: &'static str,
        #[serde(serialize_with = "shown")]
        peer: Peer,
        #[serde(serialize_with = "shown")]
        connection: ConnectionId,
        end: &'static str,
        /// Which error, or which timeout.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// Unknown if the level was higher when it began.
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    },
    TurnedAway {
        service: &'static str,
        #[serde(serialize_with = "shown")]
        peer: Peer,
        reason: &'static str,
    },
    Frame {
        #[serde(serialize_with = "shown")]
        peer: Peer,
        reason: String,
    },
    ProxyHeader {
        #[serde(serialize_with = "shown")]
        peer: Peer,
        reason: String,
    },
    Shortage {
        reason: String,
    },
    /// What the log service is for.
    Log {
        #[serde(serialize_with = "shown")]
        peer: Peer,
        what: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<usize>,
    },
    /// So many lines of a kind were not written.
    More {
        of: &'static str,
        count: u64,
        seconds: f64,
    },
    Trace,
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(serialize_with = "shown")]
    time: humantime::Rfc3339Timestamp,
    #[serde(serialize_with = "shown")]
    level: Level,
    priority: u8,
    message: &'a str,
    #[serde(flatten)]
    event: Option<&'a Event>,
}

fn shown<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The line as one object.
pub(super) fn object(time: SystemTime, level: Level, message: &str, event: Option<&Event>) -> String {
    let time = humantime::format_rfc3339_micros(time);
    let object = Object { time, level, priority: level as u8, message, event };
    // It fails for keys that are no strings only, and for a `Serialize` that fails: there are none.
    serde_json::to_string(&object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_without_an_event_has_four_fields() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(951_782_400_000_007);
        assert_eq!(
            object(time, Level::Warning, "a \"b\" \\ c", None),
            r#"{"time":"2000-02-29T00:00:00.000007Z","level":"warning","priority":4,"message":"a \"b\" \\ c"}"#
        );
    }

    #[test]
    fn the_fields_of_an_event_stand_beside_them() {
        let event = Event::More { of: "open", count: 3, seconds: 5.0 };
        let line = object(SystemTime::UNIX_EPOCH, Level::Debug, "", Some(&event));
        assert!(line.ends_with(r#""message":"","event":"more","of":"open","count":3,"seconds":5.0}"#), "{line}");
        let event = Event::Frame { peer: Peer::UNIX, reason: "x".to_owned() };
        let line = object(SystemTime::UNIX_EPOCH, Level::Info, "", Some(&event));
        assert!(line.ends_with(r#""event":"frame","peer":"unix","reason":"x"}"#), "{line}");
    }
}
