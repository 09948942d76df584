//! `eagain compare`: several ways to do the same, measured side by side on the reader's machine.

mod calls;
mod findings;
mod models;
mod report;
mod tables;
mod wakers;

use std::process::ExitCode;

use serde::Serialize;

use crate::bench::Spread;
use crate::cli::{Compare, What};
use crate::say;

type Failure = Box<dyn std::error::Error>;

pub(crate) fn run(options: &Compare) -> ExitCode {
    let done = match &options.what {
        What::Models(out) => models::compare(options, out),
        What::Tables => tables::compare(options).and_then(|found| publish(&found, &found.text(), options)),
        What::Wakers => wakers::compare(options).and_then(|found| publish(&found, &found.text(), options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

/// The median, and the least and the most.
fn shown(spread: &Spread) -> String {
    match spread.max {
        max if max < 10.0 => format!("{:.2} ({:.2}-{:.2})", spread.median, spread.min, spread.max),
        max if max < 100.0 => format!("{:.1} ({:.1}-{:.1})", spread.median, spread.min, spread.max),
        _ => format!("{:.0} ({:.0}-{:.0})", spread.median, spread.min, spread.max),
    }
}

fn publish(found: &impl Serialize, text: &str, options: &Compare) -> Result<(), Failure> {
    say::out(text);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(found)? + "\n";
        std::fs::write(path, json).map_err(|error| format!("{}: {}", path.display(), say::reason(&error)))?;
    }
    Ok(())
}
