//! The counters as Prometheus reads them: the text format, version 0.0.4.
//!
//! # References
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write as _};
use std::time::{Duration, SystemTime};

use eagain::limits::LISTENERS_COUNTED;
use eagain::{Counters, Handle, ListenerCounters, TURN_BOUNDS, WorkerCounters};
use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};

use super::listening::Names;

/// Each service, and its places among the counters of listeners.
type Services = [(String, Vec<usize>)];

/// Makes the text.
pub(crate) struct Exposition {
    handle: Handle,
    names: Names,
    started: Option<f64>,
}

impl Exposition {
    /// `names` are the services of the listeners; `started` is when this process was, in seconds since 1970.
    pub(crate) const fn new(handle: Handle, names: Names, started: Option<f64>) -> Self {
        Self { handle, names, started }
    }

    fn services(&self) -> Vec<(String, Vec<usize>)> {
        let names = self.names.all();
        let mut services: Vec<(String, Vec<usize>)> = Vec::new();
        for (slot, name) in names.iter().enumerate().take(LISTENERS_COUNTED) {
            let shared = slot + 1 == LISTENERS_COUNTED && names.len() > LISTENERS_COUNTED;
            let name = if shared { "others".to_owned() } else { name.to_string() };
            match services.iter_mut().find(|(other, _)| *other == name) {
                Some((_, slots)) => slots.push(slot),
                None => services.push((name, vec![slot])),
            }
        }
        services
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.handle.is_ending()
    }

    /// All there is to tell, now.
    pub(crate) fn text(&self) -> String {
        let workers = self.handle.worker_counters();
        let mut page = Page(String::with_capacity(32 * 1024));
        page.single("eagain_build_info", "gauge", "What runs here.", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        let draining = u8::from(self.is_draining());
        page.single("eagain_draining", "gauge", "1 from the signal to end on, 0 before.", &[], draining);
        connections(&mut page, &workers, &self.services());
        loops(&mut page, &workers);
        turns(&mut page, &workers);
        self.process(&mut page);
        page.0
    }

    /// The names and meanings that Prometheus recommends for every process. What cannot be read is left out.
    fn process(&self, page: &mut Page) {
        let mut tell = |name, kind, help, value: Option<f64>| {
            if let Some(value) = value {
                page.single(name, kind, help, &[], value);
            }
        };
        let limit = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64);
        tell("process_open_fds", "gauge", "Descriptors that are open.", open_descriptors());
        tell("process_max_fds", "gauge", "Descriptors that may be open (RLIMIT_NOFILE).", limit);
        tell("process_resident_memory_bytes", "gauge", "Resident memory (VmRSS).", resident_memory());
        tell("process_cpu_seconds_total", "counter", "Processor time of all threads, user and system.", {
            clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok().map(|time| Duration::from(time).as_secs_f64())
        });
        tell("process_start_time_seconds", "gauge", "Start of the process, in seconds since 1970.", self.started);
    }
}

fn connections(page: &mut Page, workers: &[WorkerCounters], services: &Services) {
    type Number = fn(&ListenerCounters) -> u64;
    let families: [(&str, &str, &str, Number); 5] = [
        ("eagain_connections_accepted_total", "counter", "Connections accepted: open + closed + refused.", |c| {
            c.accepted
        }),
        (
            "eagain_connections_refused_total",
            "counter",
            "Connections closed unserved, for want of memory or room.",
            |c| c.refused,
        ),
        ("eagain_connections_open", "gauge", "Connections that are there.", |c| c.open),
        ("eagain_received_bytes_total", "counter", "Bytes received from clients.", |c| c.received_bytes),
        ("eagain_sent_bytes_total", "counter", "Bytes that the sockets of clients took.", |c| c.sent_bytes),
    ];
    for (name, kind, help, number) in families {
        page.family(name, kind, help);
        each(workers, services, number, |labels, value| page.sample(name, labels, value));
    }
    let reasons: [(&str, Number); 11] = [
        ("finished", |c| c.finished),
        ("lingered", |c| c.lingered),
        ("broken", |c| c.broken),
        ("aborted", |c| c.aborted),
        ("stuck", |c| c.stuck),
        ("too_slow", |c| c.too_slow),
        ("timed_out", |c| c.timed_out),
        ("over_buffered", |c| c.over_buffered),
        ("closed", |c| c.closed),
        ("stopped", |c| c.stopped),
        ("moved", |c| c.moved),
    ];
    let name = "eagain_connections_closed_total";
    page.family(name, "counter", "Connections that were served and are over, by how they ended.");
    for (reason, number) in reasons {
        each(workers, services, number, |labels, value| {
            page.sample(name, &[labels, &[("reason", reason)]].concat(), value)
        });
    }
}

/// Each worker and service, with its number.
fn each(
    workers: &[WorkerCounters],
    services: &Services,
    number: fn(&ListenerCounters) -> u64,
    mut tell: impl FnMut(&[(&str, &str)], u64),
) {
    for (worker, counters) in workers.iter().enumerate() {
        for (service, slots) in services {
            let value = slots.iter().map(|&slot| number(&counters.listeners[slot])).sum();
            tell(&[("worker", &worker.to_string()), ("service", service)], value);
        }
    }
}

