//! `eagain lab gallery`: servers with one mistake each, the traffic that breaks them, and the same traffic on the
//! server without it.
//!
//! | file | what it is |
//! |---|---|
//! | `exhibits/` | the servers, two in each file: start here |
//! | `site.rs` | what a server finds when it starts, and the few words that all of them share |
//! | `crowd.rs` | the clients, and when a server is believed to do nothing more |
//! | `perform.rs` | a process for each server, with a deadline |
//! | `page.rs` | what is shown |

mod crowd;
mod exhibits;
mod page;
mod perform;
mod site;

use std::io;
use std::process::ExitCode;

pub(super) use self::perform::here;

use self::crowd::Crowd;
use self::site::Site;
use crate::cli::{Format, did_you_mean};
use crate::say;

/// What the files of the exhibits are written with.
mod prelude {
    pub(super) use std::io;
    pub(super) use std::time::{Duration, Instant};

    pub(super) use eagain::sys::epoll::{Interest, Mode, Timeout};
    pub(super) use eagain::sys::net::{NonBlocking, recv_slice, send};

    pub(super) use super::crowd::{Crowd, Rest};
    pub(super) use super::site::{BACKEND, LISTENER, Site, answer, ready, tools};
    pub(super) use super::{Exhibit, Seen, fine, wrong};
}

/// One mistake.
pub(crate) struct Exhibit {
    /// Never changes.
    id: &'static str,
    /// What its author did, in a few words.
    mistake: &'static str,
    /// Why it does not work, and what does.
    lesson: &'static str,
    /// What the clients do.
    traffic: &'static str,
    /// The experiments of the lab that prove it.
    rules: &'static [&'static str],
    /// The file that this is written in, and its text.
    file: &'static str,
    source: &'static str,
    broken: Server,
    repaired: Server,
    /// The clients, who are the same for both servers, and what they say of it.
    visit: fn(&Crowd) -> io::Result<Seen>,
}

/// A server. It never returns, unless that is its mistake.
type Server = fn(&Site) -> io::Result<()>;

/// What the clients of a server say.
pub(crate) struct Seen {
    fine: bool,
    words: String,
}

/// The clients got what they should.
fn fine(words: impl Into<String>) -> Seen {
    Seen { fine: true, words: words.into() }
}

/// They did not.
fn wrong(words: impl Into<String>) -> Seen {
    Seen { fine: false, words: words.into() }
}

pub(super) fn ids() -> impl Iterator<Item = &'static str> {
    exhibits::ALL.iter().map(|one| one.id)
}

/// Shows all, or those that are named.
pub(super) fn run(names: &[String], format: Format) -> Result<ExitCode, String> {
    if let Some(unknown) = names.iter().find(|name| !exhibits::ALL.iter().any(|one| one.id == name.as_str())) {
        let hint = did_you_mean(unknown, ids());
        return Err(format!("the gallery has no '{unknown}'{hint}; 'eagain lab gallery' lists what it has"));
    }
    super::can_start_processes()?;
    let is_chosen = |one: &&&Exhibit| names.is_empty() || names.iter().any(|name| name == one.id);
    let chosen: Vec<&'static Exhibit> = exhibits::ALL.iter().filter(is_chosen).copied().collect();
    let reports = perform::all(&chosen);
    let pairs: Vec<_> = chosen.into_iter().zip(&reports).collect();
    say::deliver(&match format {
        Format::Json => page::json(&pairs),
        _ if names.is_empty() => page::table(&pairs, super::paint()),
        _ => page::stories(&pairs, super::paint()),
    })?;
    let as_labelled = reports.iter().all(perform::Report::is_as_labelled);
    Ok(if as_labelled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
