//! `eagain serve`.

use std::process::ExitCode;

use crate::{cli, say};

pub(crate) fn run(options: cli::Serve) -> ExitCode {
    for (service, address) in &options.listen {
        say::error(format_args!(
            "cannot serve {service} on {address}: the server is not part of this build"
        ));
    }
    ExitCode::FAILURE
}
