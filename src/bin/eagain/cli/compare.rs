//! `eagain compare`: its options.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::Stop;
use super::values::whole;

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The server models; where the report goes.
    Models(PathBuf),
    Tables,
    Wakers,
}

/// The options of `eagain compare`.
#[derive(Debug)]
pub(crate) struct Compare {
    pub(crate) what: What,
    /// Shorter, and less exact.
    pub(crate) quick: bool,
    /// Of the models: numbers of idle connections, ascending.
    pub(crate) idle: Option<Vec<usize>>,
    /// 1 to 1000.
    pub(crate) repeat: Option<usize>,
    /// Where the figures go, besides stdout.
    pub(crate) json: Option<PathBuf>,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "compare",
    description = "Compare ways to do the same, on this machine.",
    example = "eagain compare --quick --out report
eagain compare tables
eagain compare wakers --json wakers.json",
    note = "WHAT is one of
  models  the ways to wait of eagain serve; what is meant if it is left out
  tables  how connections are found: slab, HashMap, BTreeMap
  wakers  how a thread that sleeps is woken: eventfd, pipe, socketpair, TCP
The models take under two minutes with --quick, else much longer; --out and
--idle are theirs. They write compare.md, compare.json and plots.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct CompareArgs {
    /// what is compared [models]
    #[argh(positional, arg_name = "WHAT", from_str_fn(what))]
    what: Option<Word>,
    /// shorter, and less exact
    #[argh(switch)]
    quick: bool,
    /// where the report goes, made if it is not there
    #[argh(option, arg_name = "DIR")]
    out: Option<PathBuf>,
    /// numbers of idle connections, as in 0,100,900
    #[argh(option, arg_name = "LIST", from_str_fn(idle))]
    idle: Option<Vec<usize>>,
    /// measure everything so many times [5; 9]
    #[argh(option, arg_name = "N", from_str_fn(repeat))]
    repeat: Option<usize>,
    /// write the figures to a file as well
    #[argh(option, arg_name = "FILE")]
    json: Option<PathBuf>,
}

impl CompareArgs {
    pub(super) fn check(self) -> Result<Compare, Stop> {
        let what = self.what.unwrap_or(Word::Models);
        let surplus = match what {
            Word::Models => self.json.is_some().then_some("--json is not of compare models, which writes to --out DIR"),
            _ if self.out.is_some() => Some("--out is of compare models alone"),
            _ => self.idle.is_some().then_some("--idle is of compare models alone"),
        };
        if let Some(why) = surplus {
            return Err(Stop::Usage(why.to_owned()));
        }
        let what = match (what, self.out) {
            (Word::Models, None) => return Err(Stop::Usage("say where the report is to go: --out DIR".to_owned())),
            (Word::Models, Some(out)) => What::Models(out),
            (Word::Tables, _) => What::Tables,
            (Word::Wakers, _) => What::Wakers,
        };
        Ok(Compare { what, quick: self.quick, idle: self.idle, repeat: self.repeat, json: self.json })
    }
}

/// What is compared, as it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Models,
    Tables,
    Wakers,
}

fn what(text: &str) -> Result<Word, String> {
    match text {
        "models" => Ok(Word::Models),
        "tables" => Ok(Word::Tables),
        "wakers" => Ok(Word::Wakers),
        _ => Err("expected models, tables or wakers".to_owned()),
    }
}

fn repeat(text: &str) -> Result<usize, String> {
    whole(text, "repetitions", 1, 1000).map(|n| n as usize)
}

fn idle(text: &str) -> Result<Vec<usize>, String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    let ascending =
        |numbers: &Vec<usize>| numbers.is_sorted_by(|a, b| a < b) && numbers.iter().all(|&n| n <= 1_000_000);
    numbers.ok().filter(ascending).ok_or_else(|| "expected ascending numbers up to 1000000, as in 0,100,900".to_owned())
}
