//! One measurement from beginning to end: the threads of the load, and the clock that they share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

use super::client::{Client, Share, Shared, Tally};
use super::dial::Route;
use super::environment::ListenQueue;
use super::failure::Failures;
use super::plan::{Pace, Plan, Stop};
use super::process::{Usage, Used};
use super::record::{Interval, Mean, Timeline, histogram};
use super::wire::Wire;

/// How often whoever watches is told.
const GLANCE: Duration = Duration::from_millis(50);

/// How far a measurement is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Progress {
    /// Connections are being made.
    Connecting,
    /// So much of its time is over, warm-up included (`None`: a number of messages is its end), with so many answers.
    Running { part: Option<f64>, answers: u64 },
}

/// Is told how far a measurement is; false stops it.
pub(crate) type Watch<'w> = &'w mut dyn FnMut(Progress) -> bool;

/// What one measurement has found.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) started: SystemTime,
    /// Between the end of the warm-up and the end of the measurement.
    pub(crate) seconds: f64,
    /// Answered in this time.
    pub(crate) messages: u64,
    /// Payload of these answers, or of the stream.
    pub(crate) bytes: u64,
    pub(crate) intervals: Vec<Interval>,
    /// Of each connection, in the order of their numbers.
    pub(crate) means: Vec<Mean>,
    /// Busy connections that were established.
    pub(crate) connected: usize,
    pub(crate) failures: Failures,
    pub(crate) client: Used,
    /// Where the server's processes are known.
    pub(crate) server: Option<Used>,
    /// How late the client itself sent what was due, in an open loop: on average and at most.
    pub(crate) late: Mean,
    pub(crate) latest_ns: u64,
    /// SYNs and connections that full listen queues of this machine have dropped meanwhile; `None`: not known.
    pub(crate) dropped_by_listeners: Option<u64>,
}

impl Run {
    /// A run in which nothing has happened.
    pub(super) fn empty(started: SystemTime, seconds: f64) -> Run {
        Run {
            started,
            seconds,
            messages: 0,
            bytes: 0,
            intervals: Vec::new(),
            means: Vec::new(),
            connected: 0,
            failures: Failures::default(),
            client: Usage::default().since(&Usage::default(), 0, 0, seconds),
            server: None,
            late: Mean::default(),
            latest_ns: 0,
            dropped_by_listeners: None,
        }
    }

    pub(crate) fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    /// Nanoseconds: latency in an open loop, else service time.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        sum(self.intervals.iter().map(|interval| &interval.latency))
    }

    /// Nanoseconds; in an open loop, where it is not the latency.
    pub(crate) fn service_time(&self) -> Option<Histogram<u64>> {
        let all: Option<Vec<_>> = self.intervals.iter().map(|interval| interval.service_time.as_ref()).collect();
        all.map(|all| sum(all.into_iter()))
    }
}

/// All values of several histograms of ours.
pub(crate) fn sum<'h>(all: impl Iterator<Item = &'h Histogram<u64>>) -> Histogram<u64> {
    let mut total = histogram();
    for one in all {
        // Longer values than ours can hold come only from other programs' logs; they make room for themselves.
        total.auto(true);
        let _ = total.add(one);
    }
    total
}

/// Measures as `plan` says. Failures of connections are counted in the result; an error means that there is nothing to
/// measure: no target, no such process, no descriptors.
pub(crate) fn measure(plan: &Plan, watch: Watch<'_>) -> Result<Run, String> {
    Usage::of(&plan.server)?;
    let all = plan.connections + plan.idle;
    let route =
        Route::find(&plan.target, all, plan.churn, plan.patience).map_err(|why| format!("{}: {why}", plan.name))?;
    let wire = Wire::new(plan.service, plan.size);
    let shared = Shared { plan, wire: &wire, route: &route, answered: AtomicU64::new(0), stop: AtomicBool::new(false) };
    let queue = route.is_local().then(ListenQueue::look).flatten();
    let start = Start { connected: AtomicUsize::new(0), all: Barrier::new(plan.threads + 1), at: OnceLock::new() };
    let mut run = thread::scope(|scope| {
        let (shared, start) = (&shared, &start);
        let threads = shares(plan).into_iter().map(|share| scope.spawn(move || load(shared, share, start))).collect();
        while start.connected.load(Ordering::Acquire) < plan.threads {
            if !watch(Progress::Connecting) {
                shared.stop.store(true, Ordering::Relaxed);
            }
            thread::sleep(GLANCE / 10);
        }
        // Before the start: a few messages are answered before this thread has a processor again.
        let before = Look::at(plan);
        let started = SystemTime::now();
        let timeline = *start.at.get_or_init(|| Timeline::new(plan, Instant::now()));
        start.all.wait();
        observe(plan, shared, timeline, threads, started, before, watch)
    })?;
    run.dropped_by_listeners = queue.and_then(|before| Some(ListenQueue::look()?.dropped_since(&before)));
    if shared.stop.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(run) }
}

/// How all threads begin at the same time: when the last of them has its connections.
struct Start {
    connected: AtomicUsize,
    all: Barrier,
    at: OnceLock<Timeline>,
}

