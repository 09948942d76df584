//! strace(1), attached to threads of a running server, as the cause of faults.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Server, wait_with_deadline};

/// All that a server may wait with: which it is depends on the processor and on the timeout.
pub(crate) const WAITS: &str = "/^epoll_p?wait2?$";

/// Which threads of a server are hit.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    Workers,
    Main,
}

/// While this lives, the calls of a server fail. The other threads run untraced.
pub(crate) struct Injector {
    strace: Child,
    /// Kept open: strace would die of SIGPIPE.
    _stderr: BufReader<ChildStderr>,
    file: PathBuf,
}

impl Injector {
    /// Returns when the threads are traced; `faults` are as strace's `-e inject=` has them.
    #[track_caller]
    pub(crate) fn attach(server: &Server, threads: Threads, faults: &[&str]) -> Injector {
        let ids = match threads {
            Threads::Workers => workers(server),
            Threads::Main => vec![server.pid().to_string()],
        };
        Injector::attach_to(&ids, faults).expect("strace attaches")
    }

    fn attach_to(ids: &[String], faults: &[&str]) -> Option<Injector> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("eagain-{}-{number}.strace", std::process::id()));
        let mut command = Command::new("strace");
        command.args(["-e", "signal=none", "-o"]).arg(&file);
        ids.iter().for_each(|id| _ = command.arg("-p").arg(id));
        faults.iter().for_each(|fault| _ = command.arg("-e").arg(format!("inject={fault}")));
        let mut strace = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        let mut stderr = BufReader::new(strace.stderr.take()?);
        // "strace: Process 123 attached", one line for each.
        let attached = stderr.by_ref().lines().map_while(Result::ok).filter(|line| line.ends_with("attached"));
        let attached = attached.take(ids.len()).count() == ids.len();
        let injector = Injector { strace, _stderr: stderr, file };
        attached.then_some(injector)
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.file).expect("strace writes its file");
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn has_struck(&self) -> bool {
        self.lines().iter().any(|line| line.contains("(INJECTED)"))
    }

    #[track_caller]
    pub(crate) fn must_have_struck(&self) {
        assert!(self.has_struck(), "no call was made to fail, of {}", self.lines().len());
    }

    /// As [`Injector::detach`], for a fault that must have happened.
    #[track_caller]
    pub(crate) fn end(self) {
        self.must_have_struck();
        self.detach();
    }

    /// Nobody asks anything of the server: it makes at most `calls` calls in a tenth of a second.
    #[track_caller]
    pub(crate) fn must_be_quiet(&self, server: &Server, calls: usize) {
        const TENTH: Duration = Duration::from_millis(100);
        // Clients who have just gone cost it some calls each, which on a busy machine are still to be made.
        server.wait_until_at_rest();
        let start = Instant::now();
        let before = self.lines().len();
        thread::sleep(TENTH);
        let lines = self.lines();
        // A busy machine lets us sleep for longer, and a server that looks ten times a second looks more often then.
        let tenths = start.elapsed().div_duration_f64(TENTH);
        let made = &lines[before..];
        assert!(
            made.len() as f64 <= calls as f64 * tenths,
            "{} calls in {tenths:.1} tenths of a second: {:#?}",
            made.len(),
            &made[made.len().saturating_sub(20)..]
        );
    }

    /// Lets the server go on untraced.
    #[track_caller]
    pub(crate) fn detach(mut self) {
        let _ = kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGTERM);
        wait_with_deadline(&mut self.strace).expect("strace detaches");
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // All of these fail where `detach` was called. SIGTERM lets strace take its hands off first.
        if matches!(self.strace.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGTERM);
            wait_with_deadline(&mut self.strace);
        }
        let _ = fs::remove_file(&self.file);
    }
}

/// The threads that are named `worker N`.
#[track_caller]
fn workers(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server runs");
    let is_worker = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("worker"));
    let workers = tasks.map(|task| task.unwrap().path()).filter(is_worker);
    let ids: Vec<String> = workers.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(!ids.is_empty(), "no thread is named \"worker\"");
    ids
}

/// Whether strace is here and may attach to a process that is not its child.
pub(crate) fn can_inject() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let Ok(mut target) = Command::new("sleep").arg("60").spawn() else { return false };
        let can = Injector::attach_to(&[target.id().to_string()], &["getpid:error=EINTR"]).is_some();
        let _ = target.kill();
        let _ = target.wait();
        can
    })
}
