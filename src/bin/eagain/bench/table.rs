//! The result for people: one aligned table, and under it what one should know before believing it.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::failure::Failures;
use super::histogram;
use super::outcome::Outcome;
use super::plan::{Pace, Plan, Stop};
use super::process::Used;
use super::run::Run;
use super::statistics::Spread;
use super::warnings::advice;

/// The percentiles that are shown, and what they are called in JSON.
pub(super) const PERCENTILES: [(&str, &str, f64); 5] = [
    ("p50", "p50", 0.5),
    ("p90", "p90", 0.9),
    ("p99", "p99", 0.99),
    ("p99.9", "p99_9", 0.999),
    ("p99.99", "p99_99", 0.9999),
];

/// Means of connections that are shown one by one; --json has all of them.
const MEANS: usize = 100;

/// Rows of cells; the first of each is its name.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        let mut row = vec![name.to_owned()];
        row.extend(cells);
        // A row of which nothing is known says nothing.
        if row.len() == 1 || row[1..].iter().any(|cell| !cell.is_empty()) {
            self.rows.push(row);
        }
    }

    pub(super) fn gap(&mut self) {
        if self.rows.last().is_some_and(|row| !row[0].is_empty() || row.len() > 1) {
            self.rows.push(vec![String::new()]);
        }
    }

    /// Names to the left, all else to the right.
    pub(super) fn show(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut text = String::new();
        for row in &self.rows {
            let mut line = format!("  {:1$}", row[0], width(0));
            for (column, cell) in row.iter().enumerate().skip(1) {
                let _ = write!(line, "   {cell:>0$}", width(column));
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Several outcomes are of the same plan but for the target.
pub(super) fn show(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    let Some(first) = outcomes.first() else { return text };
    let _ = writeln!(text, "{}\n", headline(outcomes, &first.plan));
    text += &table(outcomes).show();
    for outcome in outcomes.iter().filter(|outcome| outcome.plan.service.answers()) {
        let by_number = matches!(outcome.plan.stop, Stop::Messages(_));
        if by_number {
            text += &each_connection(outcome);
        }
        if by_number || outcomes.len() > 1 {
            let of = if outcomes.len() > 1 { format!("{}: ", outcome.plan.name) } else { String::new() };
            let _ = writeln!(text, "\n{of}all {} messages", count(outcome.messages() as f64));
            text += &histogram::show(&outcome.latency());
        }
    }
    if let [one, other] = outcomes {
        let _ = writeln!(text, "\n{}", verdict(one, other));
    }
    for outcome in outcomes {
        let of = if outcomes.len() > 1 { format!("{}: ", outcome.plan.name) } else { String::new() };
        for warning in &outcome.warnings {
            let _ = writeln!(
                text,
                "\nwarning: {of}{}\n  cause:  {}\n  remedy: {}",
                warning.observation(),
                warning.cause(),
                warning.remedy()
            );
        }
        text += &failures(&outcome.failures);
    }
    text
}

fn headline(outcomes: &[Outcome], plan: &Plan) -> String {
    let target = match outcomes {
        [_] => plan.name.clone(),
        _ => "servers of its own".to_owned(),
    };
    let length = match plan.stop {
        Stop::After(time) => format!("{} s after {} s of warm-up", time.as_secs_f64(), plan.warm_up.as_secs_f64()),
        Stop::Messages(1) => "1 message each".to_owned(),
        Stop::Messages(messages) => format!("{messages} messages each"),
    };
    let times = match outcomes.first().map_or(1, |outcome| outcome.runs.len()) {
        1 => String::new(),
        runs => format!(", {runs} times"),
    };
    let connections = match plan.connections {
        1 => "1 connection".to_owned(),
        all if plan.churn => format!("{all} connections at a time"),
        all => format!("{all} connections"),
    };
    let idle = if plan.idle > 0 { format!(" and {} idle", plan.idle) } else { String::new() };
    let depth = if plan.depth > 1 { format!(", {} on their way on each", plan.depth) } else { String::new() };
    let what = match plan.service.answers() {
        true => format!("{connections}{idle}, {} bytes{depth}", plan.size),
        false => format!("{connections}{idle}"),
    };
    format!("{target}: {}, {what}, {length}{times}\n{}", plan.service, meaning(plan))
}

/// What the times mean: the question that a reader of such figures most often forgets to ask.
fn meaning(plan: &Plan) -> String {
    match plan.pace {
        _ if !plan.service.answers() => "Stream: nothing is answered, so there is no latency.".to_owned(),
        _ if plan.churn => {
            "Churn: a new connection for each message; a time is from its connect to its answer.".to_owned()
        }
        Pace::Closed => {
            "Closed loop: the next message waits for an answer, so a time is service time, not latency.".to_owned()
        }
        Pace::Open { per_second } => {
            format!("Open loop: {per_second} messages/s are due whatever the server does; latency counts from then.")
        }
    }
}

/// The cells of a row: one for each outcome, and an empty one where an outcome has a second column of times.
struct Columns<'o>(&'o [Outcome]);

impl Columns<'_> {
    fn of(&self, figure: impl Fn(&Outcome) -> String) -> Vec<String> {
        let open = |outcome: &Outcome| matches!(outcome.plan.pace, Pace::Open { .. });
        let cells = |outcome| std::iter::once(figure(outcome)).chain(open(outcome).then(String::new));
        self.0.iter().flat_map(cells).collect()
    }
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::default();
    let columns = Columns(outcomes);
    let Some(plan) = outcomes.first().map(|outcome| &outcome.plan) else { return table };
    if outcomes.len() > 1 {
        table.row("", columns.of(|outcome| outcome.plan.name.clone()));
    }
    let rate = if plan.churn { "connections/s" } else { "messages/s" };
    if plan.service.answers() {
        table.row(rate, columns.of(|outcome| spread(outcome, Run::messages_per_second)));
        spread_rows(&mut table, &columns, Run::messages_per_second);
        table.row("payload", columns.of(|outcome| format!("{}/s", bytes(median(outcome, Run::bytes_per_second)))));
    } else {
        let way = if plan.service == super::plan::Service::Discard { "upload" } else { "download" };
        table.row(way, columns.of(|outcome| format!("{}/s", bytes(median(outcome, Run::bytes_per_second)))));
    }
    if plan.service.answers() {
        table.gap();
        times(&mut table, outcomes);
    }
    table.gap();
    processes(&mut table, &columns);
    table.gap();
    if !plan.churn {
        let of = |outcome: &Outcome| {
            let connected = outcome.runs.iter().map(|run| run.connected).min().unwrap_or(0);
            format!("{connected} of {}", outcome.plan.connections)
        };
        table.row("connected", columns.of(of));
    }
    table.row("failed", columns.of(|outcome| outcome.failures.total.to_string()));
    table
}

/// With several runs: between what and what, and how sure that is.
fn spread_rows(table: &mut Table, columns: &Columns<'_>, figure: fn(&Run) -> f64) {
    if columns.0.iter().all(|outcome| outcome.runs.len() < 2) {
        return;
    }
    let of = |outcome: &Outcome, show: &dyn Fn(Spread) -> String| {
        outcome.spread(|run| Some(figure(run))).map_or(String::new(), show)
    };
    table.row(
        "  least, most",
        columns.of(|outcome| of(outcome, &|all| format!("{}, {}", count(all.min), count(all.max)))),
    );
    let interval = |all: Spread| {
        all.ci95.map_or(String::new(), |[low, high]| format!("{} to {}", count(low.max(0.0)), count(high)))
    };
    table.row("  mean, 95 % sure", columns.of(|outcome| of(outcome, &interval)));
}

/// A column of percentiles for each kind of time.
fn times(table: &mut Table, outcomes: &[Outcome]) {
    let mut head = Vec::new();
    let mut columns: Vec<Histogram<u64>> = Vec::new();
    for outcome in outcomes {
        head.push(kind(outcome).to_owned());
        columns.push(outcome.latency());
        if let Some(service_time) = outcome.service_time() {
            head.push("service time".to_owned());
            columns.push(service_time);
        }
    }
    table.row("", head);
    percentile_rows(table, &columns);
}

/// What the times of an outcome are.
pub(super) fn kind(outcome: &Outcome) -> &'static str {
    match outcome.plan.pace {
        _ if outcome.plan.churn => "connect to answer",
        Pace::Closed => "service time",
        Pace::Open { .. } => "latency",
    }
}

