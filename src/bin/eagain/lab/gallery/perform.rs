//! A process for each server and its clients: lowered limits, threads that hang or spin and descriptors that leak end
//! with it.

use std::io::{self, Read as _};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eagain::sys::children::end_with_parent;
use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use serde::{Deserialize, Serialize};

use super::crowd::Crowd;
use super::{Exhibit, exhibits};
use crate::say;

/// After this a server is given up; it is shown that it hung, which is not the mistake that it was to show.
const DEADLINE: Duration = Duration::from_secs(90);
const JOBS: usize = 4;

/// How one server has stood its traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fate {
    pub(super) verdict: Verdict,
    /// What its clients say.
    pub(super) saw: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Held,
    Broke,
    /// The scene could not be set, or did not come to an end.
    NotTested,
}

/// Both servers of an exhibit.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) broken: Fate,
    pub(super) repaired: Fate,
}

impl Report {
    /// Whether the one broke and the other held.
    pub(super) fn is_as_labelled(&self) -> bool {
        (self.broken.verdict, self.repaired.verdict) == (Verdict::Broke, Verdict::Held)
    }
}

/// Performs one server in this process, which is spent afterwards, and tells how it stood on stdout.
pub(crate) fn here(id: &str, repaired: bool) -> ExitCode {
    let Some(exhibit) = exhibits::ALL.iter().find(|one| one.id == id) else { return ExitCode::FAILURE };
    let server = if repaired { exhibit.repaired } else { exhibit.broken };
    let visit = |crowd: Crowd| {
        let seen = (exhibit.visit)(&crowd)?;
        let failure = |error: &io::Error| io::Error::other(format!("the server has ended: {}", say::reason(error)));
        crowd.failure().map_or(Ok(seen), |error| Err(failure(error)))
    };
    let fate = match Crowd::new(server).and_then(visit) {
        Ok(seen) if seen.fine => Fate { verdict: Verdict::Held, saw: seen.words },
        Ok(seen) => Fate { verdict: Verdict::Broke, saw: seen.words },
        Err(error) => Fate { verdict: Verdict::NotTested, saw: say::reason(&error) },
    };
    say::out(&serde_json::to_string(&fate).unwrap_or_default());
    // The server's thread goes on for ever, and must not.
    std::process::exit(0)
}

/// Performs both servers of each exhibit, several at a time.
pub(super) fn all(exhibits: &[&'static Exhibit]) -> Vec<Report> {
    let servers: Vec<(&str, bool)> = exhibits.iter().flat_map(|one| [(one.id, false), (one.id, true)]).collect();
    let (next, fates) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..JOBS.min(servers.len()) {
            scope.spawn(|| {
                while let Some((at, &(id, repaired))) = take(&next, &servers) {
                    let fate = in_a_process(id, repaired).unwrap_or_else(|error| Fate {
                        verdict: Verdict::NotTested,
                        saw: format!("its process could not be started or watched: {}", say::reason(&error)),
                    });
                    fates.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, fate));
                }
            });
        }
    });
    let mut fates = fates.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    fates.sort_by_key(|(at, _)| *at);
    let pair = |pair: &[(usize, Fate)]| Report { broken: pair[0].1.clone(), repaired: pair[1].1.clone() };
    fates.chunks_exact(2).map(pair).collect()
}

fn take<'a, T>(next: &AtomicUsize, of: &'a [T]) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    of.get(at).map(|item| (at, item))
}

fn in_a_process(id: &str, repaired: bool) -> io::Result<Fate> {
    // Not `current_exe`: the file may have been replaced by a newer build, which is another program.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["lab", "exhibit", id, if repaired { "repaired" } else { "broken" }])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // This thread waits for it. A server here goes on for ever by itself.
    let mut child = end_with_parent(&mut command).spawn()?;
    let told = child.stdout.take().map_or(Ok(Vec::new()), until_the_end);
    let _ = child.kill();
    child.wait()?;
    serde_json::from_slice(&told?).map_err(|_| io::Error::other("it ended, or was ended, without a word"))
}

/// What the process says until it ends or its time is over.
fn until_the_end(mut stdout: std::process::ChildStdout) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + DEADLINE;
    let epoll = Epoll::new()?;
    epoll.add(&stdout, 0, Interest::READ, Mode::LEVEL)?;
    let (mut events, mut told, mut chunk) = (Events::with_capacity(1), Vec::new(), [0; 4096]);
    while Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        if epoll.wait(&mut events, Timeout::After(left))? > 0 {
            match stdout.read(&mut chunk)? {
                0 => break,
                count => told.extend_from_slice(&chunk[..count]),
            }
        }
    }
    Ok(told)
}
