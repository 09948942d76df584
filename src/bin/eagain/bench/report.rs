//! `eagain report`: logs of several machines as one, or of two versions side by side.

use std::path::Path;
use std::process::ExitCode;

use super::hdr::{self, Log, Span};
use super::run::sum;
use super::statistics::Spread;
use super::table::{Table, count, percentile_rows, time};
use crate::cli;
use crate::say::{self, reason};

/// Lines that begin so soon after the one before belong to the same run, in seconds.
const GAP: f64 = 0.05;
/// With fewer runs than this on either side, seconds are compared.
const RUNS_TO_COMPARE: usize = 3;
/// Too few to say anything of.
const SAMPLES: usize = 3;

pub(crate) fn report(options: &cli::Report) -> ExitCode {
    match told(options) {
        Ok(text) => {
            say::out(&text);
            ExitCode::SUCCESS
        }
        Err(why) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

fn told(options: &cli::Report) -> Result<String, String> {
    let logs = options.logs.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    match &logs[..] {
        [before, after] if options.compare => {
            let names = [options.logs[0].display().to_string(), options.logs[1].display().to_string()];
            compare(before, after, &names)
        }
        logs => Ok(merged(logs)),
    }
}

fn read(path: &Path) -> Result<Log, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot read {}: {}", path.display(), reason(&error)))?;
    let log = hdr::parse(&text).map_err(|why| format!("{}: {why}", path.display()))?;
    match log.values().flatten().any(|span| !span.values.is_empty()) {
        true => Ok(log),
        false => Err(format!("{}: there is no measurement in it", path.display())),
    }
}

/// The same tags of several logs as one column. What the machines did at the same time is added.
fn merged(logs: &[Log]) -> String {
    let mut tags: Vec<&String> = logs.iter().flat_map(|log| log.keys()).collect();
    tags.sort();
    tags.dedup();
    let all = |tag: &String| logs.iter().filter_map(|log| log.get(tag)).collect::<Vec<_>>();
    let mut table = Table::default();
    if tags.iter().any(|tag| !tag.is_empty()) {
        let name = |tag: &&String| if tag.is_empty() { "(no tag)".to_owned() } else { (*tag).clone() };
        table.row("", tags.iter().map(name));
    }
    let columns: Vec<_> = tags.iter().map(|tag| sum(all(tag).into_iter().flatten().map(|span| &span.values))).collect();
    table.row("values", columns.iter().map(|column| count(column.len() as f64)));
    let rate = |tag: &&String| count(all(tag).into_iter().map(|spans| per_second(spans)).sum());
    table.row("values/s", tags.iter().map(rate));
    table.gap();
    percentile_rows(&mut table, &columns);
    let of = if logs.len() == 1 { "1 log".to_owned() } else { format!("{} logs, merged", logs.len()) };
    format!("{of}\n\n{}", table.show())
}

fn per_second(spans: &[Span]) -> f64 {
    let seconds: f64 = spans.iter().map(|span| span.length).sum();
    spans.iter().map(|span| span.values.len()).sum::<u64>() as f64 / seconds.max(1e-9)
}

type Figure = (&'static str, fn(&[Span]) -> f64, fn(f64) -> String);

const FIGURES: [Figure; 4] = [
    ("values/s", per_second, count),
    ("mean", |spans| sum(spans.iter().map(|span| &span.values)).mean(), time),
    ("p50", |spans| quantile(spans, 0.5), time),
    ("p99", |spans| quantile(spans, 0.99), time),
];

fn quantile(spans: &[Span], quantile: f64) -> f64 {
    sum(spans.iter().map(|span| &span.values)).value_at_quantile(quantile) as f64
}

/// Tags that both have, figure by figure.
fn compare(before: &Log, after: &Log, names: &[String; 2]) -> Result<String, String> {
    let mut text = String::new();
    for (tag, left) in before {
        let Some(right) = after.get(tag) else { continue };
        let title = if tag.is_empty() { String::new() } else { format!("{tag}\n") };
        text += &format!("{title}{}\n", compare_spans(left, right, names));
    }
    match text.is_empty() {
        true => Err(format!("{} and {} have no tag in common", names[0], names[1])),
        false => Ok(text.trim_end().to_owned() + "\n"),
    }
}

fn compare_spans(left: &[Span], right: &[Span], names: &[String; 2]) -> String {
    let (left_runs, right_runs) = (runs(left), runs(right));
    let by_run = left_runs.len().min(right_runs.len()) >= RUNS_TO_COMPARE;
    let (left, right, what) = match by_run {
        true => (left_runs, right_runs, "runs"),
        false => (whole_seconds(left), whole_seconds(right), "lines"),
    };
    if left.len().min(right.len()) < SAMPLES {
        return format!(
            "too short to compare: {} and {} {what}, and it takes {SAMPLES} of each to know how much they vary\n",
            left.len(),
            right.len()
        );
    }
    let mut table = Table::default();
    table.row("", [names[0].clone(), names[1].clone(), "difference".to_owned()]);
    for (name, figure, form) in FIGURES {
        let spread = |samples: &[&[Span]]| Spread::of(&samples.iter().map(|spans| figure(spans)).collect::<Vec<_>>());
        let (Some(one), Some(other)) = (spread(&left), spread(&right)) else { continue };
        let difference = match one.ratio_to(&other) {
            None => "no difference".to_owned(),
            Some(ratio) => format!("{:+.1} %", (ratio - 1.0) * 100.0),
        };
        table.row(name, [interval(&one, form), interval(&other, form), difference]);
    }
    format!(
        "means of {} and {} {what}, and the intervals that they are in with 95 % confidence\n\n{}",
        left.len(),
        right.len(),
        table.show()
    )
}

fn interval(spread: &Spread, form: fn(f64) -> String) -> String {
    let [low, high] = spread.ci95.unwrap_or([spread.mean; 2]);
    format!("{} ({} to {})", form(spread.mean), form(low.max(0.0)), form(high))
}

/// Lines that follow one another without a gap: a measurement of several has its warm-ups between.
fn runs(spans: &[Span]) -> Vec<&[Span]> {
    spans.chunk_by(|one, next| next.start - (one.start + one.length) < GAP).collect()
}

/// Each line for itself, without the last of a run that may be a short one.
fn whole_seconds(spans: &[Span]) -> Vec<&[Span]> {
    let longest = spans.iter().map(|span| span.length).fold(0.0, f64::max);
    spans.chunks(1).filter(|span| span[0].length > 0.9 * longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::histogram;

    /// `count` lines of a second; the value of each varies a little around `value`.
    fn log(start: f64, values: &[u64]) -> Log {
        let span = |(at, value): (usize, &u64)| {
            let mut histogram = histogram();
            histogram.record_n(*value, 100 + at as u64 % 3).expect("in range");
            Span { start: start + at as f64, length: 1.0, values: histogram }
        };
        Log::from([(String::new(), values.iter().enumerate().map(span).collect())])
    }

    fn names() -> [String; 2] {
        ["a".to_owned(), "b".to_owned()]
    }

    #[test]
    fn the_same_thing_twice_is_no_difference() {
        let a = log(0.0, &[1000, 1010, 990, 1005]);
        let text = compare(&a, &a, &names()).expect("comparable");
        assert_eq!(text.matches("no difference").count(), FIGURES.len(), "{text}");
    }

    #[test]
    fn twice_as_slow_is_a_difference_of_the_times_and_not_of_the_rate() {
        let text =
            compare(&log(0.0, &[1000, 1010, 990]), &log(9.0, &[2000, 2020, 1980]), &names()).expect("comparable");
        assert_eq!(text.matches("+100.0 %").count(), 3, "{text}");
        assert_eq!(text.matches("no difference").count(), 1, "{text}");
    }

    #[test]
    fn two_lines_are_too_few() {
        let text = compare(&log(0.0, &[1, 2]), &log(0.0, &[1, 2, 3]), &names()).expect("comparable");
        assert!(text.starts_with("too short to compare: 2 and 3 lines"), "{text}");
    }

    #[test]
    fn gaps_separate_runs() {
        let mut spans = log(0.0, &[1, 2, 3]).remove("").expect("lines");
        spans.extend(log(5.0, &[1, 2]).remove("").expect("lines"));
        assert_eq!(runs(&spans).iter().map(|run| run.len()).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn logs_of_several_machines_add_up() {
        let text = merged(&[log(0.0, &[1000, 1000, 1000]), log(0.0, &[3000, 3000, 3000])]);
        assert!(text.starts_with("2 logs, merged") && text.contains("606\n"), "{text}");
        assert!(text.lines().any(|line| line.contains("values/s") && line.ends_with(" 202")), "{text}");
    }
}
