//! `eagain inspect`: its options.

use argh::{ArgsInfo, FromArgs};

use super::Stop;

/// The options of `eagain inspect`, in range.
#[derive(Debug)]
pub(crate) struct Inspect {
    pub(crate) pid: u32,
    pub(crate) json: bool,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "inspect",
    description = "Show what any process has in its epolls.",
    example = "eagain inspect 4711
eagain inspect $(pidof nginx | cut -d' ' -f1)
eagain inspect --json 4711",
    note = "It reads /proc/PID/fdinfo: which descriptors, what they are, for which events,
level- or edge-triggered. It takes the same user, or root. Nothing is stopped.
What is ready at the moment the kernel does not tell.
Exit code 0: shown; 1: no such process, no permission, or it has no epoll.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct InspectArgs {
    /// the process
    #[argh(positional, arg_name = "PID")]
    pid: String,
    /// one JSON object
    #[argh(switch)]
    json: bool,
}

impl InspectArgs {
    pub(super) fn check(self) -> Result<Inspect, Stop> {
        match self.pid.parse() {
            Ok(pid) if pid > 0 => Ok(Inspect { pid, json: self.json }),
            _ => Err(Stop::Usage(format!("PID '{}': expected the number of a process", self.pid))),
        }
    }
}
