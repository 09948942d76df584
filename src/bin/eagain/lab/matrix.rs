//! `eagain lab matrix`: the results of several kernels side by side, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::experiment::{self, Experiment};
use super::format::json::Document;
use super::run::Report;
use super::verdict::Verdict;
use super::{book, diff, kernel, rules};
use crate::say;

pub(crate) fn run(paths: &[PathBuf]) -> Result<ExitCode, String> {
    let documents = paths.iter().map(|path| diff::read(path)).collect::<Result<Vec<_>, _>>()?;
    let columns: Vec<Column> = documents.into_iter().map(Column::new).collect();
    let text = format!("{}\n{}\n{}", kernels(&columns), differences(&columns), all(&columns));
    say::deliver(&text).map(|()| ExitCode::SUCCESS)
}

/// One kernel.
struct Column {
    /// As "6.12".
    title: String,
    release: String,
    version: String,
    reports: BTreeMap<String, Report>,
}

impl Column {
    fn new(Document { kernel: release, version, experiments, .. }: Document) -> Self {
        let (major, minor) = kernel::parse(&release);
        let reports = experiments.into_iter().map(|report| (report.id.clone(), report)).collect();
        Self { title: format!("{major}.{minor}"), release: told(&release), version: told(&version), reports }
    }

    fn count(&self, verdict: &str) -> usize {
        self.reports.values().filter(|report| report.verdict.name() == verdict).count()
    }

    fn cell(&self, id: &str) -> String {
        match self.reports.get(id).map(|report| (&report.verdict, &report.before)) {
            Some((Verdict::Holds, None)) => "yes".to_owned(),
            Some((Verdict::Holds, Some(version))) => format!("as before {}", told(version)),
            Some((Verdict::DoesNotHold(_), _)) => "**no**".to_owned(),
            Some((Verdict::NotTested(_), _)) => "not tested".to_owned(),
            None => String::new(),
        }
    }
}

/// What stands in a result, which anybody may have written, for a page.
fn told(text: &str) -> String {
    book::escaped(&say::one_line(text))
}

fn kernels(columns: &[Column]) -> String {
    let mut text = "## The kernels\n\n".to_owned();
    text += "| Linux | `uname -r` | `uname -v` | hold | do not hold | not tested |\n|---|---|---|---|---|---|\n";
    for column in columns {
        let counts = ["holds", "does-not-hold", "not-tested"].map(|verdict| column.count(verdict).to_string());
        let counts = counts.join(" | ");
        let _ = writeln!(text, "| {} | {} | {} | {counts} |", column.title, column.release, column.version);
    }
    text
}

/// Every experiment of which the verdicts are not all the same, with what is known of it.
fn differences(columns: &[Column]) -> String {
    let differ = |one: &&Experiment| columns.iter().any(|column| column.cell(one.id) != columns[0].cell(one.id));
    let ones: Vec<&Experiment> = experiment::all().map(|(_, one)| one).filter(differ).collect();
    if ones.is_empty() {
        return "## Where they differ\n\nNowhere.\n".to_owned();
    }
    let mut text = format!("## Where they differ\n\n{}", head("rule", columns));
    text.extend(ones.iter().map(|one| row(one.id, columns)));
    for one in ones {
        let _ = writeln!(text, "\n### `{}`\n", one.id);
        text += &book::broken(&book::escaped(one.claim));
        text += &explanation(one, columns);
    }
    text
}

fn explanation(one: &Experiment, columns: &[Column]) -> String {
    let mut text = String::new();
    if !one.changed.is_empty() {
        text += "\n";
        text += &book::broken(&format!("{}.", book::escaped(one.changed)));
    }
    text += "\n";
    for column in columns {
        let reason = column.reports.get(one.id).map_or("", |report| report.verdict.reason());
        if !reason.is_empty() {
            text += &book::broken(&format!("- {}: {}", column.title, told(reason)));
        }
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn all(columns: &[Column]) -> String {
    let mut text = "## Every rule\n".to_owned();
    for group in rules::ALL {
        let _ = write!(text, "\n### {}\n\n{}", book::title(group), head("rule", columns));
        text.extend(group.experiments.iter().map(|one| row(one.id, columns)));
    }
    text
}

fn head(first: &str, columns: &[Column]) -> String {
    let titles: Vec<&str> = columns.iter().map(|column| column.title.as_str()).collect();
    format!("| {first} | {} |\n|---{}|\n", titles.join(" | "), "|---".repeat(columns.len()))
}

fn row(id: &str, columns: &[Column]) -> String {
    let cells: Vec<String> = columns.iter().map(|column| column.cell(id)).collect();
    format!("| `{id}` | {} |\n", cells.join(" | "))
}
