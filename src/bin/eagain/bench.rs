//! `eagain bench` and `eagain report`: a load to trust, on the library's own epoll.
//!
//! A [`Plan`] says what is to be measured; [`measure`] measures it once and gives a [`Run`]; several runs of one plan
//! are an [`Outcome`]. The other files say what it is to people, to programs and to the eye.

mod client;
mod dial;
mod embedded;
mod environment;
mod failure;
mod hdr;
mod histogram;
mod json;
mod outcome;
mod picture;
mod plan;
mod process;
mod progress;
mod record;
mod report;
mod run;
mod schedule;
mod statistics;
mod table;
mod warnings;
mod wire;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub(crate) use self::embedded::Embedded;
pub(crate) use self::environment::Environment;
pub(crate) use self::outcome::Outcome;
pub(crate) use self::plan::{Pace, Plan, Service, Stop};
pub(crate) use self::report::report;
pub(crate) use self::run::{Run, measure};
pub(crate) use self::statistics::Spread;
pub(crate) use self::table::count;

use self::progress::Meter;
use crate::cli;
use crate::say::{self, reason};

/// Descriptors besides those of the connections.
const OTHER_DESCRIPTORS: usize = 64;

pub(crate) fn run(options: &cli::Bench) -> ExitCode {
    match bench(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

/// True: every answer was right.
fn bench(options: &cli::Bench) -> Result<bool, String> {
    let signals = block_signals()?;
    check_descriptors(&options.plan)?;
    let servers = match options.target {
        Some(_) => Vec::new(),
        None => Embedded::both(&options.plan)?,
    };
    let plans = match &servers[..] {
        [] => vec![options.plan.clone()],
        servers => servers.iter().map(|server| server.plan(&options.plan)).collect(),
    };
    let outcomes = measure_in_turns(plans, options.repeat, &signals)?;
    drop(servers);
    let streams = [&options.json, &options.hdr, &options.svg].into_iter().flatten().any(|file| file.as_os_str() == "-");
    let text = table::show(&outcomes);
    if streams {
        write_stderr(&text)
    } else {
        say::out(&text)
    }
    write(options.json.as_deref(), || Ok(json::show(&outcomes).into_bytes()))?;
    write(options.hdr.as_deref(), || hdr::show(&outcomes))?;
    write(options.svg.as_deref(), || Ok(picture::show(&outcomes).into_bytes()))?;
    Ok(outcomes.iter().all(Outcome::is_clean))
}

/// Measures every plan `repeat` times, in turns, so that what changes on the machine meanwhile changes for all of them.
fn measure_in_turns(plans: Vec<Plan>, repeat: usize, signals: &SignalFd) -> Result<Vec<Outcome>, String> {
    let mut meter = Meter::new(plans.len() * repeat);
    let mut runs: Vec<Vec<Run>> = plans.iter().map(|_| Vec::with_capacity(repeat)).collect();
    for _ in 0..repeat {
        for (plan, runs) in plans.iter().zip(&mut runs) {
            meter.next(plan);
            runs.push(measure(plan, &mut |progress| {
                meter.show(progress);
                !matches!(signals.read_signal(), Ok(Some(_)))
            })?);
        }
    }
    drop(meter);
    Ok(plans.into_iter().zip(runs).map(|(plan, runs)| Outcome::new(plan, runs)).collect())
}

/// So that servers of our own are ended before we are. Before any thread is made.
pub(crate) fn block_signals() -> Result<SignalFd, String> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block().map_err(|error| error.to_string())?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(|error| error.to_string())
}

/// One connection is one descriptor: takes what the hard limit allows, and tells before the work if that is too few.
fn check_descriptors(plan: &Plan) -> Result<(), String> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(soft, |(soft, _)| soft);
    let needed = (plan.connections + plan.idle + plan.threads + OTHER_DESCRIPTORS) as u64;
    if needed > limit {
        return Err(format!(
            "--connections {} and --idle {} need {needed} descriptors, and the limit is {limit} (RLIMIT_NOFILE): \
             raise it (ulimit -Hn {needed}, as root), or ask for fewer",
            plan.connections, plan.idle
        ));
    }
    Ok(())
}

/// stdout belongs to a file that goes there.
fn write_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn write(path: Option<&Path>, content: impl FnOnce() -> Result<Vec<u8>, String>) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let content = content()?;
    let written = match path.as_os_str() == "-" {
        true => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&content).and_then(|()| stdout.flush())
        }
        false => std::fs::write(path, content),
    };
    written.map_err(|error| format!("cannot write {}: {}", path.display(), reason(&error)))
}
