//! A service as the loop serves it: input that comes in pieces, whose unconsumed rest comes again.

use std::time::Instant;

use eagain::buffer::ByteQueue;
use eagain::{Client, Input, Next, Output, Service};

/// Takes a stream and how it is cut from the fuzzer's bytes: a number of cuts, a length for each piece but the last,
/// the stream.
pub fn cut(data: &[u8]) -> Vec<&[u8]> {
    let Some((&count, rest)) = data.split_first() else { return Vec::new() };
    let (lengths, mut stream) = rest.split_at(rest.len().min(usize::from(count % 8)));
    let mut pieces = Vec::new();
    for &length in lengths {
        let (piece, rest) = stream.split_at(stream.len().min(length.into()));
        pieces.push(piece);
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

/// What has become of a stream.
#[derive(Debug, PartialEq)]
pub struct Outcome<T> {
    pub sent: Vec<u8>,
    /// The first thing that the service said besides "go on", and in which state.
    pub end: Option<Next>,
    pub session: T,
}

/// Gives a service the pieces one after the other, then the end if `finish`. `look` sees all that was received and all
/// that was sent after each piece.
pub fn serve<S: Service>(
    service: &mut S,
    pieces: &[&[u8]],
    finish: bool,
    mut look: impl FnMut(&[u8], &Outcome<&S::Session>),
) -> Outcome<S::Session> {
    let (mut received, mut kept, mut sent, mut end) = (Vec::new(), Vec::new(), Vec::new(), None);
    let mut session = service.open(&Client::NOBODY);
    for piece in pieces.iter().map(Some).chain(finish.then_some(None)) {
        let new = piece.copied().unwrap_or_default();
        received.extend_from_slice(new);
        kept.extend_from_slice(new);
        let (mut queue, mut input) = (ByteQueue::new(), Input::new(&kept));
        let mut output = Output::new(&mut queue, &Client::NOBODY, Instant::now());
        let next = match piece {
            Some(_) => service.data(&mut session, &mut input, &mut output),
            None => service.eof(&mut session, &mut input, &mut output),
        };
        let direct = output.forwarded();
        let taken = input.taken();
        sent.extend_from_slice(&kept[direct]);
        sent.extend_from_slice(queue.as_slice());
        kept.drain(..taken);
        end = (next != Next::More).then_some(next);
        let so_far = Outcome { sent, end, session: &session };
        look(&received, &so_far);
        sent = so_far.sent;
        if end.is_some() {
            break;
        }
        // At the limit the client would be held back, and with nothing to wait for closed as stuck.
        let limit = service.input_limit(&session);
        assert!(kept.len() < limit, "{} bytes are kept, the limit is {limit}", kept.len());
    }
    Outcome { sent, end, session }
}
