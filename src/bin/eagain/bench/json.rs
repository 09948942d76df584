//! The result for programs. The schema is described in docs/bench.md; a change that breaks a reader gets a new number.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::environment::Environment;
use super::failure::{Cause, Failures};
use super::outcome::Outcome;
use super::plan::{Pace, Stop};
use super::process::Used;
use super::record::{Interval, Mean};
use super::run::Run;
use super::statistics::Spread;
use super::table::PERCENTILES;
use super::warnings::Warning;

const SCHEMA: u32 = 1;

/// Servers of our own: a document for each.
#[derive(Serialize)]
struct Several<'o> {
    schema: u32,
    results: Vec<Document<'o>>,
}

#[derive(Serialize)]
struct Document<'o> {
    schema: u32,
    target: &'o str,
    service: &'static str,
    mode: &'static str,
    connections: usize,
    idle: usize,
    depth: usize,
    size: usize,
    threads: usize,
    /// Messages a second that were asked for.
    rate: Option<f64>,
    warm_up_seconds: f64,
    seconds: f64,
    messages: u64,
    messages_per_second: f64,
    bytes: u64,
    bytes_per_second: f64,
    errors: Errors<'o>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<BTreeMap<&'static str, f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_time_us: Option<BTreeMap<&'static str, f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_means_us: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Used>,
    client: Used,
    repeats: BTreeMap<&'static str, Spread>,
    runs: Vec<OneRun>,
    warnings: Vec<OneWarning<'o>>,
    environment: &'o Environment,
}

#[derive(Serialize)]
struct Errors<'o> {
    total: u64,
    messages_lost: u64,
    by_cause: &'o BTreeMap<Cause, u64>,
    first: &'o BTreeMap<Cause, String>,
}

#[derive(Serialize)]
struct OneRun {
    /// Seconds since 1970.
    started: f64,
    seconds: f64,
    messages: u64,
    messages_per_second: f64,
    bytes_per_second: f64,
    errors: u64,
    intervals: Vec<OneInterval>,
}

#[derive(Serialize)]
struct OneInterval {
    start: f64,
    seconds: f64,
    messages: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
}

#[derive(Serialize)]
struct OneWarning<'o> {
    #[serde(flatten)]
    warning: &'o Warning,
    observation: String,
    cause: &'static str,
    remedy: &'static str,
}

/// One object for one target; servers of our own are the `results` of one.
pub(super) fn show(outcomes: &[Outcome]) -> String {
    let mut documents: Vec<_> = outcomes.iter().map(document).collect();
    let text = match documents.len() {
        1 => serde_json::to_string_pretty(&documents.remove(0)),
        _ => serde_json::to_string_pretty(&Several { schema: SCHEMA, results: documents }),
    };
    // Cannot fail: every key is a string.
    text.unwrap_or_default() + "\n"
}

fn document(outcome: &Outcome) -> Document<'_> {
    let plan = &outcome.plan;
    let Failures { total, messages_lost, by_cause, first } = &outcome.failures;
    let seconds = outcome.seconds();
    let answers = plan.service.answers();
    let means = || outcome.runs.iter().flat_map(|run| run.means.iter().copied().map(Mean::microseconds)).collect();
    Document {
        schema: SCHEMA,
        target: &plan.name,
        service: plan.service.name(),
        mode: plan.mode(),
        connections: plan.connections,
        idle: plan.idle,
        depth: plan.depth,
        size: plan.size,
        threads: plan.threads,
        rate: match plan.pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(per_second),
        },
        warm_up_seconds: plan.warm_up.as_secs_f64(),
        seconds,
        messages: outcome.messages(),
        messages_per_second: outcome.messages() as f64 / seconds,
        bytes: outcome.bytes(),
        bytes_per_second: outcome.bytes() as f64 / seconds,
        errors: Errors { total: *total, messages_lost: *messages_lost, by_cause, first },
        latency_us: answers.then(|| times(&outcome.latency())),
        service_time_us: outcome.service_time().map(|service_time| times(&service_time)),
        connection_means_us: (answers && matches!(plan.stop, Stop::Messages(_))).then(means),
        server: outcome.runs.iter().rev().find_map(|run| run.server),
        client: outcome.runs[outcome.runs.len() - 1].client,
        repeats: repeats(outcome),
        runs: outcome.runs.iter().map(|run| one_run(run, answers)).collect(),
        warnings: outcome.warnings.iter().map(one_warning).collect(),
        environment: &outcome.environment,
    }
}

/// Of nanoseconds, in microseconds.
pub(super) fn times(values: &Histogram<u64>) -> BTreeMap<&'static str, f64> {
    let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    let percentiles = PERCENTILES.map(|(_, key, quantile)| (key, microseconds(values.value_at_quantile(quantile))));
    let ends = [
        ("count", values.len() as f64),
        ("min", microseconds(values.min())),
        ("mean", values.mean() / 1e3),
        ("max", microseconds(values.max())),
    ];
    percentiles.into_iter().chain(ends).collect()
}

fn repeats(outcome: &Outcome) -> BTreeMap<&'static str, Spread> {
    let quantile = |quantile| move |run: &Run| Some(run.latency().value_at_quantile(quantile) as f64 / 1e3);
    let answers = outcome.plan.service.answers();
    let all = [
        ("messages_per_second", outcome.spread(|run| answers.then(|| run.messages_per_second()))),
        ("bytes_per_second", outcome.spread(|run| Some(run.bytes_per_second()))),
        ("p50_us", outcome.spread(quantile(0.5)).filter(|_| answers)),
        ("p99_us", outcome.spread(quantile(0.99)).filter(|_| answers)),
        ("server_cpu_ns_per_message", outcome.spread(|run| run.server?.cpu_ns_per_message)),
        ("client_cpu_ns_per_message", outcome.spread(|run| run.client.cpu_ns_per_message)),
    ];
    all.into_iter().filter_map(|(name, spread)| Some((name, spread?))).collect()
}

fn one_run(run: &Run, answers: bool) -> OneRun {
    OneRun {
        started: run.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        seconds: run.seconds,
        messages: run.messages,
        messages_per_second: run.messages_per_second(),
        bytes_per_second: run.bytes_per_second(),
        errors: run.failures.total,
        intervals: run.intervals.iter().map(|interval| one_interval(interval, answers)).collect(),
    }
}

fn one_interval(interval: &Interval, answers: bool) -> OneInterval {
    let quantile = |quantile| answers.then(|| interval.latency.value_at_quantile(quantile) as f64 / 1e3);
    OneInterval {
        start: interval.start.as_secs_f64(),
        seconds: interval.length.as_secs_f64(),
        messages: interval.messages,
        bytes: interval.bytes,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    }
}

fn one_warning(warning: &Warning) -> OneWarning<'_> {
    OneWarning { warning, observation: warning.observation(), cause: warning.cause(), remedy: warning.remedy() }
}
