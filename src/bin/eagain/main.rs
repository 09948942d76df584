//! The program `eagain`: reads the command line and hands over to one command.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line is wrong. Every failure is one line on stderr.
#![deny(unsafe_code)]

mod address;
mod bench;
mod chart;
mod cli;
mod compare;
mod config;
mod connect;
mod inspect;
mod lab;
mod models;
mod say;
mod serve;
mod status;

use std::process::ExitCode;

use cli::{Command, Stop};

/// The command line cannot be obeyed; the same code as in most of the tools of a shell.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve(options)) => serve::run(options),
        Ok(Command::Connect(options)) => connect::run(options),
        Ok(Command::Status(options)) => status::run(options),
        Ok(Command::Bench(options)) => bench::run(&options),
        Ok(Command::Report(options)) => bench::report(&options),
        Ok(Command::Compare(options)) => compare::run(&options),
        Ok(Command::Lab(options)) => lab::run(options),
        Ok(Command::Inspect(options)) => inspect::run(options),
        Err(Stop::Answered(text)) => {
            say::out(&text);
            ExitCode::SUCCESS
        }
        Err(Stop::Usage(why)) => {
            say::error(&why);
            ExitCode::from(USAGE)
        }
        Err(Stop::Failed(why)) => {
            say::error(&why);
            ExitCode::FAILURE
        }
    }
}
