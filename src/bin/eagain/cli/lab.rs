//! `eagain lab`: its words and options.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::Stop;
use super::help::did_you_mean;

/// What `eagain lab` is to do.
#[derive(Debug)]
pub(crate) enum Lab {
    /// What there is, and how to go on.
    Overview,
    Run {
        /// Experiments, groups, or `all`.
        names: Vec<String>,
        format: Format,
        output: Option<PathBuf>,
        options: LabOptions,
    },
    Explain(Vec<String>),
    Quiz(Vec<String>),
    Diff(PathBuf, PathBuf),
    /// One table of the results of several kernels.
    Matrix(Vec<PathBuf>),
    /// The pages of the book about all experiments, into this directory; for who changes them.
    Book(PathBuf),
    /// Broken servers and repaired ones; all of them, if none is named.
    Gallery(Vec<String>, Format),
    /// One experiment in this very process: what `run` starts.
    One {
        id: String,
        options: LabOptions,
    },
    /// One server of the gallery in this very process: what `gallery` starts.
    Exhibit {
        id: String,
        repaired: bool,
    },
}

/// How experiments are performed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabOptions {
    /// Each is spoilt.
    pub(crate) mutated: bool,
    /// How many times longer than usual something may take, at least 1.
    pub(crate) slack: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Tap,
    Json,
    Html,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "lab",
    description = "Try on this kernel what is said about epoll.",
    example = "eagain lab
eagain lab run et-partial-read-stalls
eagain lab run all --format json --output results.json
eagain lab explain et-partial-read-stalls
eagain lab quiz
eagain lab gallery emfile-spin
eagain lab diff old.json new.json
eagain lab matrix debian-*.json > kernels.md",
    note = "Alone it lists the experiments. WORDs are one of:
run NAME...      perform experiments: by id, by group, or all
explain ID...    the claim, its source, why it matters, who obeys it
quiz [NAME...]   predict what a call will answer, then see
gallery [ID...]  servers with a mistake each, and the same without it
diff FILE FILE   what differs between two results in JSON
matrix FILE...   a table of several results in JSON, as Markdown
No root is needed. Exit code 0: what was tested holds; 1: something does not.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct LabArgs {
    /// what to do, and with what
    #[argh(positional, arg_name = "WORD")]
    words: Vec<String>,
    /// text, tap, json or html [text]
    #[argh(option, arg_name = "FORMAT", from_str_fn(format))]
    format: Option<Format>,
    /// write the results to this file
    #[argh(option, arg_name = "FILE")]
    output: Option<PathBuf>,
    /// spoil each experiment: each must then fail
    #[argh(switch)]
    mutated: bool,
    /// wait so many times longer for what is to happen: 1 to 100 [1]
    #[argh(option, arg_name = "N", from_str_fn(slack))]
    slack: Option<u32>,
}

const ACTIONS: [&str; 6] = ["run", "explain", "quiz", "gallery", "diff", "matrix"];

impl LabArgs {
    pub(super) fn check(self) -> Result<Lab, Stop> {
        let mut words = self.words.into_iter();
        let action = words.next();
        let words: Vec<String> = words.collect();
        let of_gallery = action.as_deref() == Some("gallery");
        let is_one = action.as_deref() == Some("one");
        let of_run = [
            (self.format.is_some() && !of_gallery, "--format"),
            (self.output.is_some(), "--output"),
            (self.mutated, "--mutated"),
            (self.slack.is_some() && !is_one, "--slack"),
        ];
        if let Some((_, option)) = of_run.iter().find(|(given, _)| *given && action.as_deref() != Some("run")) {
            return Err(Stop::Usage(format!("{option} goes with 'eagain lab run' only")));
        }
        if of_gallery && matches!(self.format, Some(Format::Tap | Format::Html)) {
            return Err(Stop::Usage("the gallery has --format text and json".to_owned()));
        }
        let format = self.format.unwrap_or(Format::Text);
        let options = LabOptions { mutated: self.mutated, slack: self.slack.unwrap_or(1) };
        match (action.as_deref(), &words[..]) {
            (None, _) => Ok(Lab::Overview),
            (Some("run"), []) => {
                Err(Stop::Usage("run what? 'eagain lab run all', or a name of 'eagain lab'".to_owned()))
            }
            (Some("run"), _) => Ok(Lab::Run { names: words, format, output: self.output, options }),
            (Some("explain"), []) => Err(Stop::Usage("explain what? 'eagain lab' lists the names".to_owned())),
            (Some("explain"), _) => Ok(Lab::Explain(words)),
            (Some("quiz"), _) => Ok(Lab::Quiz(words)),
            (Some("gallery"), _) => Ok(Lab::Gallery(words, format)),
            (Some("exhibit"), [id, which]) => Ok(Lab::Exhibit { id: id.clone(), repaired: which == "repaired" }),
            (Some("diff"), [old, new]) => Ok(Lab::Diff(old.into(), new.into())),
            (Some("diff"), _) => Err(Stop::Usage("diff takes two files: eagain lab diff old.json new.json".to_owned())),
            (Some("matrix"), []) => Err(Stop::Usage("matrix of what? eagain lab matrix FILE...".to_owned())),
            (Some("matrix"), _) => Ok(Lab::Matrix(words.into_iter().map(PathBuf::from).collect())),
            (Some("book"), [directory]) => Ok(Lab::Book(directory.into())),
            (Some("one"), [id]) => Ok(Lab::One { id: id.clone(), options }),
            (Some("one"), [id, word]) if word == "mutated" => {
                Ok(Lab::One { id: id.clone(), options: LabOptions { mutated: true, ..options } })
            }
            (Some(other), _) => {
                let hint = did_you_mean(other, ACTIONS.into_iter());
                Err(Stop::Usage(format!("unknown word '{other}'{hint}; see 'eagain lab --help'")))
            }
        }
    }
}

fn slack(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|slack| (1..=100).contains(slack))
        .ok_or_else(|| "expected a number from 1 to 100".to_owned())
}

fn format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "tap" => Ok(Format::Tap),
        "json" => Ok(Format::Json),
        "html" => Ok(Format::Html),
        _ => Err("expected text, tap, json or html".to_owned()),
    }
}
