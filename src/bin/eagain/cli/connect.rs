//! `eagain connect`: its options.

use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::Stop;
use super::values::{MIB, address, max_frame, timeout};
use crate::address::Address;

/// The options of `eagain connect`, in range.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) address: Address,
    /// The address as the user wrote it, for messages.
    pub(crate) address_text: String,
    pub(crate) frames: bool,
    pub(crate) hex: bool,
    pub(crate) no_echo: bool,
    /// Payload bytes: 1 to 1 GiB.
    pub(crate) max_frame: usize,
    /// For each address that is tried: 1 ms to a day.
    pub(crate) connect_timeout: Duration,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "connect",
    description = "Send what is typed or piped in, show what comes back.",
    example = "eagain connect 127.0.0.1:7007
printf 'one\\ntwo\\n' | eagain connect --frames localhost:7004
eagain connect --hex unix:/run/echo.sock < message.bin
eagain connect --no-echo '[::1]:9' < /var/log/syslog",
    note = "ADDRESS is HOST:PORT, [V6]:PORT, PORT (on 127.0.0.1), unix:PATH or unix:@NAME.
^D, or the end of a pipe or file, ends the input, and then the connection.
Exit code 0: all came back; 1: the server refused, reset or went before that.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct ConnectArgs {
    /// where the server is
    #[argh(positional, arg_name = "ADDRESS")]
    address: String,
    /// send lines as frames, show frames as lines
    #[argh(switch)]
    frames: bool,
    /// show what arrives as a hex dump
    #[argh(switch)]
    hex: bool,
    /// do not expect the input back (discard, log)
    #[argh(switch)]
    no_echo: bool,
    /// longest payload of a frame; K, M, G allowed [16M]
    #[argh(option, arg_name = "BYTES", from_str_fn(max_frame))]
    max_frame: Option<u64>,
    /// give an address up after this long [10]
    #[argh(option, arg_name = "SECONDS", from_str_fn(connect_timeout))]
    connect_timeout: Option<Duration>,
}

impl ConnectArgs {
    pub(super) fn check(self) -> Result<Connect, Stop> {
        let address = address(&format!("ADDRESS '{}'", self.address), &self.address)?;
        if matches!(&address, Address::Tcp(all) if all[0].port() == 0) {
            let why = format!("ADDRESS '{}': nobody can listen on port 0", self.address);
            return Err(Stop::Usage(why));
        }
        if self.max_frame.is_some() && !self.frames {
            return Err(Stop::Usage("--max-frame needs --frames".to_owned()));
        }
        Ok(Connect {
            address,
            address_text: self.address,
            frames: self.frames,
            hex: self.hex,
            no_echo: self.no_echo,
            max_frame: self.max_frame.unwrap_or(16 * MIB) as usize,
            connect_timeout: self.connect_timeout.unwrap_or(Duration::from_secs(10)),
        })
    }
}

fn connect_timeout(text: &str) -> Result<Duration, String> {
    timeout(text)
}
