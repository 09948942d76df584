//! `eagain lab gallery`: servers with one mistake each, beside the same server without it, under the same traffic.
//!
//! `exhibits.rs` has the servers, each a few lines that differ; `hall.rs` the loop that they share; `traffic.rs` what
//! the clients do.

mod exhibits;
mod hall;
mod traffic;

use std::fmt::Write as _;
use std::process::ExitCode;

use self::exhibits::EXHIBITS;
use self::hall::{Live, Server};
use self::traffic::Result;
use super::format::text::indent;
use super::paint;
use crate::say;

/// Two servers that differ in one thing, and the traffic that tells them apart.
struct Exhibit {
    name: &'static str,
    mistake: &'static str,
    /// The experiment that shows why.
    rule: &'static str,
    /// What the clients do, in words.
    scene: &'static str,
    traffic: fn(&Live) -> std::io::Result<Result>,
    broken: Server,
    repaired: Server,
}

/// All, or those that are named.
pub(crate) fn run(names: &[String]) -> std::result::Result<ExitCode, String> {
    if let Some(unknown) = names.iter().find(|name| !EXHIBITS.iter().any(|exhibit| exhibit.name == **name)) {
        let known: Vec<&str> = EXHIBITS.iter().map(|exhibit| exhibit.name).collect();
        return Err(format!("the gallery has no '{unknown}'; it has {}", known.join(", ")));
    }
    let mut as_labelled = true;
    for exhibit in EXHIBITS.iter().filter(|exhibit| names.is_empty() || names.iter().any(|name| name == exhibit.name)) {
        let perform = |server| Live::start(server).and_then(|live| (exhibit.traffic)(&live));
        let failed = |error: std::io::Error| format!("{}: {}", exhibit.name, say::reason(&error));
        let (broken, repaired) =
            (perform(&exhibit.broken).map_err(failed)?, perform(&exhibit.repaired).map_err(failed)?);
        as_labelled &= !broken.well && repaired.well;
        say::out(&label(exhibit, &broken, &repaired));
    }
    say::out("The servers are in src/bin/eagain/lab/gallery/exhibits.rs, a few lines each.\n");
    Ok(if as_labelled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn label(exhibit: &Exhibit, broken: &Result, repaired: &Result) -> String {
    let mut text = format!("{}: {}\n", paint().bold(exhibit.name), exhibit.mistake);
    text += &indent(exhibit.scene, 2);
    for (title, result) in [("with it", broken), ("without", repaired)] {
        let verdict = if result.well { "well" } else { "harm" };
        let _ = writeln!(text, "    {title}  {verdict}: {}", result.text);
    }
    let _ = writeln!(text, "  eagain lab explain {}\n", exhibit.rule);
    text
}
