//! One plan, measured once or several times, and what can be said of it.

use hdrhistogram::Histogram;

use super::environment::Environment;
use super::failure::Failures;
use super::plan::Plan;
use super::process::Used;
use super::run::{Run, sum};
use super::statistics::Spread;
use super::warnings::{self, Warning};

/// With fewer runs than this, the seconds of the runs are what is compared.
const RUNS_TO_COMPARE: usize = 3;

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    /// At least one.
    pub(crate) runs: Vec<Run>,
    /// Of all runs.
    pub(crate) failures: Failures,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) environment: Environment,
}

impl Outcome {
    pub(crate) fn new(plan: Plan, runs: Vec<Run>) -> Outcome {
        let mut failures = Failures::default();
        runs.iter().for_each(|run| failures.merge(&run.failures));
        let mut outcome = Outcome { plan, runs, failures, warnings: Vec::new(), environment: Environment::look() };
        outcome.warnings = warnings::of(&outcome);
        outcome
    }

    /// Every connection was established, and every answer was right.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.runs.iter().map(|run| run.seconds).sum()
    }

    pub(crate) fn messages(&self) -> u64 {
        self.runs.iter().map(|run| run.messages).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    /// Of all runs, nanoseconds: latency in an open loop, else service time.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        sum(self.runs.iter().map(Run::latency).collect::<Vec<_>>().iter())
    }

    /// Of all runs, nanoseconds; in an open loop, where it is not the latency.
    pub(crate) fn service_time(&self) -> Option<Histogram<u64>> {
        let all: Option<Vec<_>> = self.runs.iter().map(Run::service_time).collect();
        all.map(|all| sum(all.iter()))
    }

    /// A figure of every run; `None` if a run lacks it.
    pub(crate) fn spread(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        let values: Option<Vec<f64>> = self.runs.iter().map(figure).collect();
        Spread::of(&values?)
    }

    /// The median of a figure of the client's or the server's process.
    pub(crate) fn server(&self, figure: impl Fn(&Used) -> Option<f64>) -> Option<f64> {
        self.spread(|run| run.server.as_ref().and_then(&figure)).map(|spread| spread.median)
    }

    pub(crate) fn client(&self, figure: impl Fn(&Used) -> Option<f64>) -> Option<f64> {
        self.spread(|run| figure(&run.client)).map(|spread| spread.median)
    }

    /// What another outcome can be compared with: messages (or bytes, in a stream) a second, of each run if there are
    /// enough of them, else of each whole interval.
    pub(crate) fn throughput(&self) -> Option<Spread> {
        if self.runs.len() >= RUNS_TO_COMPARE {
            return self.spread(|run| Some(self.amount(run.messages, run.bytes) / run.seconds));
        }
        let intervals = self.runs.iter().flat_map(|run| &run.intervals);
        let whole = intervals.filter(|interval| interval.length.as_secs_f64() >= 0.999);
        let values: Vec<f64> = whole
            .map(|interval| self.amount(interval.messages, interval.bytes) / interval.length.as_secs_f64())
            .collect();
        Spread::of(&values)
    }

    fn amount(&self, messages: u64, bytes: u64) -> f64 {
        if self.plan.service.answers() { messages as f64 } else { bytes as f64 }
    }
}
