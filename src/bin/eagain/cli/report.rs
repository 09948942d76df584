//! `eagain report`: its options.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::Stop;

/// The options of `eagain report`.
#[derive(Debug)]
pub(crate) struct Report {
    /// At least one.
    pub(crate) logs: Vec<PathBuf>,
    /// The two logs are of one thing before and after, not parts of one measurement.
    pub(crate) compare: bool,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "report",
    description = "Merge or compare HdrHistogram logs, of eagain bench and others.",
    example = "eagain report a.hlog b.hlog c.hlog
eagain report --compare before.hlog after.hlog",
    note = "FILE is a log of format V2, as 'eagain bench --hdr' writes it.
Merged are logs of one load that several machines made together.
A difference is told only where the confidence intervals do not overlap.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct ReportArgs {
    /// the logs
    #[argh(positional, arg_name = "FILE")]
    logs: Vec<PathBuf>,
    /// two logs: is there a difference?
    #[argh(switch)]
    compare: bool,
}

impl ReportArgs {
    pub(super) fn check(self) -> Result<Report, Stop> {
        if self.logs.is_empty() {
            return Err(Stop::Usage("nothing given for FILE".to_owned()));
        }
        if self.compare && self.logs.len() != 2 {
            return Err(Stop::Usage(format!("--compare needs two logs, not {}", self.logs.len())));
        }
        Ok(Report { logs: self.logs, compare: self.compare })
    }
}
