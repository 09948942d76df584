//! `eagain compare`: the server models, by one client, over idle connections × message sizes × active connections.
//!
//! Every repetition goes through everything, each model a fresh process, so that what else the machine does meets all
//! of them. One model comes twice: what is found to differ between it and itself is what this machine cannot tell.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signalfd::SignalFd;
use serde::Serialize;

use super::Failure;
use super::calls::{self, Calls};
use super::findings::Findings;
use super::report;
use crate::address::Address;
use crate::bench::{Embedded, Environment, Plan, Run, Spread, Stop, block_signals, measure};
use crate::cli::Compare;
use crate::models;
use crate::say;

/// A model by its name in all figures, and the options of `serve` that select it. Epoll has one worker, as the others
/// have one thread that serves, or would have if they had a choice.
pub(super) struct Model {
    pub(super) name: &'static str,
    pub(super) options: &'static [&'static str],
}

pub(super) const MODELS: [Model; 6] = [
    Model { name: "threads", options: &["--model", "threads"] },
    Model { name: "select", options: &["--model", "select"] },
    Model { name: "poll", options: &["--model", "poll"] },
    Model { name: "completion", options: &["--model", "completion"] },
    Model { name: "epoll-level", options: &["--workers", "1"] },
    Model { name: "epoll-edge", options: &["--workers", "1", "--edge-triggered"] },
];

/// The one that is measured a second time.
pub(super) const TWICE: usize = 4;

/// Descriptors that the server or the client needs besides those of connections.
const OTHER_DESCRIPTORS: usize = 64;

/// What is measured, and how long.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Grid {
    pub(super) idle: Vec<usize>,
    pub(super) sizes: Vec<usize>,
    pub(super) connections: Vec<usize>,
    /// As many as there was time for.
    pub(super) repetitions: usize,
    pub(super) seconds: f64,
    pub(super) warm_up_seconds: f64,
    /// No repetition is begun that would end later.
    #[serde(skip)]
    pub(super) budget: Option<Duration>,
}

impl Grid {
    fn full() -> Self {
        Self {
            idle: vec![0, 100, 900, 10_000, 19_000],
            sizes: vec![64, 16_384],
            connections: vec![1, 64],
            repetitions: 5,
            seconds: 1.0,
            warm_up_seconds: 0.2,
            budget: None,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self::quick()
    }

    fn quick() -> Self {
        Self {
            idle: vec![0, 900, 10_000],
            sizes: vec![64],
            connections: vec![16],
            repetitions: 5,
            seconds: 0.3,
            warm_up_seconds: 0.25,
            budget: Some(Duration::from_secs(90)),
        }
    }
}

/// One place in the grid, for one model.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    pub(super) model: &'static str,
    pub(super) idle: usize,
    pub(super) size: usize,
    pub(super) connections: usize,
    pub(super) messages_per_second: Spread,
    pub(super) p50_us: Spread,
    pub(super) p99_us: Spread,
    pub(super) server_cpu_ns_per_message: Spread,
    pub(super) server_rss_bytes: Spread,
    /// Answers that were not right, and connections that failed, in all repetitions.
    pub(super) errors: u64,
}

/// What could not be measured, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Missing {
    pub(super) model: &'static str,
    pub(super) idle: usize,
    pub(super) why: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) model: &'static str,
    /// Between the server without idle connections and with so many.
    pub(super) idle: usize,
    pub(super) bytes_per_connection: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) schema: u32,
    pub(super) compared: &'static str,
    pub(super) quick: bool,
    pub(super) grid: Grid,
    pub(super) cells: Vec<Cell>,
    /// The model that was measured twice, the second time.
    pub(super) again: Vec<Cell>,
    pub(super) findings: Findings,
    pub(super) system_calls: Vec<Calls>,
    pub(super) system_calls_not_measured: Option<String>,
    pub(super) memory: Vec<Memory>,
    pub(super) not_measured: Vec<Missing>,
    pub(super) environment: Environment,
}

