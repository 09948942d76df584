//! HdrHistogram interval logs, format V2, as the tools of that library read and write them: a line for each second.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use super::outcome::Outcome;

/// What the format calls the times of an open loop that count from the sending.
pub(super) const SERVICE_TIME: &str = "service-time";
/// The longest line says its maximum in milliseconds, as the format's other tools do with nanoseconds.
const MAX_VALUE_DIVISOR: f64 = 1e6;

/// One line of a log.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Seconds since 1970, or since whatever the log counts from.
    pub(super) start: f64,
    /// Seconds.
    pub(super) length: f64,
    /// Nanoseconds.
    pub(super) values: Histogram<u64>,
}

/// The lines of each tag; those without a tag under the empty one.
pub(super) type Log = BTreeMap<String, Vec<Span>>;

/// Every interval of every run. Several outcomes are told apart by tags.
pub(super) fn show(outcomes: &[Outcome]) -> Result<Vec<u8>, String> {
    let (mut text, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let runs = || outcomes.iter().flat_map(|outcome| &outcome.runs);
    let base = runs().map(|run| run.started).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    builder.add_comment(&format!("[eagain bench {}; values are nanoseconds]", env!("CARGO_PKG_VERSION")));
    builder.with_base_time(base).with_start_time(base).with_max_value_divisor(MAX_VALUE_DIVISOR);
    let failed = |error: &dyn std::fmt::Display| format!("cannot write the log: {error}");
    let mut log = builder.begin_log_with(&mut text, &mut serializer).map_err(|error| failed(&error))?;
    for outcome in outcomes {
        let name = if outcomes.len() > 1 { outcome.plan.name.as_str() } else { "" };
        for run in &outcome.runs {
            let started = run.started.duration_since(base).unwrap_or_default();
            for interval in &run.intervals {
                let mut write = |values: &Histogram<u64>, tag: &str| {
                    log.write_histogram(
                        values,
                        started + interval.start,
                        interval.length,
                        Tag::new(tag).filter(|tag| !tag.is_empty()),
                    )
                };
                write(&interval.latency, name).map_err(|error| failed(&error))?;
                if let Some(service_time) = &interval.service_time {
                    let tag = if name.is_empty() { SERVICE_TIME.to_owned() } else { format!("{name}.{SERVICE_TIME}") };
                    write(service_time, &tag).map_err(|error| failed(&error))?;
                }
            }
        }
    }
    Ok(text)
}

/// Reads a log; an error says which line is none.
pub(super) fn parse(text: &[u8]) -> Result<Log, String> {
    let mut log = Log::new();
    let mut base = Duration::ZERO;
    for entry in IntervalLogIterator::new(text) {
        match entry {
            Err(hdrhistogram::serialization::interval_log::LogIteratorError::ParseError { offset }) => {
                let line = text[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
                return Err(format!("line {line} is not of an HdrHistogram log"));
            }
            Ok(LogEntry::StartTime(_)) => {}
            Ok(LogEntry::BaseTime(time)) => base = time,
            Ok(LogEntry::Interval(interval)) => {
                let unreadable =
                    || format!("the histogram at {} s is unreadable", interval.start_timestamp().as_secs_f64());
                let bytes = STANDARD.decode(interval.encoded_histogram()).map_err(|_| unreadable())?;
                let values = Deserializer::new().deserialize(&mut &bytes[..]).map_err(|_| unreadable())?;
                let tag = interval.tag().map_or(String::new(), |tag| tag.as_str().to_owned());
                log.entry(tag).or_default().push(Span {
                    start: (base + interval.start_timestamp()).as_secs_f64(),
                    length: interval.duration().as_secs_f64(),
                    values,
                });
            }
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::bench::plan::Plan;
    use crate::bench::record::{Interval, histogram};
    use crate::bench::run::{Run, sum};
    use proptest::prelude::*;

    /// An outcome whose intervals hold these values.
    fn outcome(intervals: &[Vec<u64>]) -> Outcome {
        let interval = |(at, values): (usize, &Vec<u64>)| {
            let mut latency = histogram();
            values.iter().for_each(|value| latency.record(*value).expect("in range"));
            let (start, length) = (Duration::from_secs(at as u64), Duration::from_secs(1));
            Interval { start, length, messages: latency.len(), bytes: 0, latency, service_time: None }
        };
        let mut run = Run::empty(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000), intervals.len() as f64);
        run.intervals = intervals.iter().enumerate().map(interval).collect();
        Outcome::new(Plan::new(Address::Tcp(Vec::new()), "one".to_owned()), vec![run])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_written_is_read_again(
            intervals in proptest::collection::vec(proptest::collection::vec(1..3_600_000_000_000u64, 0..20), 1..5)
        ) {
            let outcome = outcome(&intervals);
            let log = parse(&show(std::slice::from_ref(&outcome)).expect("written")).expect("read");
            let spans = &log[""];
            prop_assert_eq!(spans.len(), intervals.len());
            for (span, interval) in spans.iter().zip(&outcome.runs[0].intervals) {
                prop_assert!(span.values == interval.latency);
                prop_assert!((span.start - 1e9 - interval.start.as_secs_f64()).abs() < 1e-3 && span.length == 1.0);
            }
        }

        #[test]
        fn merging_loses_nothing_in_any_order_and_any_grouping(
            parts in proptest::collection::vec(proptest::collection::vec(1..10_000_000_000u64, 0..30), 1..6)
        ) {
            let one = |values: &Vec<u64>| {
                let mut part = histogram();
                values.iter().for_each(|value| part.record(*value).expect("in range"));
                part
            };
            let histograms: Vec<_> = parts.iter().map(one).collect();
            let whole = one(&parts.concat());
            prop_assert!(sum(histograms.iter()) == whole);
            prop_assert!(sum(histograms.iter().rev()) == whole);
            let (left, right) = histograms.split_at(histograms.len() / 2);
            prop_assert!(sum([sum(left.iter()), sum(right.iter())].iter()) == whole);
        }
    }

    #[test]
    fn what_is_no_log_is_refused_with_its_line() {
        let wrong = parse(b"#[comment]\nhello\n").expect_err("no log");
        assert!(wrong.contains("line 2"), "{wrong}");
        let wrong = parse(b"0.1,1.0,2.0,HISTFAAAAB\n").expect_err("cut");
        assert!(wrong.contains("unreadable"), "{wrong}");
        assert!(parse(b"").expect("empty").is_empty());
    }
}
