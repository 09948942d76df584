//! Timelines and verdicts for people.

use std::fmt::Write as _;

use crate::lab::experiment::Experiment;
use crate::lab::run::Report;
use crate::lab::timeline::Step;
use crate::lab::verdict::Verdict;

/// Where text is broken.
const COLUMNS: usize = 100;

/// Colours, where they are seen.
#[derive(Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }
}

/// One experiment with all that happened.
pub(crate) fn whole(experiment: &Experiment, report: &Report, paint: Paint) -> String {
    let mut text = format!("{}\n{}", paint.bold(experiment.id), indent(experiment.claim, 2));
    text += &timeline(&report.timeline, paint);
    let _ = writeln!(text, "\n  {}{}", verdict(&report.verdict, paint), before(report));
    if matches!(report.verdict, Verdict::DoesNotHold(_)) && !experiment.changed.is_empty() {
        text += &indent(&format!("Kernels differ: {}", experiment.changed), 2);
    }
    text
}

/// One experiment in a line, and more if it went wrong.
pub(crate) fn brief(experiment: &Experiment, report: &Report, paint: Paint) -> String {
    match &report.verdict {
        Verdict::Holds => format!("{}  {}{}\n", paint.green("holds        "), experiment.id, before(report)),
        Verdict::NotTested(why) => format!("{}  {}: {why}\n", paint.yellow("not tested   "), experiment.id),
        Verdict::DoesNotHold(_) => format!("{}  {}\n", paint.red("DOES NOT HOLD"), experiment.id),
    }
}

/// An older kernel was expected to do what was so before.
pub(super) fn before(report: &Report) -> String {
    report.before.as_ref().map_or_else(String::new, |version| format!(", as before Linux {version}"))
}

/// How many of each.
pub(crate) fn summary(reports: &[Report]) -> String {
    let count = |name| reports.iter().filter(|report| report.verdict.name() == name).count();
    format!(
        "{} hold, {} do not hold, {} not tested, on Linux {}\n",
        count("holds"),
        count("does-not-hold"),
        count("not-tested"),
        crate::lab::kernel::release()
    )
}

fn verdict(verdict: &Verdict, paint: Paint) -> String {
    match verdict {
        Verdict::Holds => paint.green("holds"),
        Verdict::DoesNotHold(why) => format!("{}: {why}", paint.red("does not hold")),
        Verdict::NotTested(why) => format!("{}: {why}", paint.yellow("not tested")),
    }
}

/// A line of the timeline: a call, or the second half of one during which others happened.
struct Row<'a> {
    at_us: u64,
    who: &'a str,
    call: String,
    answer: String,
    remark: String,
    /// The remark tells of something wrong.
    wrong: bool,
}

/// A call that took longer than this says so.
const LONG_US: u64 = 1_000;

pub(crate) fn timeline(steps: &[Step], paint: Paint) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let rows = rows(steps);
    let several = rows.iter().any(|row| row.who != rows[0].who);
    let width = |length: fn(&Row<'_>) -> usize| rows.iter().map(length).max().unwrap_or(0);
    let who = if several { width(|row| row.who.chars().count()) + 2 } else { 0 };
    let call = width(|row| row.call.chars().count()).min(52);
    let answer = width(|row| row.answer.chars().count()).min(24);
    let mut text = String::from("\n");
    for row in &rows {
        let name = if several { row.who } else { "" };
        let time = paint.dim(&format!("{:>9.3} ms", row.at_us as f64 / 1000.0));
        let remark = if row.wrong { paint.red(&row.remark) } else { paint.dim(&row.remark) };
        let line = format!("  {time}  {name:who$}{:call$}  {:answer$}  {remark}", row.call, row.answer);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn rows(steps: &[Step]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let end_us = step.took_us.map(|took| step.at_us + took);
        // Others did something while this call was under way: its answer stands where it came.
        let split = match end_us {
            Some(end) => steps[at + 1..].iter().any(|other| other.at_us < end && other.who != step.who),
            None => true,
        };
        let mut row = Row {
            at_us: step.at_us,
            who: &step.who,
            call: step.call.clone(),
            answer: format!("= {}", step.answer),
            remark: remark(step),
            wrong: !step.met,
        };
        if step.answer.is_empty() {
            row.answer.clear();
        }
        if !split {
            rows.push(row);
            continue;
        }
        let begun =
            Row { answer: "…".to_owned(), remark: String::new(), wrong: false, call: step.call.clone(), ..row };
        rows.push(begun);
        if let Some(end) = end_us {
            row.at_us = end;
            row.call = format!("… {}", step.call);
            rows.push(row);
        } else if let Some(last) = rows.last_mut() {
            last.remark = "never returned".to_owned();
            last.wrong = true;
        }
    }
    rows.sort_by_key(|row| row.at_us);
    rows
}

fn remark(step: &Step) -> String {
    let took = match step.took_us {
        Some(took) if took >= LONG_US => format!("after {:.1} ms", took as f64 / 1000.0),
        _ => String::new(),
    };
    match &step.expected {
        Some(expected) if !step.met => format!("EXPECTED {expected} {took}").trim_end().to_owned(),
        Some(_) => format!("as expected {took}").trim_end().to_owned(),
        None => took,
    }
}

/// Words broken into lines, each that far from the margin.
pub(crate) fn indent(text: &str, by: usize) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && by + line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(lines, "{:by$}{line}", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    let _ = writeln!(lines, "{:by$}{line}", "");
    lines
}
