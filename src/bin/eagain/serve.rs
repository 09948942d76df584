//! `eagain serve`.

use std::process::ExitCode;

use crate::{cli, say};

pub(crate) fn run(options: cli::Serve) -> ExitCode {
    let cli::Serve { delay: _d, edge_triggered: _e, workers: _w, backlog: _b, max_frame: _m, .. } = options;
    let (_t, _dt) = (options.trace, options.drain_timeout);
    for (service, address) in &options.listen {
        say::error(format_args!("cannot serve {service} on {address}: the server is not part of this build"));
    }
    ExitCode::FAILURE
}
