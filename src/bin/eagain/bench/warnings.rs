//! All that this tool warns of. Each says what was seen, why that is, and what to do.

use std::fmt;

use serde::Serialize;

use super::failure::{Cause, Failures};
use super::outcome::Outcome;
use super::plan::Pace;
use super::run::Run;

/// A thread of the load that is busy for more than this part of the time has no time for more messages.
const BUSY: f64 = 0.95;
/// Of the time of a processor, spent ready to run without one.
const CROWDED: f64 = 0.10;
/// Values above a percentile that make it more than an accident.
const VALUES_ABOVE: f64 = 10.0;
/// A silence that is so great a part of the measurement would be in p99 of a client that does not wait.
const SILENCE: f64 = 0.01;
/// Of what was asked for, in an open loop.
const REACHED: f64 = 0.98;

/// A share of 1, of a rate or of a time.
type Share = f64;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Warning {
    /// The client had no time left.
    ClientWasTheBottleneck { busy: Share },
    /// Client and server wait for the same processors.
    SharedCpu { client_waited: Share, server_waited: Option<Share> },
    /// A percentile is shown of too few values.
    TooFewSamples { samples: u64, percentile: f64, needed: u64 },
    /// A closed loop has waited with a server that stood still.
    ServiceTimeReadAsLatency { longest_us: f64, part_of_the_time: Share },
    /// An open loop has had fewer answers than messages were due.
    RateNotReached { asked: f64, reached: f64, never_answered: u64 },
    /// The client itself was late.
    ClientWasLate { mean_us: f64, longest_us: f64 },
    /// Something failed.
    ServerErrors { connections: u64, messages: u64, causes: String },
    /// Listen queues were full.
    BacklogClipped { dropped: u64 },
    /// One measurement, or several that do not agree.
    RunsDisagree { lowest: f64, highest: f64 },
}

pub(super) fn of(outcome: &Outcome) -> Vec<Warning> {
    let checks = [errors, bottleneck, shared_cpu, samples, service_time, rate, late, backlog, disagreement];
    checks.iter().filter_map(|check| check(outcome)).collect()
}

fn largest(outcome: &Outcome, figure: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    outcome.runs.iter().filter_map(figure).max_by(f64::total_cmp)
}

fn errors(outcome: &Outcome) -> Option<Warning> {
    let Failures { total, messages_lost, by_cause, .. } = &outcome.failures;
    let causes: Vec<_> = by_cause.iter().map(|(cause, count)| format!("{count} {}", cause.words())).collect();
    // Messages that no failed connection has lost came too fast: see `rate`.
    (*total > 0).then(|| Warning::ServerErrors {
        connections: *total,
        messages: *messages_lost,
        causes: causes.join(", "),
    })
}

fn bottleneck(outcome: &Outcome) -> Option<Warning> {
    let threads = outcome.plan.threads as f64;
    let busy = largest(outcome, |run| Some(run.client.cpus / threads))?;
    let server = largest(outcome, |run| Some(run.server.as_ref()?.cpus));
    // A server that is as busy as one processor can be is the one that is waited for.
    (busy > BUSY && server.is_none_or(|server| server < BUSY)).then_some(Warning::ClientWasTheBottleneck { busy })
}

fn shared_cpu(outcome: &Outcome) -> Option<Warning> {
    let client_waited = largest(outcome, |run| Some(run.client.cpus_waited_for))?;
    let server_waited = largest(outcome, |run| Some(run.server.as_ref()?.cpus_waited_for));
    let most = client_waited.max(server_waited.unwrap_or(0.0));
    // In less, a single turn of another program is a great part.
    (most > CROWDED && outcome.seconds() > 0.1).then_some(Warning::SharedCpu { client_waited, server_waited })
}

fn samples(outcome: &Outcome) -> Option<Warning> {
    let samples = outcome.latency().len();
    let needed = |percentile: f64| (VALUES_ABOVE / (1.0 - percentile / 100.0)).round() as u64;
    let too_few = [50.0, 90.0, 99.0, 99.9, 99.99].into_iter().find(|percentile| samples < needed(*percentile))?;
    let warning = Warning::TooFewSamples { samples, percentile: too_few, needed: needed(too_few) };
    (outcome.plan.service.answers() && samples > 0).then_some(warning)
}

fn service_time(outcome: &Outcome) -> Option<Warning> {
    if outcome.plan.pace != Pace::Closed || outcome.plan.churn || !outcome.plan.service.answers() {
        return None;
    }
    let longest = outcome.latency().max() as f64;
    // Long beside the others, and beside the whole: what a client that does not wait would have seen.
    let usual = outcome.latency().value_at_quantile(0.99) as f64;
    let part = longest / 1e9 / outcome.seconds();
    (part > SILENCE && longest > 10.0 * usual)
        .then_some(Warning::ServiceTimeReadAsLatency { longest_us: longest / 1e3, part_of_the_time: part })
}

fn rate(outcome: &Outcome) -> Option<Warning> {
    let Pace::Open { per_second } = outcome.plan.pace else { return None };
    let reached = outcome.messages() as f64 / outcome.seconds();
    // Messages that stand at the edges of a short measurement are no shortfall.
    let edges = 2.0 * outcome.plan.connections as f64 / outcome.seconds();
    let never_answered = outcome.failures.messages_lost;
    (reached < per_second * REACHED - edges).then_some(Warning::RateNotReached {
        asked: per_second,
        reached,
        never_answered,
    })
}

