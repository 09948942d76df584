use crate::cli;
use std::process::ExitCode;
pub(crate) fn run(o: cli::Connect) -> ExitCode {
    drop(o);
    ExitCode::FAILURE
}