/// Minimum, mean, percentiles and maximum of each histogram.
pub(super) fn percentile_rows(table: &mut Table, columns: &[Histogram<u64>]) {
    let row = |figure: &dyn Fn(&Histogram<u64>) -> f64| -> Vec<String> {
        let cell = |one: &Histogram<u64>| if one.is_empty() { "-".to_owned() } else { time(figure(one)) };
        columns.iter().map(cell).collect()
    };
    table.row("min", row(&|one| one.min() as f64));
    table.row("mean", row(&Histogram::mean));
    for (name, _, quantile) in PERCENTILES {
        table.row(name, row(&|one| one.value_at_quantile(quantile) as f64));
    }
    table.row("max", row(&|one| one.max() as f64));
}

fn processes(table: &mut Table, columns: &Columns<'_>) {
    type Figure = fn(&Used) -> Option<f64>;
    type Form = fn(f64) -> String;
    let answers = columns.0.iter().all(|outcome| outcome.plan.service.answers());
    let cpu: (&str, Figure, Form) = match answers {
        true => ("CPU per message", |used| used.cpu_ns_per_message, time),
        false => ("CPU per KiB", |used| used.cpu_ns_per_kib, time),
    };
    let both: [(&str, Figure, Form); 2] = [cpu, ("processors", |used| Some(used.cpus), |cpus| format!("{cpus:.2}"))];
    let show = |figure: Option<f64>, form: Form| figure.map_or(String::new(), form);
    for (name, figure, form) in both {
        table.row(&format!("server: {name}"), columns.of(|outcome| show(outcome.server(figure), form)));
    }
    table.row("server: memory", columns.of(|outcome| show(outcome.server(|used| Some(used.rss_bytes as f64)), bytes)));
    let switches = |used: &Used| Some((used.voluntary_switches + used.involuntary_switches) as f64);
    table.row("server: switches", columns.of(|outcome| show(outcome.server(switches), count)));
    for (name, figure, form) in both {
        table.row(&format!("client: {name}"), columns.of(|outcome| show(outcome.client(figure), form)));
    }
}