fn late(outcome: &Outcome) -> Option<Warning> {
    let mean_us = largest(outcome, |run| Some(run.late.microseconds()))?;
    let longest_us = largest(outcome, |run| Some(run.latest_ns as f64 / 1e3))?;
    let median_us = outcome.latency().value_at_quantile(0.5) as f64 / 1e3;
    (matches!(outcome.plan.pace, Pace::Open { .. }) && mean_us > median_us / 2.0)
        .then_some(Warning::ClientWasLate { mean_us, longest_us })
}

fn backlog(outcome: &Outcome) -> Option<Warning> {
    let dropped = outcome.runs.iter().filter_map(|run| run.dropped_by_listeners).sum();
    (dropped > 0).then_some(Warning::BacklogClipped { dropped })
}

fn disagreement(outcome: &Outcome) -> Option<Warning> {
    let spread = outcome.spread(|run| Some(run.messages_per_second()))?;
    (spread.max > spread.min * 1.25).then_some(Warning::RunsDisagree { lowest: spread.min, highest: spread.max })
}

impl Warning {
    /// What was seen.
    pub(crate) fn observation(&self) -> String {
        match self {
            Warning::ClientWasTheBottleneck { busy } => {
                format!("the threads of this load were busy for {:.0} % of the time", busy * 100.0)
            }
            Warning::SharedCpu { client_waited, server_waited } => {
                let server =
                    server_waited.map_or(String::new(), |waited| format!(", the server {:.0} %", waited * 100.0));
                format!(
                    "this load was ready to run, without a processor, for {:.0} % of the time{server}",
                    client_waited * 100.0
                )
            }
            Warning::TooFewSamples { samples, percentile, needed } => {
                format!("p{percentile} is shown of {samples} values; it takes {needed} to have {VALUES_ABOVE} above it")
            }
            Warning::ServiceTimeReadAsLatency { longest_us, part_of_the_time } => format!(
                "one answer took {:.1} ms, {:.0} % of the time, and almost none of the values show it",
                longest_us / 1e3,
                part_of_the_time * 100.0
            ),
            Warning::RateNotReached { asked, reached, never_answered } => format!(
                "{reached:.0} messages a second were answered in time, of {asked:.0} that were due; {never_answered} \
                 were never answered"
            ),
            Warning::ClientWasLate { mean_us, longest_us } => {
                format!("messages were sent {mean_us:.1} µs after they were due, once {longest_us:.0} µs")
            }
            Warning::ServerErrors { connections, messages, causes } => {
                format!("{connections} connections failed ({causes}), {messages} messages were never answered")
            }
            Warning::BacklogClipped { dropped } => {
                format!("full listen queues of this machine dropped {dropped} attempts to connect")
            }
            Warning::RunsDisagree { lowest, highest } => {
                format!("the runs differ by more than a quarter: {lowest:.0} to {highest:.0} messages a second")
            }
        }
    }

    /// Why it is so.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Warning::ClientWasTheBottleneck { .. } => "the client sets the pace, and the server could do more",
            Warning::SharedCpu { .. } => "client, server and other programs share the processors",
            Warning::TooFewSamples { .. } => "a percentile of few values is an accident",
            Warning::ServiceTimeReadAsLatency { .. } => {
                "a closed loop sends nothing while the server stands still: this is service time, not latency"
            }
            Warning::RateNotReached { .. } => "the server, or this client, is slower than the rate asks for",
            Warning::ClientWasLate { .. } => "the client's own delay is a great part of the latency that is shown",
            Warning::ServerErrors { .. } => "the server refused, ended, or answered wrongly",
            Warning::BacklogClipped { .. } => "more connections came at once than the listener's backlog holds",
            Warning::RunsDisagree { .. } => "something else used the machine, or the server changed",
        }
    }

    /// What to do.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Warning::ClientWasTheBottleneck { .. } => {
                "compare CPU time per message, not the rate; or use --threads or a second machine"
            }
            Warning::SharedCpu { .. } => {
                "compare CPU time per message, pin them apart (taskset), or load from another machine"
            }
            Warning::TooFewSamples { .. } => "measure longer, or read the lower percentiles only",
            Warning::ServiceTimeReadAsLatency { .. } => "measure latency with --rate",
            Warning::RateNotReached { .. } => "lower --rate, or read the latency as that of an overloaded server",
            Warning::ClientWasLate { .. } => "lower --rate, raise --threads, or keep the machine idle",
            Warning::ServerErrors { .. } => "see the causes below, and what the server logs",
            Warning::BacklogClipped { .. } => {
                "raise the server's backlog and net.core.somaxconn, or lower --connections"
            }
            Warning::RunsDisagree { .. } => "look what else runs, and measure again with a greater --repeat",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}; {}", self.observation(), self.cause(), self.remedy())
    }
}

/// The causes that a person can do something about at once.
pub(super) fn advice(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::PortsExhausted => Some(
            "a closed connection keeps its port for a minute (TIME_WAIT): wait, use another source address, or widen \
             net.ipv4.ip_local_port_range",
        ),
        Cause::DescriptorsExhausted => Some("raise the limit: ulimit -n, fs.file-max"),
        Cause::ConnectTimedOut => Some("is the listener's backlog full, or a firewall in between?"),
        _ => None,
    }
}
