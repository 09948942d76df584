//! `eagain lab diff`: what differs between the results of two kernels.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;

use super::format::json::{self, Document};
use super::run::Report;
use crate::say;

pub(crate) fn run(old: &Path, new: &Path) -> Result<ExitCode, String> {
    let (old, new) = (read(old)?, read(new)?);
    let (text, same) = compare(&old, &new);
    say::deliver(&text)?;
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn read(path: &Path) -> Result<Document, String> {
    let text = read_at_most(path, MOST).map_err(|error| say::reason(&error)).and_then(|text| json::read(&text));
    text.map_err(|why| format!("{}: {why}", path.display()))
}

/// Results of everything are a few hundred kilobytes. What is more comes from somewhere else, and may have no end.
const MOST: u64 = 64 << 20;

fn read_at_most(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    if File::open(path)?.take(most).read_to_string(&mut text)? as u64 == most {
        return Err(io::Error::other(format!("it is longer than {} MiB", most >> 20)));
    }
    Ok(text)
}

/// A rule that holds as it did before some version is not the rule that holds since then.
fn verdict(report: &Report) -> String {
    let before = report.before.as_ref().map(|version| format!(", as before Linux {}", say::one_line(version)));
    report.verdict.name().to_owned() + &before.unwrap_or_default()
}

/// Names and reasons come from a file that anybody may have written.
fn compare(old: &Document, new: &Document) -> (String, bool) {
    let by_id = |document: &Document| -> BTreeMap<String, Report> {
        document.experiments.iter().map(|report| (report.id.clone(), report.clone())).collect()
    };
    let (before, after) = (by_id(old), by_id(new));
    let mut text = format!("{} -> {}\n", say::one_line(&old.kernel), say::one_line(&new.kernel));
    let mut same = true;
    let ids = before.keys().chain(after.keys().filter(|id| !before.contains_key(*id)));
    for id in ids {
        let verdicts = [before.get(id), after.get(id)].map(|report| report.map_or("not there".to_owned(), verdict));
        if verdicts[0] == verdicts[1] {
            continue;
        }
        same = false;
        let _ = writeln!(text, "{}: {} -> {}", say::one_line(id), verdicts[0], verdicts[1]);
        for (sign, report) in [('-', before.get(id)), ('+', after.get(id))] {
            let why = report.map_or("", |report| report.verdict.reason());
            if !why.is_empty() {
                let _ = writeln!(text, "  {sign} {}", say::one_line(why));
            }
        }
    }
    if same {
        let _ = writeln!(text, "no difference in {} experiments", after.len());
    }
    (text, same)
}