type Outcome = Result<Tally, String>;

/// The life of one thread.
fn load(shared: &Shared<'_>, share: Share, start: &Start) -> Outcome {
    let dialled = Client::new(shared, share, Timeline::new(shared.plan, Instant::now()))
        .and_then(|mut client| client.connect().map(|()| client));
    start.connected.fetch_add(1, Ordering::Release);
    start.all.wait();
    // It is set before the last one comes to the barrier.
    let timeline = start.at.get().ok_or("no timeline")?;
    dialled.and_then(|client| client.run(*timeline)).map_err(|error| error.to_string())
}

/// Connections, idle ones and messages, dealt to the threads.
fn shares(plan: &Plan) -> Vec<Share> {
    let threads = plan.threads;
    let part = |all: usize, thread: usize| (all * thread / threads, all * (thread + 1) / threads);
    let share = |thread| {
        let (first, end) = part(plan.connections, thread);
        let (first_idle, end_idle) = part(plan.idle, thread);
        let connections = end - first;
        let (rate, stagger) = match plan.pace {
            Pace::Closed => (None, 0),
            Pace::Open { per_second } => {
                let rate = per_second * connections as f64 / plan.connections as f64;
                (Some(rate), (1e9 / rate * thread as f64 / threads as f64) as u64)
            }
        };
        Share { first, connections, first_idle, idle: end_idle - first_idle, rate, stagger }
    };
    (0..threads).map(share).collect()
}

/// What our own process and those of the server have used so far.
struct Look {
    client: Result<Usage, String>,
    server: Result<Usage, String>,
}

impl Look {
    fn at(plan: &Plan) -> Look {
        Look { client: Usage::of(&[std::process::id()]), server: Usage::of(&plan.server) }
    }
}

/// Looks at the processes when the measurement begins (`before`, unless there is a warm-up) and ends, and gathers what
/// the threads have found.
fn observe(
    plan: &Plan,
    shared: &Shared<'_>,
    timeline: Timeline,
    threads: Vec<ScopedJoinHandle<'_, Outcome>>,
    started: SystemTime,
    before: Look,
    watch: Watch<'_>,
) -> Result<Run, String> {
    let mut wait_until = |time: u64| {
        while timeline.now() < time && !threads.iter().all(ScopedJoinHandle::is_finished) {
            let left = Duration::from_nanos(time - timeline.now().min(time));
            thread::sleep(left.min(GLANCE));
            let part = match plan.stop {
                Stop::After(_) => Some(timeline.now() as f64 / timeline.end as f64),
                Stop::Messages(_) => None,
            };
            let progress = Progress::Running { part, answers: shared.answered.load(Ordering::Relaxed) };
            if !watch(progress) {
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    };
    let before = if timeline.begin == 0 {
        before
    } else {
        wait_until(timeline.begin);
        Look::at(plan)
    };
    wait_until(timeline.end);
    let after = Look::at(plan);
    wait_until(u64::MAX);
    let mut tallies = Vec::with_capacity(threads.len());
    for thread in threads {
        tallies.push(thread.join().map_err(|_| "a thread of the load has panicked".to_owned())??);
    }
    let mut run = gather(plan, timeline, started, tallies);
    let counted = if plan.service.answers() { run.messages } else { 0 };
    let used = |after: &Usage, before: &Usage| after.since(before, counted, run.bytes, run.seconds);
    run.client = used(&after.client?, &before.client?);
    if !plan.server.is_empty() {
        // A server that has died in the meantime is one of the failures, and has no figures.
        run.server = after.server.ok().zip(before.server.ok()).map(|(after, before)| used(&after, &before));
    }
    Ok(run)
}

fn gather(plan: &Plan, timeline: Timeline, started: SystemTime, tallies: Vec<Tally>) -> Run {
    let last = tallies.iter().map(|tally| tally.recorder.last).max().unwrap_or(timeline.begin);
    let end = if matches!(plan.stop, Stop::Messages(_)) { last } else { timeline.end };
    let seconds = (end - timeline.begin).max(1) as f64 / 1e9;
    let mut run = Run::empty(started + Duration::from_nanos(timeline.begin), seconds);
    for tally in tallies {
        for (at, interval) in tally.recorder.intervals.into_iter().enumerate() {
            match run.intervals.get_mut(at) {
                Some(mine) => mine.merge(&interval),
                None => run.intervals.push(interval),
            }
        }
        run.means.extend(tally.means);
        run.connected += tally.connected;
        run.failures.merge(&tally.failures);
        run.late.messages += tally.late.messages;
        run.late.nanoseconds += tally.late.nanoseconds;
        run.latest_ns = run.latest_ns.max(tally.latest);
    }
    if let Some(interval) = run.intervals.last_mut() {
        let length = Duration::from_nanos(end - timeline.begin).saturating_sub(interval.start);
        interval.length = interval.length.min(length);
    }
    run.messages = run.intervals.iter().map(|interval| interval.messages).sum();
    run.bytes = run.intervals.iter().map(|interval| interval.bytes).sum();
    run
}
