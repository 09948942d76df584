//! `eagain lab`: every rule of epoll that this project knows, as an experiment that runs on the reader's own kernel.
//!
//! | file | what it is |
//! |---|---|
//! | `rules/` | the experiments, by group: start here |
//! | `stage/` | the words in which they are written |
//! | `experiment.rs` | what an entry of the list has |
//! | `timeline.rs`, `verdict.rs` | what happened, and how it ended |
//! | `run.rs` | a process for each, with a deadline |
//! | `gallery/` | servers with a mistake each, and without it |
//! | `format/`, `quiz.rs`, `diff.rs`, `matrix.rs`, `explain.rs` | what is shown |

mod book;
mod diff;
mod experiment;
mod explain;
mod format;
mod gallery;
mod kernel;
mod matrix;
mod quiz;
mod rules;
mod run;
mod stage;
mod timeline;
mod verdict;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use self::experiment::{Experiment, Group};
use self::format::text::{self, Paint};
use self::format::{html, json, tap};
use self::run::Report;
use self::verdict::Verdict;
use crate::cli::{Format, Lab, LabOptions, did_you_mean};
use crate::say;

type Chosen = Vec<(&'static Group, &'static Experiment)>;

pub(crate) fn run(options: Lab) -> ExitCode {
    let result = match options {
        Lab::Overview => say::deliver(&overview()).map(|()| ExitCode::SUCCESS),
        Lab::Run { names, format, output, options } => {
            // As everywhere, `-` is stdout.
            let output = output.filter(|path| path.as_os_str() != "-");
            choose(&names).and_then(|chosen| perform(&chosen, format, output.as_deref(), options))
        }
        Lab::Explain(names) => choose(&names).and_then(|chosen| {
            let texts: Vec<String> = chosen.into_iter().map(|(group, one)| explain::explain(group, one)).collect();
            say::deliver(&texts.join("\n")).map(|()| ExitCode::SUCCESS)
        }),
        Lab::Quiz(names) => choose(&names).and_then(quiz::run),
        Lab::Diff(old, new) => diff::run(&old, &new),
        Lab::Matrix(results) => matrix::run(&results),
        Lab::Gallery(names, format) => gallery::run(&names, format),
        Lab::One { id, options } => Ok(run::here(&id, options)),
        Lab::Exhibit { id, repaired } => Ok(gallery::here(&id, repaired)),
        Lab::Book(directory) => book::write(&directory).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|why| {
        say::error(why);
        ExitCode::FAILURE
    })
}

/// Colours for a terminal whose user has not said otherwise (<https://no-color.org>).
fn paint() -> Paint {
    let said_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let knows_none = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
    Paint(std::io::stdout().is_terminal() && !said_no && !knows_none)
}

/// Experiments by id or group; `all`, or no name at all, is every one. Each comes once, in the order of the list.
fn choose(names: &[String]) -> Result<Chosen, String> {
    let known = |name: &str| experiment::all().any(|(group, one)| one.id == name || group.name == name);
    if let Some(unknown) = names.iter().find(|name| *name != "all" && !known(name)) {
        let names = rules::ALL.iter().map(|group| group.name).chain(experiment::all().map(|(_, one)| one.id));
        let hint = did_you_mean(unknown, names);
        return Err(format!("no experiment and no group is called '{unknown}'{hint}; 'eagain lab' lists them"));
    }
    let wanted = |name: &str| names.iter().any(|chosen| chosen == name || chosen == "all");
    let is_chosen = |(group, one): &(&Group, &Experiment)| names.is_empty() || wanted(group.name) || wanted(one.id);
    Ok(experiment::all().filter(is_chosen).collect())
}

fn overview() -> String {
    let paint = paint();
    let (all, core) = (experiment::all().count(), experiment::all().filter(|(_, one)| one.core).count());
    let mut text = format!("{all} experiments on epoll, {core} of them the core (*).\n");
    for group in rules::ALL {
        let _ = writeln!(text, "\n{}: {}", paint.bold(group.name), group.title);
        for one in group.experiments {
            let _ = writeln!(text, "  {} {}", if one.core { '*' } else { ' ' }, one.id);
        }
    }
    let _ = writeln!(text, "\n{}: servers with one mistake each", paint.bold("gallery"));
    text.extend(gallery::ids().map(|id| format!("  - {id}\n")));
    text += "\neagain lab run all               every one, on this kernel\n";
    text += "eagain lab run NAME...           an experiment with all that happens, or a group\n";
    text += "eagain lab explain ID            the claim, its source, and why it matters\n";
    text += "eagain lab quiz                  predict, then see\n";
    text += "eagain lab gallery               what breaks them, and what does not break the repaired ones\n";
    text
}

/// Up to so many experiments are shown with their timelines.
const SHOWN_WHOLE: usize = 5;

/// Every experiment, and every server of the gallery, is a process of this program, and many look up in /proc whether
/// their threads sleep.
fn can_start_processes() -> Result<(), String> {
    let why = |error| format!("/proc/self: {}; without /proc the lab can start nothing", say::reason(&error));
    match std::fs::read_link("/proc/self").map_err(why)? == Path::new(&std::process::id().to_string()) {
        true => Ok(()),
        false => Err("/proc is that of another pid namespace; mount one of this (unshare --mount-proc)".to_owned()),
    }
}

fn perform(chosen: &Chosen, format: Format, output: Option<&Path>, options: LabOptions) -> Result<ExitCode, String> {
    can_start_processes()?;
    let to_file = output.is_some();
    if let Some(path) = output {
        // Before the work, not after it. What is there is kept until there is something better.
        let mut file = std::fs::OpenOptions::new();
        file.create(true).append(true).open(path).map_err(|error| refusal(path, &error))?;
    }
    let paint = if to_file { Paint(false) } else { paint() };
    // On a terminal who waits sees how far it is; the results follow in their order.
    let watched = std::io::stderr().is_terminal() && chosen.len() > 1;
    let count = std::sync::atomic::AtomicUsize::new(0);
    let reports = run::perform(chosen, options, |_, report| {
        let done = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if watched {
            let _ = write!(std::io::stderr(), "\r\x1b[K{done}/{} {}", chosen.len(), report.id);
        }
    });
    if watched {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let text = match format {
        Format::Tap => tap::write(&reports),
        Format::Json => json::write(&reports),
        Format::Html => html::write(chosen, &reports),
        Format::Text => in_words(chosen, &reports, paint),
    };
    match output {
        Some(path) => std::fs::write(path, text).map_err(|error| refusal(path, &error))?,
        None => say::deliver(&text)?,
    }
    let broken = reports.iter().any(|report| matches!(report.verdict, Verdict::DoesNotHold(_)));
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn refusal(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {}", path.display(), say::reason(error))
}

fn in_words(chosen: &Chosen, reports: &[Report], paint: Paint) -> String {
    let pairs = || chosen.iter().map(|(_, one)| *one).zip(reports);
    if reports.len() <= SHOWN_WHOLE {
        let texts: Vec<String> = pairs().map(|(one, report)| text::whole(one, report, paint)).collect();
        return texts.join("\n");
    }
    let mut words: String = pairs().map(|(one, report)| text::brief(one, report, paint)).collect();
    for (one, report) in pairs().filter(|(_, report)| matches!(report.verdict, Verdict::DoesNotHold(_))) {
        words += "\n";
        words += &text::whole(one, report, paint);
    }
    words += "\n";
    words + &text::summary(reports)
}
