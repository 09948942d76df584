//! Performing experiments: each in a process of its own, so that lowered limits, signals, forks and leaked descriptors
//! end with it, and with a deadline, so that none can hang the lab.

use std::io::Read as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eagain::sys::children::end_with_parent;
use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::experiment::{self, Experiment, Group};
use super::kernel;
use super::stage::{Stage, loopback};
use super::timeline::{self, Line, Reader, Step};
use super::verdict::Verdict;
use crate::cli::LabOptions;

/// After this an experiment is given up; the longest takes some four seconds by itself.
const DEADLINE: Duration = Duration::from_secs(20);
/// Most experiments sleep most of the time; more at once than processors, but not so many that they disturb each other.
const JOBS_PER_PROCESSOR: usize = 4;
const MOST_JOBS: usize = 16;
/// The first, with the others, and two alone.
const MOST_TRIES: u32 = 3;

/// What came of one experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) id: String,
    pub(crate) group: String,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    /// The version of Linux, as "6.9", that is newer than this kernel and changed what is expected of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    /// How often it was tried, if not once.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub(crate) tries: u32,
    /// Microseconds, with the start of its process.
    #[serde(default)]
    pub(crate) took_us: u64,
    #[serde(default)]
    pub(crate) timeline: Vec<Step>,
}

const fn once() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_once(tries: &u32) -> bool {
    *tries == 1
}

/// Performs one experiment in this process, and tells what happens on stdout. The process is spent afterwards.
pub(crate) fn here(id: &str, LabOptions { mutated, slack }: LabOptions) -> ExitCode {
    let Some((_, experiment)) = experiment::find(id) else { return ExitCode::FAILURE };
    let stage = Stage::new(mutated.then_some(experiment.mutation), slack);
    let verdict = if stage.kernel() < experiment.since {
        let (major, minor) = experiment.since;
        Verdict::NotTested(format!("it is so since Linux {major}.{minor}, and this is {}", kernel::release()))
    } else {
        unless_alone((experiment.run)(&stage).into())
    };
    timeline::tell(&Line::Verdict(verdict));
    // Threads may still wait for what will not come.
    std::process::exit(0)
}

/// A new network namespace has a loopback that is down. What does not hold there is the lab's matter, not the kernel's.
fn unless_alone(verdict: Verdict) -> Verdict {
    let reach = || UdpSocket::bind(loopback())?.connect((Ipv4Addr::LOCALHOST, 9));
    match verdict {
        Verdict::DoesNotHold(why) if reach().is_err() => {
            Verdict::NotTested(format!("the loopback interface is down (ip link set lo up), and so: {why}"))
        }
        verdict => verdict,
    }
}

/// Performs all of `chosen`, several at a time, and returns the reports in the same order. `done` hears of each when it
/// is done.
pub(crate) fn perform(
    chosen: &[(&'static Group, &'static Experiment)],
    options: LabOptions,
    done: impl Fn(usize, &Report) + Sync,
) -> Vec<Report> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = (processors * JOBS_PER_PROCESSOR).min(MOST_JOBS).min(chosen.len());
    let next = AtomicUsize::new(0);
    let reports: Mutex<Vec<(usize, Report)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((at, (group, experiment))) = take(&next, chosen) {
                    let report = in_a_process(group, experiment, options);
                    done(at, &report);
                    reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, report));
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    reports.sort_by_key(|(at, _)| *at);
    let mut reports: Vec<Report> = reports.into_iter().map(|(_, report)| report).collect();
    if options.slack > 1 && !options.mutated {
        for (report, (group, experiment)) in reports.iter_mut().zip(chosen) {
            try_again(report, group, experiment, options);
        }
    }
    reports
}

/// On a machine that is too slow for many experiments at once each has its chance alone, and the report tells of it.
fn try_again(report: &mut Report, group: &Group, experiment: &Experiment, options: LabOptions) {
    while report.verdict != Verdict::Holds && report.tries < MOST_TRIES && experiment.since <= kernel::version() {
        let tries = report.tries + 1;
        *report = Report { tries, ..in_a_process(group, experiment, options) };
    }
}

fn take<T: Copy>(next: &AtomicUsize, of: &[T]) -> Option<(usize, T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    of.get(at).map(|item| (at, *item))
}

fn in_a_process(group: &Group, experiment: &Experiment, options: LabOptions) -> Report {
    let started = Instant::now();
    let mut reader = Reader::default();
    let verdict = watch(experiment, options, &mut reader)
        .unwrap_or_else(|error| Verdict::NotTested(format!("its process could not be started or watched: {error}")));
    Report {
        id: experiment.id.to_owned(),
        group: group.name.to_owned(),
        verdict,
        before: reader.before(),
        tries: 1,
        took_us: started.elapsed().as_micros() as u64,
        timeline: reader.steps(),
    }
}

/// Starts the process, listens to it, and sees to its end.
fn watch(
    experiment: &Experiment,
    LabOptions { mutated, slack }: LabOptions,
    reader: &mut Reader,
) -> std::io::Result<Verdict> {
    // Not `current_exe`: the file may have been replaced by a newer build, which is another program.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["lab", "one", experiment.id])
        .args(mutated.then_some("mutated"))
        .args(["--slack", &slack.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    // This thread waits for it. An experiment that hangs would stay when the lab is killed.
    let mut child = end_with_parent(&mut command).spawn()?;
    let verdict = listen(&mut child, DEADLINE * slack, reader);
    // Its children too, if it has left any.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    child.wait()?;
    verdict
}

fn listen(child: &mut Child, limit: Duration, reader: &mut Reader) -> std::io::Result<Verdict> {
    let deadline = Instant::now() + limit;
    let Some(mut stdout) = child.stdout.take() else { return Err(std::io::ErrorKind::BrokenPipe.into()) };
    let epoll = Epoll::new()?;
    epoll.add(&stdout, 0, Interest::READ, Mode::LEVEL)?;
    let (mut events, mut text, mut chunk) = (Events::with_capacity(1), Vec::new(), [0; 65_536]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Verdict::DoesNotHold(format!("it was not done after {} s", limit.as_secs())));
        }
        if epoll.wait(&mut events, Timeout::After(left))? == 0 {
            continue;
        }
        let count = stdout.read(&mut chunk)?;
        if count == 0 {
            return Ok(Verdict::DoesNotHold("its process ended before it was done".to_owned()));
        }
        text.extend_from_slice(&chunk[..count]);
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            // What is no line of ours was printed by a mistake of the experiment's, and is no matter.
            if let Some(verdict) = serde_json::from_slice(&line).ok().and_then(|line| reader.line(line)) {
                return Ok(verdict);
            }
        }
    }
}
