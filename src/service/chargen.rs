//! Chargen (RFC 864): characters for ever, as fast as the client takes them.

use std::time::Instant;

use super::{Next, Service};
use crate::buffer::{Input, Output};
use crate::client::Client;

/// The printable ASCII characters, space included.
const CHARACTERS: usize = 95;
/// Characters in a line, as RFC 864 has it.
const COLUMNS: usize = 72;
/// A line with its CR and LF.
const LINE: usize = COLUMNS + 2;

/// The whole wheel: line `n` begins with the `n`th character; after 95 lines it begins anew.
static WHEEL: [[u8; LINE]; CHARACTERS] = wheel();

const fn wheel() -> [[u8; LINE]; CHARACTERS] {
    let mut lines = [[0; LINE]; CHARACTERS];
    let mut line = 0;
    while line < CHARACTERS {
        let mut column = 0;
        while column < COLUMNS {
            lines[line][column] = b' ' + ((line + column) % CHARACTERS) as u8;
            column += 1;
        }
        lines[line][COLUMNS] = b'\r';
        lines[line][COLUMNS + 1] = b'\n';
        line += 1;
    }
    lines
}

/// The character generator (RFC 864): lines of 72 characters, each a character further round the printable ASCII set.
///
/// Input is thrown away. A client that half-closes goes on receiving: "the data continues until the user terminates the
/// connection".
#[derive(Debug, Clone, Copy, Default)]
pub struct Chargen;

impl Service for Chargen {
    /// The next line of the wheel.
    type Session = u8;

    fn open(&mut self, _: &Client) -> u8 {
        0
    }

    fn data(&mut self, _: &mut u8, input: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        input.consume(input.len());
        Next::More
    }

    fn room(&mut self, line: &mut u8, _: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        while output.room() >= LINE {
            output.write(&WHEEL[*line as usize]);
            *line = (*line + 1) % CHARACTERS as u8;
        }
        Next::More
    }

    fn eof(&mut self, _: &mut u8, _: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        Next::More
    }

    fn pack(&self, line: &u8, _: Instant) -> Option<Vec<u8>> {
        Some(vec![*line])
    }

    fn unpack(&mut self, _: &Client, packed: &[u8], _: Instant) -> Option<u8> {
        let [line] = packed else { return None };
        Some(*line).filter(|&line| usize::from(line) < CHARACTERS)
    }
}