pub(super) fn compare(options: &Compare, directory: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {}", directory.display(), say::reason(&error)))?;
    let signals = block_signals()?;
    raise_descriptor_limit();
    let environment = Environment::look();
    let mut grid = if options.quick { Grid::quick() } else { Grid::full() };
    if let Some(idle) = &options.idle {
        grid.idle.clone_from(idle);
    }
    if let Some(repetitions) = options.repeat {
        grid.repetitions = repetitions;
        grid.budget = None;
    }
    let (system_calls, system_calls_not_measured) = match calls::count(&MODELS) {
        Ok(calls) => (calls, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let mut campaign = Campaign::new(&grid, &signals);
    let repetitions = campaign.run()?;
    let (cells, again, not_measured) = campaign.results();
    grid.repetitions = repetitions;
    let comparison = Comparison {
        schema: 1,
        compared: "models",
        quick: options.quick,
        findings: Findings::of(&grid, &cells, &again),
        memory: memory(&cells),
        grid,
        cells,
        again,
        system_calls,
        system_calls_not_measured,
        not_measured,
        environment,
    };
    report::write(&comparison, directory)
}

/// One connection is one descriptor, here and in the servers.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Everything that is measured, repetition by repetition.
struct Campaign<'a> {
    grid: &'a Grid,
    signals: &'a SignalFd,
    /// Of each model, and behind them of the one that comes twice: of each cell in the order of the grid.
    runs: Vec<Vec<Place>>,
    missing: Vec<Missing>,
    bar: ProgressBar,
}

struct Place {
    idle: usize,
    size: usize,
    connections: usize,
    runs: Vec<Run>,
}

impl<'a> Campaign<'a> {
    fn new(grid: &'a Grid, signals: &'a SignalFd) -> Self {
        let places = || {
            let mut places = Vec::new();
            for &idle in &grid.idle {
                for &size in &grid.sizes {
                    for &connections in &grid.connections {
                        places.push(Place { idle, size, connections, runs: Vec::new() });
                    }
                }
            }
            places
        };
        let runs: Vec<Vec<Place>> = (0..=MODELS.len()).map(|_| places()).collect();
        let all = runs.len() * runs[0].len() * grid.repetitions;
        let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos} of {len}  {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { grid, signals, runs, missing: Vec::new(), bar }
    }

    /// Returns how many repetitions there were.
    fn run(&mut self) -> Result<usize, Failure> {
        let start = Instant::now();
        for repetition in 1..=self.grid.repetitions {
            for &idle in &self.grid.idle {
                for series in 0..self.runs.len() {
                    self.serve(series, idle)?;
                }
            }
            let next = start.elapsed() / repetition as u32 * (repetition as u32 + 1);
            if self.grid.budget.is_some_and(|budget| next > budget) {
                self.bar.finish_and_clear();
                return Ok(repetition);
            }
        }
        self.bar.finish_and_clear();
        Ok(self.grid.repetitions)
    }

    /// One server process, with so many idle connections, for every size and number of active ones.
    fn serve(&mut self, series: usize, idle: usize) -> Result<(), Failure> {
        let model = model_of(series);
        let most = self.grid.connections.iter().max().copied().unwrap_or(0);
        if let Some(why) = impossible(model.name, idle + most) {
            let missing = Missing { model: model.name, idle, why };
            if series < MODELS.len() && !self.missing.contains(&missing) {
                self.missing.push(missing);
            }
            return Ok(());
        }
        let plan = Plan {
            idle,
            stop: Stop::After(Duration::from_secs_f64(self.grid.seconds)),
            warm_up: Duration::from_secs_f64(self.grid.warm_up_seconds),
            ..Plan::new(Address::Tcp(Vec::new()), model.name.to_owned())
        };
        let server = Embedded::start(model.name, &plan, model.options)?;
        let plan = server.plan(&plan);
        let signals = self.signals;
        for place in self.runs[series].iter_mut().filter(|place| place.idle == idle) {
            self.bar.set_message(format!("{}, {idle} idle", model.name));
            let plan = Plan { size: place.size, connections: place.connections, ..plan.clone() };
            place.runs.push(measure(&plan, &mut |_| !matches!(signals.read_signal(), Ok(Some(_))))?);
            self.bar.inc(1);
        }
        Ok(())
    }

    fn results(mut self) -> (Vec<Cell>, Vec<Cell>, Vec<Missing>) {
        let mut cells: Vec<Vec<Cell>> = Vec::new();
        for (series, places) in self.runs.iter().enumerate() {
            let model = model_of(series).name;
            cells.push(places.iter().filter_map(|place| cell(model, place)).collect());
            let is_second = series == MODELS.len();
            let lost = |place: &&Place| !is_second && !place.runs.is_empty() && cell(model, place).is_none();
            let failed = places.iter().filter(lost);
            let why = "a run was too short for a figure: on a machine this busy, nothing was answered in time";
            self.missing.extend(failed.map(|place| Missing { model, idle: place.idle, why: why.to_owned() }));
        }
        let again = cells.pop().unwrap_or_default();
        (cells.concat(), again, self.missing)
    }
}

fn model_of(series: usize) -> &'static Model {
    MODELS.get(series).unwrap_or(&MODELS[TWICE])
}

