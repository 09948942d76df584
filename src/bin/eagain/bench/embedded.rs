//! Servers of our own: this very program as `eagain serve`, a process each, so that what it uses can be told from what
//! the load uses.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use eagain::sys::children::end_with_parent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::plan::Plan;
use crate::address::Address;
use crate::say::reason;

/// The largest message that the frames service takes unasked.
const USUAL_FRAME: usize = 1 << 20;

/// A running server. Ends with this value, and with the thread that has started it.
pub(crate) struct Embedded {
    child: Child,
    target: Address,
    /// `level-triggered` or `edge-triggered`.
    name: &'static str,
}

impl Embedded {
    /// One server of each discipline, with one worker: the other processor is the load's.
    pub(super) fn both(plan: &Plan) -> Result<Vec<Embedded>, String> {
        let level = Embedded::start("level-triggered", plan, &["--workers", "1"])?;
        let edge = Embedded::start("edge-triggered", plan, &["--workers", "1", "--edge-triggered"])?;
        Ok(vec![level, edge])
    }

    /// A server for `plan`, with these options.
    pub(crate) fn start(name: &'static str, plan: &Plan, options: &[&str]) -> Result<Embedded, String> {
        let failed = |why: String| format!("cannot start a server: {why}");
        let program = std::env::current_exe().map_err(|error| failed(reason(&error)))?;
        let mut command = Command::new(program);
        command.args(["serve", &format!("--{}", plan.service), "127.0.0.1:0"]).args(options);
        if plan.size > USUAL_FRAME {
            command.args(["--max-frame", &plan.size.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // The thread that is here holds the value: no measurement is made by one that ends before it.
        let spawned = end_with_parent(&mut command).spawn();
        let mut child = spawned.map_err(|error| failed(reason(&error)))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        // From here on the child is ended with the value, whatever the line is.
        let mut server = Embedded { child, target: Address::Tcp(Vec::new()), name };
        let address = line.trim_end().rsplit(' ').next().unwrap_or_default();
        server.target = Address::parse(address).map_err(|_| {
            failed(format!(
                "it said '{}'; what does 'eagain serve --{} 127.0.0.1:0' say?",
                line.trim_end(),
                plan.service
            ))
        })?;
        Ok(server)
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// `plan` for this server.
    pub(crate) fn plan(&self, plan: &Plan) -> Plan {
        Plan { target: self.target.clone(), name: self.name.to_owned(), server: vec![self.child.id()], ..plan.clone() }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // SIGKILL: it has nothing to finish, and a drain would only take time. Both fail only where it has ended.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
