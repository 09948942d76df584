//! What a process has used so far, as the kernel tells it.

use std::fs;

use nix::time::ClockId;
use nix::unistd::Pid;
use serde::Serialize;

/// Summed over processes and their threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time, nanoseconds; of threads that have ended too.
    pub(crate) cpu_ns: u64,
    /// Time ready to run while another had the processor, nanoseconds; of threads that live.
    pub(crate) waiting_ns: u64,
    /// Switches because there was nothing to do, and because the time slice was over.
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
}

/// What was used in a measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Used {
    pub(crate) cpu_ns: u64,
    /// `null` where nothing is counted in messages.
    pub(crate) cpu_ns_per_message: Option<f64>,
    pub(crate) cpu_ns_per_kib: Option<f64>,
    /// CPU time by wall-clock time: 1 is one processor.
    pub(crate) cpus: f64,
    /// Time ready to run without a processor, by wall-clock time.
    pub(crate) cpus_waited_for: f64,
    /// At the end.
    pub(crate) rss_bytes: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
}

impl Usage {
    pub(super) fn of(processes: &[u32]) -> Result<Usage, String> {
        let mut usage = Usage::default();
        for &process in processes {
            usage.add(process).map_err(|why| format!("process {process}: {why}"))?;
        }
        Ok(usage)
    }

    fn add(&mut self, process: u32) -> Result<(), String> {
        let gone = |_| "there is none of that number".to_owned();
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process as i32)).and_then(ClockId::now);
        let time = clock.map_err(|_| gone(()))?;
        self.cpu_ns += time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64;
        let status = fs::read_to_string(format!("/proc/{process}/status")).map_err(|_| gone(()))?;
        self.rss_bytes += field(&status, "VmRSS:") * 1024;
        let tasks = fs::read_dir(format!("/proc/{process}/task")).map_err(|_| gone(()))?;
        for task in tasks.flatten() {
            // A thread may end while we look.
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = read("status");
            self.voluntary_switches += field(&status, "voluntary_ctxt_switches:");
            self.involuntary_switches += field(&status, "nonvoluntary_ctxt_switches:");
            let waited = read("schedstat").split_whitespace().nth(1).and_then(|number| number.parse().ok());
            self.waiting_ns += waited.unwrap_or(0u64);
        }
        Ok(())
    }

    /// What was used since `before`, in so many messages, bytes and seconds.
    pub(super) fn since(&self, before: &Usage, messages: u64, bytes: u64, seconds: f64) -> Used {
        let cpu_ns = self.cpu_ns.saturating_sub(before.cpu_ns);
        let each = |count: f64| (count > 0.0).then(|| cpu_ns as f64 / count);
        let by_time = |nanoseconds: u64| nanoseconds as f64 / 1e9 / seconds.max(1e-9);
        Used {
            cpu_ns,
            cpu_ns_per_message: each(messages as f64),
            cpu_ns_per_kib: each(bytes as f64 / 1024.0),
            cpus: by_time(cpu_ns),
            cpus_waited_for: by_time(self.waiting_ns.saturating_sub(before.waiting_ns)),
            rss_bytes: self.rss_bytes,
            voluntary_switches: self.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(before.involuntary_switches),
        }
    }
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something_and_uses_more() {
        let own = [std::process::id()];
        let before = Usage::of(&own).expect("it runs");
        assert!(before.cpu_ns > 0 && before.rss_bytes > 0);
        let spun: u64 = std::hint::black_box((0..1_000_000u64).fold(0, |sum, n| sum ^ n.wrapping_mul(sum | 1)));
        let used = Usage::of(&own).expect("it runs").since(&before, 10, 1024, 1.0);
        assert!(used.cpu_ns > 0, "{spun}");
        assert_eq!(used.cpu_ns_per_message, Some(used.cpu_ns as f64 / 10.0));
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let why = Usage::of(&[u32::MAX >> 1]).expect_err("nobody has this number");
        assert!(why.contains("2147483647"), "{why}");
    }
}
