//! Network namespaces that vanish with the test: nothing has a name in the file system. A namespace lives as long as
//! its descriptor here, a process or a socket in it; what was plugged into it goes with it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Output};
use std::thread;

/// The server's address on the link between the two namespaces.
pub(crate) const SERVER: &str = "10.77.0.1";
/// The clients' address.
pub(crate) const CLIENT: &str = "10.77.0.2";
/// Another one, for clients whose link is to be cut.
pub(crate) const DOOMED: &str = "10.77.0.3";

/// The name of the link in both namespaces.
pub(crate) const LINK: &str = "link0";

/// A network namespace.
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with nothing in it but a loopback that is down.
    pub(crate) fn new() -> io::Result<Namespace> {
        // In a thread of its own: what unshare(2) does cannot be taken back.
        let made = thread::spawn(|| {
            // SAFETY: takes a number.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } == -1 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        });
        made.join().expect("the thread does not panic").map(|file| Namespace { file })
    }

    /// Runs `act` in this namespace. Sockets that it opens and processes that it starts stay there.
    pub(crate) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: takes a descriptor, which is open, and a number.
                let entered = unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "setns: {}", io::Error::last_os_error());
                act()
            });
            thread.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command here, written as in a shell without quotes; what it says if it fails is the error.
    pub(crate) fn command(&self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let outcome = self.run(|| Command::new(words[0]).args(&words[1..]).output());
        match outcome {
            Ok(output) if output.status.success() => Ok(()),
            Ok(Output { stderr, .. }) => Err(format!("{line}: {}", String::from_utf8_lossy(&stderr).trim())),
            Err(error) => Err(format!("{line}: {error}")),
        }
    }

    /// Joins this namespace to `other` by a pair of virtual Ethernet devices.
    pub(crate) fn join(&self, other: &Namespace) -> Result<(), String> {
        let other = format!("/proc/{}/fd/{}", std::process::id(), other.file.as_raw_fd());
        self.command(&format!("ip link add name {LINK} type veth peer name {LINK} netns {other}"))
    }

    /// Gives the link here its addresses. Packets are no longer than on a real wire, and a lost one is missed after
    /// 5 ms instead of 200.
    pub(crate) fn configure(&self, addresses: &[&str]) -> Result<(), String> {
        self.command("ip link set lo up")?;
        self.command(&format!("ip link set {LINK} up mtu 1500 gso_max_segs 1"))?;
        for address in addresses {
            self.command(&format!("ip address add {address}/24 dev {LINK}"))?;
            self.command(&format!(
                "ip route replace 10.77.0.0/24 dev {LINK} proto kernel scope link src {} rto_min 5ms",
                addresses[0]
            ))?;
        }
        Ok(())
    }

    /// Drops each packet that comes in and matches `what`, in nft(8)'s words, before TCP sees it.
    pub(crate) fn drop_incoming(&self, what: &str) -> Result<(), String> {
        self.command("nft add table inet bad")?;
        self.command("nft add chain inet bad input { type filter hook input priority 0 ; }")?;
        self.command(&format!("nft add rule inet bad input {what} drop"))
    }

    /// A counter of TCP in this namespace, as `RetransSegs` (`/proc/net/snmp` and `/proc/net/netstat`).
    #[track_caller]
    pub(crate) fn tcp_counter(&self, name: &str) -> u64 {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("/proc/net");
        let text = self.run(|| read("snmp") + &read("netstat"));
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Tcp")).collect();
        let pairs = lines.chunks(2).flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')));
        let value = pairs.clone().find(|&(column, _)| column == name).map(|(_, value)| value);
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no counter {name}"))
    }
}
