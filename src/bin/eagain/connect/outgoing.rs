//! What the user has given and the server has not taken yet.

/// How much of the queue may be sent bytes before they are moved out.
const COMPACT_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 4;

/// A line of the input that does not fit into a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

/// A queue of bytes; with a frame limit, a queue of frames.
///
/// Invariant: `sent <= ready <= bytes.len()`. Behind `ready` there is at most one unfinished frame: a header's place
/// and the beginning of a line.
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    ready: usize,
    /// The longest payload, if every line is to become a frame.
    max_frame: Option<usize>,
    /// All bytes that have been sent, ever.
    pub(super) total_bytes: u64,
    /// All frames that have been queued, ever.
    pub(super) total_frames: u64,
}

impl Outgoing {
    pub(super) fn new(max_frame: Option<usize>) -> Outgoing {
        Outgoing { bytes: Vec::new(), sent: 0, ready: 0, max_frame, total_bytes: 0, total_frames: 0 }
    }

    /// Queues input; in frames, what follows the last newline waits for its end.
    pub(super) fn push(&mut self, input: &[u8]) -> Result<(), LineTooLong> {
        let Some(max) = self.max_frame else {
            self.bytes.extend_from_slice(input);
            self.ready = self.bytes.len();
            return Ok(());
        };
        for piece in input.split_inclusive(|b| *b == b'\n') {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            if self.ready == self.bytes.len() {
                self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
            }
            if self.line_bytes() + line.len() > max {
                return Err(LineTooLong);
            }
            self.bytes.extend_from_slice(line);
            if line.len() < piece.len() {
                self.seal();
            }
        }
        Ok(())
    }

    /// The input is over: a last line without a newline is a line.
    pub(super) fn finish(&mut self) {
        if self.ready < self.bytes.len() {
            self.seal();
        }
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..self.ready]
    }

    /// The socket took the first `count` of [`Outgoing::unsent`].
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        self.total_bytes += count as u64;
        debug_assert!(self.sent <= self.ready);
        // Without the second condition a sender that never quite catches up would keep all it ever sent.
        if self.sent == self.ready || self.sent >= COMPACT_BYTES {
            self.bytes.drain(..self.sent);
            self.ready -= self.sent;
            self.sent = 0;
        }
    }

    fn line_bytes(&self) -> usize {
        self.bytes.len() - self.ready - HEADER_BYTES
    }

    fn seal(&mut self) {
        // At most 1 GiB by the range of --max-frame, so it fits.
        let length = (self.line_bytes() as u32).to_be_bytes();
        self.bytes[self.ready..][..HEADER_BYTES].copy_from_slice(&length);
        self.ready = self.bytes.len();
        self.total_frames += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_frames_at_every_split() {
        let input = b"one\n\nlast";
        for cut in 0..=input.len() {
            let mut queue = Outgoing::new(Some(4));
            queue.push(&input[..cut]).expect("short lines");
            queue.push(&input[cut..]).expect("short lines");
            queue.finish();
            assert_eq!(queue.unsent(), b"\0\0\0\x03one\0\0\0\0\0\0\0\x04last", "cut at {cut}");
            assert_eq!(queue.total_frames, 3);
        }
    }

    #[test]
    fn an_unfinished_line_is_not_sent() {
        let mut queue = Outgoing::new(Some(9));
        queue.push(b"a\nunfin").expect("short lines");
        assert_eq!(queue.unsent(), b"\0\0\0\x01a");
        queue.advance(5);
        assert_eq!(queue.unsent(), b"");
        queue.push(b"ished\n").expect_err("ten letters");
    }

    #[test]
    fn a_line_may_have_the_longest_payload_and_no_more() {
        assert_eq!(Outgoing::new(Some(3)).push(b"abc\n"), Ok(()));
        assert_eq!(Outgoing::new(Some(3)).push(b"abcd\n"), Err(LineTooLong));
        assert_eq!(Outgoing::new(Some(3)).push(b"abcd"), Err(LineTooLong));
    }

    #[test]
    fn sent_bytes_are_let_go_though_the_queue_is_never_empty() {
        let mut queue = Outgoing::new(None);
        queue.push(&[0; 3000]).expect("raw");
        for _ in 0..10_000 {
            queue.push(&[0; 1000]).expect("raw");
            queue.advance(1000);
        }
        assert_eq!(queue.unsent().len(), 3000);
        assert!(queue.bytes.len() < 2 * COMPACT_BYTES);
    }
}
