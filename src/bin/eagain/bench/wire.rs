//! The bytes of a connection: what is sent, and what must come back.
//!
//! Every message is different, and different from those of every other connection: its payload begins, and goes on
//! each 4 KiB, with 8 bytes made of the connection's and the message's numbers; what is between them is cut from a tape
//! of random bytes at a place that these 8 choose. So whatever is lost, doubled, reordered, shifted, or meant for a
//! neighbour differs from what is expected, and making and checking cost a copy and a comparison.

use super::failure::Cause;
use super::plan::Service;

/// The longest part of a payload without a stamp.
const BLOCK_BYTES: usize = 4096;
const STAMP_BYTES: usize = 8;
const TAPE_BYTES: usize = 1 << 16;
/// What RFC 864 calls the popular pattern: 95 lines of 72 characters, each begun one character later.
const CHARACTERS: usize = 95;
const COLUMNS: usize = 72;

/// A place in the sequence of messages of one connection, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Messages before this place.
    pub(super) message: u64,
    /// Bytes of this message before this place, what is around the payload included.
    pub(super) offset: usize,
}

impl Cursor {
    /// Messages that are begun or complete.
    pub(super) fn begun(self) -> u64 {
        self.message + u64::from(self.offset > 0)
    }
}

/// What is around a payload.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    head: Vec<u8>,
    tail: &'static [u8],
}

/// Both directions of a service.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) request: Envelope,
    pub(super) answer: Envelope,
    size: usize,
    tape: Vec<u8>,
}

/// Where bytes differ from what they should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) cause: Cause,
    pub(super) detail: String,
}

impl Wire {
    /// `size`: bytes of each payload, at least 1.
    pub(super) fn new(service: Service, size: usize) -> Wire {
        let (request, answer) = match service {
            Service::Frames => (frame(size), frame(size)),
            Service::RedisPing => (redis_request(size), redis_answer(size)),
            Service::Echo | Service::Discard | Service::Chargen => (Envelope::default(), Envelope::default()),
        };
        let tape = match service {
            Service::Chargen => chargen(),
            _ => (0..(TAPE_BYTES + BLOCK_BYTES) as u64 / 8).flat_map(|word| mix(word).to_le_bytes()).collect(),
        };
        Wire { request, answer, size, tape }
    }

    pub(super) fn request_bytes(&self) -> usize {
        self.request.around() + self.size
    }

    pub(super) fn answer_bytes(&self) -> usize {
        self.answer.around() + self.size
    }

    /// Puts into `out` what connection `stream` sends from `at` on: messages before number `until`, at most `most`
    /// bytes.
    pub(super) fn fill(&self, stream: u64, mut at: Cursor, until: u64, most: usize, out: &mut Vec<u8>) {
        out.clear();
        while at.message < until && out.len() < most {
            let stamp = self.stamp(stream, at, &self.request);
            let piece = self.piece(at, &self.request, &stamp);
            let piece = &piece[..piece.len().min(most - out.len())];
            out.extend_from_slice(piece);
            at = self.after(at, piece.len(), self.request_bytes());
        }
    }

    /// Moves a place of what is sent by `count` bytes.
    pub(super) fn sent(&self, at: Cursor, count: usize) -> Cursor {
        self.after(at, count, self.request_bytes())
    }

    /// Compares what came with what connection `stream` is due from `at` on, and moves `at` behind it.
    pub(super) fn check(&self, stream: u64, at: &mut Cursor, mut came: &[u8]) -> Result<(), Box<Mismatch>> {
        while !came.is_empty() {
            let stamp = self.stamp(stream, *at, &self.answer);
            let piece = self.piece(*at, &self.answer, &stamp);
            let length = piece.len().min(came.len());
            if came[..length] != piece[..length] {
                return Err(Box::new(self.explain(stream, *at, came, &piece[..length])));
            }
            *at = self.after(*at, length, self.answer_bytes());
            came = &came[length..];
        }
        Ok(())
    }

    /// As [`check`](Self::check), for RFC 864's endless lines; `at` is the place in their cycle.
    pub(super) fn check_chargen(&self, at: &mut usize, mut came: &[u8]) -> Result<(), Box<Mismatch>> {
        while !came.is_empty() {
            let length = came.len().min(self.tape.len() - *at);
            if came[..length] != self.tape[*at..*at + length] {
                let detail = "these are not the lines of RFC 864 in their order".to_owned();
                return Err(Box::new(Mismatch { cause: Cause::Corrupted, detail }));
            }
            *at = (*at + length) % self.tape.len();
            came = &came[length..];
        }
        Ok(())
    }

