//! System calls for one message, counted by strace in runs of their own: a traced server is so slow that nothing else
//! may be measured of it.
//!
//! One connection, one message at a time: with more, a slow server finds several events in one wait, and seems to need
//! fewer calls than it does. Two runs of different length, so that what starting and connecting costs falls out.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::models::Model;
use crate::address::Address;
use crate::bench::{Embedded, Plan, Stop, measure};

const FEW: u64 = 100;
const MANY: u64 = 1100;

/// Of one message.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Calls {
    pub(super) model: &'static str,
    pub(super) per_message: f64,
    /// Those that come to a hundredth or more.
    pub(super) by_name: BTreeMap<String, f64>,
}

type Counts = BTreeMap<String, u64>;

/// The calls of each model; an error is why there is no strace to count them.
pub(super) fn count(models: &[Model]) -> Result<Vec<Calls>, String> {
    models.iter().map(count_model).collect()
}

fn count_model(model: &Model) -> Result<Calls, String> {
    let (few, many) = (count_run(model, FEW)?, count_run(model, MANY)?);
    let of_one = |(name, count): (&String, &u64)| {
        let more = *count as f64 - few.get(name).copied().unwrap_or(0) as f64;
        (name.clone(), more / (MANY - FEW) as f64)
    };
    let by_name: BTreeMap<String, f64> = many.iter().map(of_one).filter(|(_, calls)| *calls >= 0.01).collect();
    Ok(Calls { model: model.name, per_message: by_name.values().sum(), by_name })
}

fn count_run(model: &Model, messages: u64) -> Result<Counts, String> {
    let plan = Plan {
        connections: 1,
        stop: Stop::Messages(messages),
        warm_up: Duration::ZERO,
        ..Plan::new(Address::Tcp(Vec::new()), model.name.to_owned())
    };
    let server = Embedded::start(model.name, &plan, model.options)?;
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-p", &server.process().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|_| "strace is not installed".to_owned())?;
    let mut lines = BufReader::new(strace.stderr.take().ok_or("strace says nothing")?).lines().map_while(Result::ok);
    let first = lines.find(|line| line.contains("attached") || line.contains("ptrace"));
    let measured = match &first {
        Some(line) if line.contains("attached") => measure(&server.plan(&plan), &mut |_| true).map(drop),
        Some(line) => Err(line.clone()),
        None => Err("strace has ended at once".to_owned()),
    };
    // It writes its table when those that it traces have gone.
    drop(server);
    let counts = lines.filter_map(|line| row(&line)).collect();
    let _ = strace.wait();
    measured.map(|()| counts)
}

/// `% time, seconds, usecs/call, calls, errors (if there are any), syscall`.
fn row(line: &str) -> Option<(String, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (name, calls) = (fields.last()?, fields.get(3)?.parse().ok()?);
    (fields.len() >= 5 && *name != "total").then(|| ((*name).to_owned(), calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_name_and_a_count() {
        assert_eq!(row(" 19.50    0.001477           1      1000           sendto"), Some(("sendto".to_owned(), 1000)));
        assert_eq!(row(" 39.64    0.002351         235        10         2 futex"), Some(("futex".to_owned(), 10)));
        assert_eq!(row("100.00    0.014000                  2012         2 total"), None);
        assert_eq!(row("% time     seconds  usecs/call     calls    errors syscall"), None);
        assert_eq!(row("strace: Process 29051 attached"), None);
    }
}