fn median(outcome: &Outcome, figure: fn(&Run) -> f64) -> f64 {
    outcome.spread(|run| Some(figure(run))).map_or(0.0, |spread| spread.median)
}

fn spread(outcome: &Outcome, figure: fn(&Run) -> f64) -> String {
    count(median(outcome, figure))
}

fn verdict(one: &Outcome, other: &Outcome) -> String {
    let (Some(left), Some(right)) = (one.throughput(), other.throughput()) else {
        return "Which of the two does more: too short to say.".to_owned();
    };
    let what = if one.plan.service.answers() { "messages" } else { "bytes" };
    match left.ratio_to(&right) {
        None => format!("{what} a second: no difference (the 95 % confidence intervals overlap)."),
        Some(ratio) => format!(
            "{what} a second: {} does {:.1} % {} than {} (the 95 % confidence intervals do not overlap).",
            other.plan.name,
            (ratio - 1.0).abs() * 100.0,
            if ratio > 1.0 { "more" } else { "less" },
            one.plan.name
        ),
    }
}

/// As a client that writes its own mean at its end.
fn each_connection(outcome: &Outcome) -> String {
    let mut text = "\nmean of each connection\n".to_owned();
    let means: Vec<_> = outcome.runs.iter().flat_map(|run| &run.means).collect();
    for line in means[..means.len().min(MEANS)].chunks(8) {
        let cells: Vec<_> = line.iter().map(|mean| format!("{:>9}", time(mean.microseconds() * 1e3))).collect();
        let _ = writeln!(text, "  {}", cells.join(" "));
    }
    if means.len() > MEANS {
        let _ = writeln!(text, "  and {} more, which --json writes", means.len() - MEANS);
    }
    text
}

fn failures(failures: &Failures) -> String {
    let mut text = String::new();
    for (cause, count) in &failures.by_cause {
        let first = failures.first.get(cause).map_or("", String::as_str);
        let _ = writeln!(text, "\nfailed: {count} {} (the first: {first})", cause.words());
        if let Some(advice) = advice(*cause) {
            let _ = writeln!(text, "  {advice}");
        }
    }
    text
}

/// Nanoseconds, to three digits or more.
pub(super) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// A whole number, its thousands set apart; small ones with a digit of their fraction.
pub(crate) fn count(number: f64) -> String {
    if number < 100.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn bytes(number: f64) -> String {
    let (mut scaled, mut unit) = (number, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, next);
    }
    let digits = usize::from(unit != "B");
    format!("{scaled:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_for_people() {
        assert_eq!([0.0, 999.0, 1234.0, 2.5e6, 1.5e9].map(time), ["0 ns", "999 ns", "1.2 µs", "2.5 ms", "1.50 s"]);
        assert_eq!([0.0, 0.5, 99.0, 1000.0, 1_234_567.8].map(count), ["0", "0.5", "99", "1,000", "1,234,568"]);
        assert_eq!([0.0, 1023.0, 1536.0, 3e9].map(bytes), ["0 B", "1023 B", "1.5 KiB", "2.8 GiB"]);
    }

    #[test]
    fn columns_stand_under_one_another_and_empty_rows_are_left_out() {
        let mut table = Table::default();
        table.row("", ["one".to_owned(), "two".to_owned()]);
        table.row("a name", ["1".to_owned(), "22,000".to_owned()]);
        table.row("nothing", [String::new(), String::new()]);
        assert_eq!(table.show(), "           one      two\n  a name     1   22,000\n");
    }
}