    /// Random bytes to be thrown away by the receiver.
    pub(super) fn upload(&self) -> &[u8] {
        &self.tape
    }

    fn after(&self, at: Cursor, count: usize, message: usize) -> Cursor {
        let offset = at.offset + count;
        match offset < message {
            true => Cursor { message: at.message, offset },
            false => Cursor { message: at.message + (offset / message) as u64, offset: offset % message },
        }
    }

    /// The 8 bytes that begin the block which `at` is in.
    fn stamp(&self, stream: u64, at: Cursor, envelope: &Envelope) -> [u8; STAMP_BYTES] {
        let block = at.offset.saturating_sub(envelope.head.len()) / BLOCK_BYTES;
        let blocks = self.size.div_ceil(BLOCK_BYTES) as u64;
        let number = at.message.wrapping_mul(blocks).wrapping_add(block as u64);
        mix(stream.wrapping_mul(0xD1B5_4A32_D192_ED03).wrapping_add(number)).to_le_bytes()
    }

    /// The bytes from `at` to the next seam of a message; at least one.
    fn piece<'a>(&'a self, at: Cursor, envelope: &'a Envelope, stamp: &'a [u8; STAMP_BYTES]) -> &'a [u8] {
        let head = envelope.head.len();
        if at.offset < head {
            return &envelope.head[at.offset..];
        }
        let offset = at.offset - head;
        if offset >= self.size {
            return &envelope.tail[offset - self.size..];
        }
        let within = offset % BLOCK_BYTES;
        let block = BLOCK_BYTES.min(self.size - (offset - within));
        if within < STAMP_BYTES {
            return &stamp[within..STAMP_BYTES.min(block)];
        }
        let start = usize::from(u16::from_le_bytes([stamp[0], stamp[1]]));
        &self.tape[start + within..start + block]
    }

    /// What has most likely happened to a message whose bytes are wrong. Only a payload's first 8 bytes tell, and only
    /// if they are what differs.
    fn explain(&self, stream: u64, at: Cursor, came: &[u8], due: &[u8]) -> Mismatch {
        const NEAR: u64 = 256;
        let message = at.message;
        if at.offset == self.answer.head.len() && self.size >= STAMP_BYTES && came.len() >= STAMP_BYTES {
            for other in message.saturating_sub(NEAR)..message + NEAR {
                if self.stamp(stream, Cursor { message: other, ..at }, &self.answer) == came[..STAMP_BYTES] {
                    let (cause, why) = match other < message {
                        true => (Cause::Duplicated, "it has come already"),
                        false => (Cause::OutOfOrder, "what is between was lost or overtaken"),
                    };
                    return Mismatch { cause, detail: format!("message {other} where {message} was due: {why}") };
                }
            }
        }
        let same = came.iter().zip(due).take_while(|(came, due)| came == due).count();
        Mismatch {
            cause: Cause::Corrupted,
            detail: format!(
                "byte {} of message {message} is {:#04x} and should be {:#04x}",
                at.offset + same,
                came[same],
                due[same]
            ),
        }
    }
}

