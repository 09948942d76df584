//! Where a measurement was made: what may explain that another one differs.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

/// Settings of the kernel that a server under load meets.
const SETTINGS: [&str; 12] = [
    "net.core.somaxconn",
    "net.core.netdev_max_backlog",
    "net.core.busy_poll",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_wmem",
    "fs.file-max",
];

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) version: &'static str,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    /// Processors that the client may run on.
    pub(crate) cpus: usize,
    pub(crate) governor: Option<String>,
    pub(crate) load_average: Option<f64>,
    pub(crate) descriptor_limit: Option<u64>,
    pub(crate) settings: BTreeMap<&'static str, String>,
}

impl Environment {
    /// What cannot be read is left out.
    pub(crate) fn look() -> Environment {
        let line = |path: &str| {
            fs::read_to_string(path).ok().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let setting = |name: &'static str| Some((name, line(&format!("/proc/sys/{}", name.replace('.', "/")))?));
        Environment {
            version: env!("CARGO_PKG_VERSION"),
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
            cpu: fs::read_to_string("/proc/cpuinfo").map(|text| cpu_name(&text)).unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load_average: line("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            descriptor_limit: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            settings: SETTINGS.into_iter().filter_map(setting).collect(),
        }
    }
}

/// x86 says "model name", others have less to say.
fn cpu_name(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    field("model name").or_else(|| field("Model")).or_else(|| field("CPU part")).unwrap_or_default()
}

/// What full listen queues have dropped since the system started, in this network namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenQueue {
    drops: u64,
}

impl ListenQueue {
    pub(super) fn look() -> Option<ListenQueue> {
        Some(ListenQueue { drops: listen_drops(&fs::read_to_string("/proc/net/netstat").ok()?)? })
    }

    pub(super) fn dropped_since(self, before: &ListenQueue) -> u64 {
        self.drops.saturating_sub(before.drops)
    }
}

/// A line of names, then one of numbers.
fn listen_drops(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "ListenDrops")?;
    numbers.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_matched() {
        let text = "TcpExt: A ListenOverflows ListenDrops\nTcpExt: 1 2 3\nIpExt: B\nIpExt: 4\n";
        assert_eq!(listen_drops(text), Some(3));
        assert_eq!(listen_drops("IpExt: B\nIpExt: 4\n"), None);
        assert_eq!(cpu_name("processor : 0\nmodel name\t: A CPU @ 3 GHz\nflags : x\n"), "A CPU @ 3 GHz");
    }

    #[test]
    fn this_machine_says_something() {
        let here = Environment::look();
        assert!(!here.kernel.is_empty() && here.cpus > 0 && here.descriptor_limit.is_some());
        assert!(here.settings.contains_key("net.core.somaxconn"));
    }
}
