//! Frames: a length of four bytes, big-endian, then as many bytes of payload. What Erlang calls `{packet, 4}`.

use std::time::Instant;

use super::{Next, Service};
use crate::buffer::{Input, Output};
use crate::client::Client;
use crate::limits::MAX_FRAME_BYTES;

/// The length in front of a payload.
const HEADER: usize = 4;

/// A frame that announces more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {announced} bytes is over the limit of {limit}: raise --max-frame or send smaller frames")]
pub struct FrameError {
    /// The length in its header.
    pub announced: u32,
    /// What is allowed.
    pub limit: u32,
}

/// The framed echo service: each frame is answered with itself, as soon as it is whole and not a byte earlier.
///
/// The length is checked before memory is taken for the frame, and memory is taken only for what has arrived. A frame
/// that is too long ends its connection; the frames before it are answered.
#[derive(Debug, Clone, Copy)]
pub struct Frames {
    limit: u32,
}

impl Frames {
    /// Frames of at most `limit` bytes of payload.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self { limit }
    }

    /// How many bytes at the front are whole frames.
    fn whole(&self, bytes: &[u8]) -> (usize, Result<(), FrameError>) {
        let mut end = 0;
        while let Some((header, rest)) = bytes[end..].split_first_chunk::<HEADER>() {
            let announced = u32::from_be_bytes(*header);
            if announced > self.limit {
                return (end, Err(FrameError { announced, limit: self.limit }));
            }
            if rest.len() < announced as usize {
                break;
            }
            end += HEADER + announced as usize;
        }
        (end, Ok(()))
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new(MAX_FRAME_BYTES as u32)
    }
}

impl Service for Frames {
    /// Why the connection was ended, if it was.
    type Session = Result<(), FrameError>;

    fn open(&mut self, _: &Client) -> Self::Session {
        Ok(())
    }

    #[inline]
    fn data(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        // RULE(one-recv-is-not-one-message): as many as are whole, and the rest stays.
        let (whole, verdict) = self.whole(input);
        output.forward(input, whole);
        *session = verdict;
        if verdict.is_ok() { Next::More } else { Next::Finish }
    }

    fn input_limit(&self, _: &Self::Session) -> usize {
        HEADER + self.limit as usize
    }

    /// Nothing, or the frame that was too long.
    fn pack(&self, session: &Self::Session, _: Instant) -> Option<Vec<u8>> {
        Some(match session {
            Ok(()) => Vec::new(),
            Err(FrameError { announced, limit }) => [announced.to_le_bytes(), limit.to_le_bytes()].concat(),
        })
    }

    fn unpack(&mut self, _: &Client, packed: &[u8], _: Instant) -> Option<Self::Session> {
        if packed.is_empty() {
            return Some(Ok(()));
        }
        let ([announced, limit], []) = packed.as_chunks() else { return None };
        Some(Err(FrameError { announced: u32::from_le_bytes(*announced), limit: u32::from_le_bytes(*limit) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_count() {
        let frames = Frames::new(3);
        let bytes = [0, 0, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0, 3, 1, 2, 3];
        for cut in 0..bytes.len() {
            let expected = [0, 4, 9].into_iter().filter(|&end| end <= cut).max().unwrap();
            assert_eq!(frames.whole(&bytes[..cut]), (expected, Ok(())), "cut at {cut}");
        }
        assert_eq!(frames.whole(&bytes), (16, Ok(())));
    }

    #[test]
    fn what_comes_before_a_frame_that_is_too_long_counts() {
        let verdict = Frames::new(3).whole(&[0, 0, 0, 1, 7, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(verdict, (5, Err(FrameError { announced: u32::MAX, limit: 3 })));
    }
}