impl Envelope {
    fn around(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

fn frame(size: usize) -> Envelope {
    Envelope { head: (size as u32).to_be_bytes().to_vec(), tail: b"" }
}

fn redis_request(size: usize) -> Envelope {
    Envelope { head: format!("*2\r\n$4\r\nPING\r\n${size}\r\n").into_bytes(), tail: b"\r\n" }
}

fn redis_answer(size: usize) -> Envelope {
    Envelope { head: format!("${size}\r\n").into_bytes(), tail: b"\r\n" }
}

/// One cycle of RFC 864's lines.
fn chargen() -> Vec<u8> {
    let line = |first: usize| {
        let characters = (first..first + COLUMNS).map(|at| b' ' + (at % CHARACTERS) as u8);
        characters.chain(*b"\r\n")
    };
    (0..CHARACTERS).flat_map(line).collect()
}

/// splitmix64 (Steele, Lea, Flood 2014): neighbours become unlike, and no two numbers the same.
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(wire: &Wire, stream: u64, messages: u64) -> Vec<u8> {
        let mut all = Vec::new();
        wire.fill(stream, Cursor::default(), messages, usize::MAX, &mut all);
        all
    }

    fn verdict(wire: &Wire, bytes: &[u8]) -> Result<u64, Cause> {
        let mut at = Cursor::default();
        wire.check(3, &mut at, bytes).map(|()| at.message).map_err(|wrong| wrong.cause)
    }

    #[test]
    fn any_split_of_what_is_due_is_right() {
        for service in [Service::Echo, Service::Frames] {
            for size in [1, 7, 8, 9, 64, 4096, 4097, 4100, 10_000] {
                let wire = Wire::new(service, size);
                let all = stream(&wire, 3, 3);
                assert_eq!(all.len(), 3 * wire.request_bytes());
                for step in [1, 3, 63, 4096, all.len()] {
                    let (mut at, mut sent) = (Cursor::default(), Cursor::default());
                    let mut piece = Vec::new();
                    for part in all.chunks(step) {
                        wire.fill(3, sent, 3, step, &mut piece);
                        assert_eq!(piece, part);
                        sent = wire.sent(sent, part.len());
                        wire.check(3, &mut at, part).expect("it is what was sent");
                    }
                    assert_eq!((at, sent), (Cursor { message: 3, offset: 0 }, at));
                }
            }
        }
    }

    #[test]
    fn each_wrong_bit_is_seen() {
        let wire = Wire::new(Service::Frames, 100);
        let all = stream(&wire, 3, 2);
        for bit in 0..all.len() * 8 {
            let mut wrong = all.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verdict(&wire, &wrong), Err(Cause::Corrupted), "bit {bit}");
        }
    }

    #[test]
    fn what_is_lost_swapped_doubled_shifted_or_of_another_is_seen() {
        for (service, size) in [(Service::Echo, 64), (Service::Frames, 8), (Service::Echo, 5000)] {
            let wire = Wire::new(service, size);
            let all = stream(&wire, 3, 4);
            let message = |number: usize| &all[number * wire.request_bytes()..][..wire.request_bytes()];
            assert_eq!(verdict(&wire, &all), Ok(4));
            assert_eq!(verdict(&wire, &[message(0), message(2)].concat()), Err(Cause::OutOfOrder));
            assert_eq!(verdict(&wire, &[message(1), message(0)].concat()), Err(Cause::OutOfOrder));
            assert_eq!(verdict(&wire, &[message(0), message(0)].concat()), Err(Cause::Duplicated));
            assert_eq!(verdict(&wire, &all[1..]), Err(Cause::Corrupted));
            assert_eq!(verdict(&wire, &stream(&wire, 4, 1)), Err(Cause::Corrupted));
        }
    }

    #[test]
    fn blocks_of_one_long_message_cannot_change_places() {
        let wire = Wire::new(Service::Echo, 200_000);
        let mut all = stream(&wire, 3, 1);
        let (first, second) = all.split_at_mut(TAPE_BYTES);
        first[..4096].swap_with_slice(&mut second[..4096]);
        assert!(verdict(&wire, &all).is_err());
    }

    #[test]
    fn redis_answers_in_its_own_words() {
        let wire = Wire::new(Service::RedisPing, 3);
        let asked = stream(&wire, 3, 1);
        assert!(asked.starts_with(b"*2\r\n$4\r\nPING\r\n$3\r\n") && asked.ends_with(b"\r\n"));
        let answer = [b"$3\r\n", &asked[asked.len() - 5..]].concat();
        assert_eq!(verdict(&wire, &answer), Ok(1));
        assert_eq!(verdict(&wire, b"-ERR unknown\r\n"), Err(Cause::Corrupted));
    }

    #[test]
    fn chargen_goes_round() {
        let wire = Wire::new(Service::Chargen, 1);
        let lines = chargen();
        assert!(lines.starts_with(b" !\"#$") && lines.len() == 7030);
        let mut at = 0;
        for part in [&lines[..], &lines[..5000], &lines[5000..], &lines[..1]] {
            wire.check_chargen(&mut at, part).expect("in order");
        }
        assert!(wire.check_chargen(&mut at, &lines[2..4]).is_err());
    }
}
