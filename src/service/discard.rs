//! Discard (RFC 863): what comes in is thrown away.

use super::{Next, Service};
use crate::buffer::{Input, Output};
use crate::client::Client;

/// The discard service (RFC 863).
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Service for Discard {
    type Session = ();

    fn open(&mut self, _: &Client) {}

    #[inline]
    fn data(&mut self, (): &mut (), input: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        input.consume(input.len());
        Next::More
    }
}
