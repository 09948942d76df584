//! The frames service: whatever the split, it sends back exactly the frames that are whole, none of them later than
//! with the piece that completes it, and finishes at the first one that is too long.
#![no_main]

mod pieces;

use eagain::Next;
use eagain::service::{FrameError, Frames};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Small limits, so that frames at them are found at once.
    let Some((&limit, rest)) = data.split_first() else { return };
    let limit = u32::from(limit) + 1;
    let pieces = pieces::cut(rest);
    pieces::serve(&mut Frames::new(limit), &pieces, false, |received, so_far| {
        let (whole, too_long) = expected(received, limit);
        assert_eq!(so_far.sent, received[..whole]);
        assert_eq!(so_far.end, too_long.map(|_| Next::Finish));
        assert_eq!(*so_far.session, too_long.map_or(Ok(()), |announced| Err(FrameError { announced, limit })));
    });
});

/// How many bytes come back of `stream`, and the length of a frame that ends it because it is too long.
fn expected(stream: &[u8], limit: u32) -> (usize, Option<u32>) {
    let mut at = 0;
    loop {
        let &[a, b, c, d, ..] = &stream[at..] else { return (at, None) };
        let length = u32::from(a) << 24 | u32::from(b) << 16 | u32::from(c) << 8 | u32::from(d);
        if length > limit {
            return (at, Some(length));
        }
        let next = at + 4 + length as usize;
        if next > stream.len() {
            return (at, None);
        }
        at = next;
    }
}
