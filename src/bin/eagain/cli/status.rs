//! `eagain status`: its options.

use argh::{ArgsInfo, FromArgs};

use super::Stop;
use super::values::address;
use crate::address::Address;

/// Where `status` looks if it is not told; the docs give `--metrics` the same.
const METRICS_ADDRESS: &str = "127.0.0.1:7009";

/// The options of `eagain status`, in range.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) address: Address,
    /// The address as the user wrote it, for messages.
    pub(crate) address_text: String,
    pub(crate) watch: bool,
    pub(crate) json: bool,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "status",
    description = "Show what a server that runs with --metrics is doing.",
    example = "eagain status
eagain status --watch unix:/run/eagain/metrics.sock
eagain status --json 127.0.0.1:7009",
    note = "ADDRESS is where 'eagain serve --metrics ADDRESS' listens [127.0.0.1:7009].
A turn of the loop is as long as its other clients may have to wait.
With --watch, bytes are those of the last second, and ^C ends it.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct StatusArgs {
    /// the --metrics address of the server
    #[argh(positional, arg_name = "ADDRESS")]
    address: Option<String>,
    /// again each second
    #[argh(switch)]
    watch: bool,
    /// one JSON object a line
    #[argh(switch)]
    json: bool,
}

impl StatusArgs {
    pub(super) fn check(self) -> Result<Status, Stop> {
        let text = self.address.unwrap_or_else(|| METRICS_ADDRESS.to_owned());
        let address = address(&format!("ADDRESS '{text}'"), &text)?;
        Ok(Status { address, address_text: text, watch: self.watch, json: self.json })
    }
}