fn loops(page: &mut Page, workers: &[WorkerCounters]) {
    type Number = fn(&Counters) -> u64;
    let families: [(&str, &str, &str, Number); 14] = [
        ("eagain_epoll_waits_total", "counter", "Calls of epoll_wait.", |c| c.waits),
        ("eagain_epoll_events_total", "counter", "Events that they returned.", |c| c.events),
        ("eagain_epoll_stale_events_total", "counter", "Events of connections closed meanwhile.", |c| c.stale_events),
        ("eagain_receives_total", "counter", "Calls of recv.", |c| c.receives),
        ("eagain_receives_eagain_total", "counter", "Calls of recv that heard EAGAIN.", |c| c.receives_eagain),
        ("eagain_accept_pauses_total", "counter", "Rests of a listener, for want of descriptors or memory.", |c| {
            c.accept_pauses
        }),
        ("eagain_denied_total", "counter", "Closed unaccepted: by --allow and --deny.", |c| c.denied),
        ("eagain_over_connections_total", "counter", "Closed unaccepted: --max-connections.", |c| c.over_connections),
        ("eagain_over_per_ip_total", "counter", "Closed unaccepted: --max-connections-per-ip.", |c| c.over_per_ip),
        ("eagain_over_rate_total", "counter", "Closed unaccepted: --accept-rate.", |c| c.over_rate),
        ("eagain_over_buffered_total", "counter", "Closed unaccepted: --max-buffered.", |c| c.over_buffered),
        ("eagain_messages_total", "counter", "Messages of other threads.", |c| c.messages),
        ("eagain_messages_undelivered_total", "counter", "Messages for connections that were gone.", |c| c.undelivered),
        ("eagain_run_queue_length", "gauge", "Connections and listeners that go on in the next turn.", |c| c.run_queue),
    ];
    for (name, kind, help, number) in families {
        page.family(name, kind, help);
        for (worker, counters) in workers.iter().enumerate() {
            page.sample(name, &[("worker", &worker.to_string())], number(&counters.all));
        }
    }
}

fn turns(page: &mut Page, workers: &[WorkerCounters]) {
    let name = "eagain_loop_turn_seconds";
    page.family(
        name,
        "histogram",
        "Time that a turn of the loop took; nobody else of that worker is served meanwhile.",
    );
    for (worker, counters) in workers.iter().enumerate() {
        let worker = worker.to_string();
        let mut sum = 0;
        let bounds = TURN_BOUNDS.iter().map(|bound| bound.as_secs_f64().to_string()).chain(["+Inf".to_owned()]);
        for (count, bound) in counters.turns.buckets.iter().zip(bounds) {
            sum += count;
            page.sample("eagain_loop_turn_seconds_bucket", &[("worker", &worker), ("le", &bound)], sum);
        }
        page.sample("eagain_loop_turn_seconds_sum", &[("worker", &worker)], seconds(counters.turns.total_ns));
        page.sample("eagain_loop_turn_seconds_count", &[("worker", &worker)], sum);
    }
    let name = "eagain_loop_turn_longest_seconds";
    page.family(name, "gauge", "The longest turn since the start.");
    for (worker, counters) in workers.iter().enumerate() {
        page.sample(name, &[("worker", &worker.to_string())], seconds(counters.turns.longest_ns));
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

/// The text, as it grows. Writing to a `String` cannot fail.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escape(help, false));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let opening = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{opening}{label}=\"{}\"", escape(text, true));
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{closing} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, labels: &[(&str, &str)], value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, labels, value);
    }
}

/// Backslashes and line feeds everywhere, quotation marks in the value of a label.
fn escape(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quoted { text.replace('"', "\\\"") } else { text }
}

/// Since Linux 6.2 the size of the directory is the answer (proc_pid_fd(5)); before, it is 0 and the names are counted.
fn open_descriptors() -> Option<f64> {
    let fds = "/proc/self/fd";
    match std::fs::metadata(fds).ok()?.len() {
        // The one that reads the directory is not the server's.
        0 => std::fs::read_dir(fds).ok().map(|names| names.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

fn resident_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// When this process was started, in seconds since 1970. `/proc` tells the clock ticks since boot, of which there are
/// 100 a second (proc_pid_stat(5), time(7)); clocks do the rest, because `/proc/stat` is hidden from a service with
/// ProcSubset=pid.
pub(crate) fn start_of_process() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the fields behind it begin with the third.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?).as_secs_f64();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
    let start = now - (since_boot - ticks / 100.0);
    Some((start * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_may_not_hold_is_escaped() {
        let mut page = Page(String::new());
        page.single("a", "gauge", "b\\\"c\nd", &[("e", "f\\g\"h\ni"), ("j", "")], 1);
        assert_eq!(page.0, "# HELP a b\\\\\"c\\nd\n# TYPE a gauge\na{e=\"f\\\\g\\\"h\\ni\",j=\"\"} 1\n");
    }
}
