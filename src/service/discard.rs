//! Discard (RFC 863): what comes in is thrown away.

use std::time::Instant;

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

    fn pack(&self, (): &(), _: Instant) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn unpack(&mut self, _: &Client, packed: &[u8], _: Instant) -> Option<()> {
        packed.is_empty().then_some(())
    }
}
