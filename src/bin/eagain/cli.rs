//! The command line: what each command takes, its help, and every way it can be wrong.
//!
//! argh parses values and fills the structs. What it lacks is done here, from the same definitions
//! (`ArgsInfo`), so that no option is listed twice: `--name=value`, suggestions, and a help with the names
//! of the values. Each command has a file of its own.

mod bench;
mod compare;
mod connect;
mod help;
mod inspect;
mod lab;
mod report;
mod serve;
mod status;
mod values;

use std::ffi::OsString;
use std::path::Path;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs};

use self::bench::BenchArgs;
use self::compare::CompareArgs;
use self::connect::ConnectArgs;
use self::help::help;
use self::inspect::InspectArgs;
use self::lab::LabArgs;
use self::report::ReportArgs;
use self::serve::ServeArgs;
use self::status::StatusArgs;
use crate::config;

pub(crate) use self::bench::Bench;
pub(crate) use self::compare::{Compare, What};
pub(crate) use self::connect::Connect;
pub(crate) use self::help::did_you_mean;
pub(crate) use self::inspect::Inspect;
pub(crate) use self::lab::{Format, Lab, LabOptions};
pub(crate) use self::report::Report;
pub(crate) use self::serve::{Accept, Model, Serve, ServiceName, default_listeners};
pub(crate) use self::status::Status;

/// A command line that was understood.
#[derive(Debug)]
pub(crate) enum Command {
    Serve(Serve),
    Connect(Connect),
    Status(Status),
    Bench(Bench),
    Report(Report),
    Compare(Compare),
    Lab(Lab),
    Inspect(Inspect),
}

/// Why there is nothing (more) to run.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The user asked for this text.
    Answered(String),
    /// The command line is wrong; one line that says what to write instead.
    Usage(String),
    /// The command line is right and the world is not (an unknown host).
    Failed(String),
}

const CONFIG: &str = "--config";
const CHECK: &str = "--check";

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Serve, measure, prove: a server on raw Linux epoll.",
    example = "eagain serve\neagain connect 127.0.0.1:7007\neagain bench",
    help_triggers("-h", "--help", "help")
)]
struct Top {
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,

    #[argh(subcommand)]
    command: Option<SubCommand>,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum SubCommand {
    Serve(ServeArgs),
    Connect(ConnectArgs),
    Status(StatusArgs),
    Bench(BenchArgs),
    Report(ReportArgs),
    Compare(CompareArgs),
    Lab(LabArgs),
    Inspect(InspectArgs),
}

/// Understands the arguments (without the program's name).
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, Stop> {
    let words = args.map(utf8).collect::<Result<Vec<_>, _>>()?;
    let top = Top::get_args_info();
    if words.is_empty() {
        return Err(Stop::Answered(help(&top, None)));
    }
    let mut plan = normalise(&top, &words)?;
    add_config(&mut plan)?;
    let plain: Vec<&str> = plan.words.iter().map(String::as_str).collect();
    let parsed = Top::from_args(&["eagain"], &plain).map_err(|exit| usage(plan.command, fold(&exit.output, &plain)))?;
    if parsed.version {
        return Err(Stop::Answered(format!("eagain {}\n", env!("CARGO_PKG_VERSION"))));
    }
    match parsed.command {
        Some(SubCommand::Serve(args)) => args.check().map(Command::Serve),
        Some(SubCommand::Connect(args)) => args.check().map(Command::Connect),
        Some(SubCommand::Status(args)) => args.check().map(Command::Status),
        Some(SubCommand::Bench(args)) => args.check().map(Command::Bench),
        Some(SubCommand::Report(args)) => args.check().map(Command::Report),
        Some(SubCommand::Compare(args)) => args.check().map(Command::Compare),
        Some(SubCommand::Lab(args)) => args.check().map(Command::Lab),
        Some(SubCommand::Inspect(args)) => args.check().map(Command::Inspect),
        None => Err(usage(None, "no command".to_owned())),
    }
}

fn utf8(arg: OsString) -> Result<String, Stop> {
    arg.into_string().map_err(|arg| usage(None, format!("the argument '{}' is not UTF-8", arg.to_string_lossy())))
}

/// A line for a wrong command line, with the way to the right one.
fn usage(command: Option<&CommandInfoWithArgs>, why: String) -> Stop {
    let (space, name) = command.map_or(("", ""), |c| (" ", c.name));
    let mark = if why.ends_with('?') { "" } else { ";" };
    Stop::Usage(format!("{why}{mark} see 'eagain{space}{name} --help'"))
}

/// The arguments in the one form that argh reads: every option's value is a word of its own.
struct Plan<'a> {
    command: Option<&'a CommandInfoWithArgs>,
    words: Vec<String>,
}

/// Splits `--name=value`, and answers or refuses what argh would answer in several lines or not at all.
/// Words after `--` and words that are an option's value are left as they are.
fn normalise<'a>(top: &'a CommandInfoWithArgs, words: &[String]) -> Result<Plan<'a>, Stop> {
    let mut plan = Plan { command: None, words: Vec::with_capacity(words.len() + 1) };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "-h" | "--help" | "help" => {
                let topic = match (plan.command, words.next()) {
                    (None, Some(name)) if !name.starts_with('-') => Some(find_command(top, name)?),
                    (command, _) => command,
                };
                return Err(Stop::Answered(help(top, topic)));
            }
            "--" => {
                plan.words.push(word.to_owned());
                plan.words.extend(words.by_ref().map(str::to_owned));
            }
            _ if word.starts_with('-') => option(&mut plan, top, word, &mut words)?,
            _ => {
                if plan.command.is_none() {
                    plan.command = Some(find_command(top, word)?);
                }
                plan.words.push(word.to_owned());
            }
        }
    }
    Ok(plan)
}

