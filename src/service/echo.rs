//! Echo (RFC 862): what comes in goes out.

use std::time::Instant;

use super::{Next, Service};
use crate::buffer::{Input, Output};
use crate::client::Client;

/// The echo service (RFC 862). Nothing is copied, unless the client does not take it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Service for Echo {
    type Session = ();

    fn open(&mut self, _: &Client) {}

    #[inline]
    fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        output.forward(input, input.len());
        Next::More
    }

    fn pack(&self, (): &(), _: Instant) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn unpack(&mut self, _: &Client, packed: &[u8], _: Instant) -> Option<()> {
        packed.is_empty().then_some(())
    }
}