/// Why a model cannot have so many connections here, if it cannot.
fn impossible(model: &str, connections: usize) -> Option<String> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if (connections + OTHER_DESCRIPTORS) as u64 > limit {
        return Some(format!("the limit of descriptors is {limit} (RLIMIT_NOFILE)"));
    }
    match model {
        "select" if connections + OTHER_DESCRIPTORS > 1024 => {
            Some("select cannot watch a descriptor above 1023 (FD_SETSIZE)".to_owned())
        }
        "threads" => models::most_threads()
            .filter(|&most| connections > most)
            .map(|most| format!("vm.max_map_count has maps for {most} threads")),
        _ => None,
    }
}

fn cell(model: &'static str, place: &Place) -> Option<Cell> {
    let spread = |figure: &dyn Fn(&Run) -> Option<f64>| {
        let values: Option<Vec<f64>> = place.runs.iter().map(figure).collect();
        Spread::of(&values?)
    };
    let quantile = |run: &Run, part: f64| Some(run.latency().value_at_quantile(part) as f64 / 1000.0);
    Some(Cell {
        model,
        idle: place.idle,
        size: place.size,
        connections: place.connections,
        messages_per_second: spread(&|run| Some(run.messages_per_second()))?,
        p50_us: spread(&|run| quantile(run, 0.5))?,
        p99_us: spread(&|run| quantile(run, 0.99))?,
        server_cpu_ns_per_message: spread(&|run| run.server.as_ref()?.cpu_ns_per_message)?,
        server_rss_bytes: spread(&|run| Some(run.server.as_ref()?.rss_bytes as f64))?,
        errors: place.runs.iter().map(|run| run.failures.total).sum(),
    })
}

/// By the most idle connections that each model was measured with.
fn memory(cells: &[Cell]) -> Vec<Memory> {
    MODELS
        .iter()
        .filter_map(|model| {
            let first = cells.iter().find(|cell| cell.model == model.name && cell.idle == 0)?;
            let same =
                |cell: &&Cell| (cell.model, cell.size, cell.connections) == (model.name, first.size, first.connections);
            let most = cells.iter().filter(same).max_by_key(|cell| cell.idle).filter(|cell| cell.idle > 0)?;
            let grown = most.server_rss_bytes.median - first.server_rss_bytes.median;
            Some(Memory { model: model.name, idle: most.idle, bytes_per_connection: grown / most.idle as f64 })
        })
        .collect()
}