/// One option and, if it takes one, its value.
fn option<'w>(
    plan: &mut Plan<'_>,
    top: &CommandInfoWithArgs,
    word: &'w str,
    rest: &mut impl Iterator<Item = &'w str>,
) -> Result<(), Stop> {
    let command = plan.command.unwrap_or(top);
    let (name, inline) = match word.split_once('=') {
        Some((name, value)) if name.starts_with("--") => (name, Some(value)),
        _ => (word, None),
    };
    let wrong = |why: String| Err(usage(plan.command, why));
    let Some(flag) = command.flags.iter().find(|f| is_named(f, name)) else {
        let names = command.flags.iter().map(|f| f.long);
        return wrong(format!("unknown option {name}{}", did_you_mean(name, names)));
    };
    match (&flag.kind, inline.or_else(|| value_after(flag, command, rest))) {
        (FlagInfoKind::Switch, None) => plan.words.push(name.to_owned()),
        (FlagInfoKind::Switch, Some(_)) => return wrong(format!("{name} takes no value")),
        (FlagInfoKind::Option { .. }, Some(value)) => {
            plan.words.extend([name.to_owned(), value.to_owned()]);
        }
        (FlagInfoKind::Option { arg_name }, None) => {
            return wrong(format!("{name} needs a value: {name} {arg_name}"));
        }
    }
    Ok(())
}

/// Puts the keys of `--config FILE` before the words of the command line, which replace them.
fn add_config(plan: &mut Plan<'_>) -> Result<(), Stop> {
    let Some(command) = plan.command.filter(|command| command.flags.iter().any(|f| f.long == CONFIG)) else {
        return Ok(());
    };
    let Some(at) = plan.words.iter().position(|word| word == CONFIG) else { return Ok(()) };
    let path = plan.words[at + 1].clone();
    let mut words = Vec::new();
    for setting in config::read(Path::new(&path)).map_err(Stop::Failed)? {
        let place = format!("{path}:{}", setting.line);
        if [CONFIG, CHECK].contains(&setting.option.as_str()) || !command.flags.iter().any(|f| f.long == setting.option)
        {
            let keys = command.flags.iter().map(|f| f.long);
            let hint = did_you_mean(&setting.option, keys).replace("--", "");
            let key = setting.option.trim_start_matches("--");
            return Err(Stop::Failed(format!("{place}: unknown key '{key}'{hint}")));
        }
        // Else `trace = "--check"` would be two options.
        if is_switch(command, &setting.option) && setting.words.len() > 1 {
            return Err(Stop::Failed(format!("{place}: {}: expected true or false", &setting.option[2..])));
        }
        check_alone(&setting.words).map_err(|why| Stop::Failed(format!("{place}: {why}")))?;
        if !plan.words.contains(&setting.option) {
            words.extend(setting.words);
        }
    }
    // The first word is the command.
    plan.words.splice(1..1, words);
    Ok(())
}

fn is_switch(command: &CommandInfoWithArgs, option: &str) -> bool {
    command.flags.iter().any(|flag| flag.long == option && matches!(flag.kind, FlagInfoKind::Switch))
}

/// Whether a key means something by itself: an error is told with its line.
fn check_alone(words: &[String]) -> Result<(), String> {
    let plain: Vec<&str> = words.iter().map(String::as_str).collect();
    let args = ServeArgs::from_args(&["eagain", "serve"], &plain).map_err(|exit| fold(&exit.output, &plain))?;
    match args.check() {
        Ok(_) => Ok(()),
        Err(Stop::Usage(why) | Stop::Failed(why) | Stop::Answered(why)) => Err(why),
    }
}

/// The next word, unless the option takes none or the word is itself an option: `--echo --trace` has forgotten
/// the address. (A value that looks so can still be given as `--name=value`.)
fn value_after<'w>(
    flag: &FlagInfo<'_>,
    command: &CommandInfoWithArgs,
    rest: &mut impl Iterator<Item = &'w str>,
) -> Option<&'w str> {
    match flag.kind {
        FlagInfoKind::Switch => None,
        FlagInfoKind::Option { .. } => rest.next().filter(|word| {
            let name = word.split_once('=').map_or(*word, |(name, _)| name);
            !command.flags.iter().any(|f| is_named(f, name))
        }),
    }
}

fn is_named(flag: &FlagInfo<'_>, word: &str) -> bool {
    flag.long == word || flag.short.is_some_and(|c| word.strip_prefix('-').is_some_and(|w| w.chars().eq([c])))
}

fn find_command<'a>(top: &'a CommandInfoWithArgs, name: &str) -> Result<&'a CommandInfoWithArgs, Stop> {
    let names = || top.commands.iter().map(|c| c.name);
    match top.commands.iter().find(|c| c.name == name) {
        Some(found) => Ok(&found.command),
        None => {
            let hint = did_you_mean(name, names());
            Err(usage(None, format!("unknown command '{name}'{hint}")))
        }
    }
}

/// argh's message as one line in our words: `--workers '0': expected …`.
fn fold(message: &str, words: &[&str]) -> String {
    let message = message.trim_end();
    for pair in words.windows(2) {
        let [name, value] = [pair[0], pair[1]];
        let prefix = format!("Error parsing option '{name}' with value '{value}': ");
        if let Some(why) = message.strip_prefix(&prefix) {
            return match why {
                "duplicate values provided" => format!("{name} is given twice"),
                _ => format!("{name} '{value}': {why}"),
            };
        }
    }
    match message.strip_prefix("Unrecognized argument: ") {
        Some(word) => format!("unexpected argument '{word}'"),
        None => message
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace("Required positional arguments not provided:", "nothing given for"),
    }
}
