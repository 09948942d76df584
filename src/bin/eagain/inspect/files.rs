//! What the descriptors of a process are.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::signal::Signal;

use super::fdinfo::Registration;
use super::life;
use super::sockets::Sockets;
use crate::say;

pub(super) struct Files {
    pid: u32,
    /// The process's own name.
    pub(super) name: String,
    /// What the link of each number says: `socket:[4711]`, `anon_inode:[eventpoll]`, a path.
    links: BTreeMap<i32, String>,
    sockets: Sockets,
}

impl Files {
    pub(super) fn of(pid: u32) -> Result<Self, String> {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        let name = name.map_err(|_| nobody(pid))?.trim().to_owned();
        let directory = format!("/proc/{pid}/fd");
        let entries = std::fs::read_dir(&directory).map_err(|error| refusal(pid, &name, &error))?;
        let mut links = BTreeMap::new();
        for entry in entries.flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let link = std::fs::read_link(entry.path()).map(|link| link.to_string_lossy().into_owned());
            if let (Some(number), Ok(link)) = (number, link) {
                links.insert(number, link);
            }
        }
        let inodes = links.values().filter_map(|link| inner(link, "socket:[")).collect();
        let sockets = Sockets::seen_by(pid, &inodes);
        Ok(Self { pid, name, links, sockets })
    }

    pub(super) fn epolls(&self) -> impl Iterator<Item = i32> {
        self.links.iter().filter(|(_, link)| *link == "anon_inode:[eventpoll]").map(|(number, _)| *number)
    }

    /// Whether the number still means the file that was registered.
    pub(super) fn is_still(&self, registration: &Registration) -> bool {
        let Some(link) = self.links.get(&registration.fd) else { return false };
        // Files without an inode of their own share one: nothing can be told.
        if link.starts_with("anon_inode:") || registration.inode == 0 {
            return true;
        }
        let now = std::fs::metadata(format!("/proc/{}/fd/{}", self.pid, registration.fd));
        now.is_ok_and(|now| now.ino() == registration.inode)
    }

    /// What a number means, for people.
    pub(super) fn what(&self, fd: i32) -> String {
        let Some(link) = self.links.get(&fd) else { return "closed".to_owned() };
        if let Some(inode) = inner(link, "socket:[") {
            return self.sockets.what(inode);
        }
        if inner(link, "pipe:[").is_some() {
            return "pipe".to_owned();
        }
        match inner(link, "anon_inode:[").or_else(|| link.strip_prefix("anon_inode:")) {
            Some("eventpoll") => "epoll".to_owned(),
            Some("eventfd") => format!("eventfd{}", self.detail(fd, "eventfd-count:", " of ")),
            Some("timerfd") => format!("timerfd{}", self.detail(fd, "it_value:", " due in (s, ns) ")),
            Some("signalfd") => format!("signalfd{}", self.signals(fd)),
            Some("pidfd") => format!("pidfd{}", self.detail(fd, "Pid:", " of ")),
            Some(other) => other.to_owned(),
            None => link.clone(),
        }
    }

    /// The signals of a signalfd: bit 0 of its mask is signal 1.
    fn signals(&self, fd: i32) -> String {
        let Ok(mask) = u64::from_str_radix(&self.detail(fd, "sigmask:", ""), 16) else { return String::new() };
        let numbers = (1..=64).filter(|number| mask >> (number - 1) & 1 == 1);
        let name = |number| Signal::try_from(number).map_or(format!("signal {number}"), |it| it.as_str().to_owned());
        let names: Vec<String> = numbers.map(name).collect();
        if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) }
    }

    /// What /proc/PID/fdinfo says behind this key.
    fn detail(&self, fd: i32, key: &str, before: &str) -> String {
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", self.pid)).unwrap_or_default();
        let value = info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        value.map_or(String::new(), |value| format!("{before}{value}"))
    }
}

/// `4711` of `socket:[4711]`.
fn inner<'a>(link: &'a str, prefix: &str) -> Option<&'a str> {
    link.strip_prefix(prefix)?.strip_suffix(']')
}

fn nobody(pid: u32) -> String {
    match std::fs::exists("/proc/self") {
        Ok(true) => format!("there is no process {pid}"),
        _ => format!("/proc is not mounted, and what process {pid} does is told nowhere else"),
    }
}

fn refusal(pid: u32, name: &str, error: &std::io::Error) -> String {
    match error.kind() {
        // What has ended, and what is the kernel's own, belongs to root, and root would see nothing either.
        ErrorKind::PermissionDenied if life::is_over(pid) => life::nothing_in(pid, name),
        ErrorKind::PermissionDenied => {
            format!("process {pid} ({name}) belongs to somebody else: run this as its user, or as root")
        }
        ErrorKind::NotFound => nobody(pid),
        _ => format!("process {pid} ({name}): {}", say::reason(error)),
    }
}
