//! What the server sends, as the user wants to see it: raw, as a hex dump, or frame by frame.

/// A frame that the server announced and that is longer than the user allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrameTooLong(pub(super) usize);

/// Turns received bytes into output, at any split of the stream.
pub(super) struct Incoming {
    frames: Option<Frames>,
    dump: Option<HexDump>,
    /// Show bytes before their row is full: someone is watching.
    at_once: bool,
    pub(super) total_bytes: u64,
}

/// Where in the stream of frames we are.
struct Frames {
    max_frame: usize,
    /// Empty, or the first bytes of a header.
    header: Vec<u8>,
    /// Bytes of the current payload that have not come; `None` between frames.
    missing: Option<usize>,
    /// The current payload as far as it has come; unused in a dump. It grows with what comes, not with what the header
    /// promises, and is shown whole: a cut frame must not look like a line.
    payload: Vec<u8>,
    complete: u64,
}

impl Incoming {
    pub(super) fn new(max_frame: Option<usize>, hex: bool, at_once: bool) -> Incoming {
        let frames = max_frame.map(|max_frame| Frames {
            max_frame,
            header: Vec::with_capacity(4),
            missing: None,
            payload: Vec::new(),
            complete: 0,
        });
        Incoming { frames, dump: hex.then(HexDump::default), at_once, total_bytes: 0 }
    }

    /// Appends to `out` what `received` makes visible.
    pub(super) fn take(&mut self, received: &[u8], out: &mut Vec<u8>) -> Result<(), FrameTooLong> {
        self.total_bytes += received.len() as u64;
        let outcome = match (&mut self.frames, &mut self.dump) {
            (None, None) => {
                out.extend_from_slice(received);
                Ok(())
            }
            (None, Some(dump)) => {
                dump.feed(received, out);
                Ok(())
            }
            (Some(frames), dump) => frames.take(received, dump.as_mut(), out),
        };
        if let (Some(dump), true) = (&mut self.dump, self.at_once) {
            dump.flush(out);
        }
        outcome
    }

    /// The stream is over: what was held back for a full row is shown.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        match (&self.frames, &mut self.dump) {
            (None, Some(dump)) if self.total_bytes > 0 => dump.end(out),
            (Some(_), Some(dump)) => dump.flush(out),
            _ => {}
        }
    }

    /// Whole frames that have come.
    pub(super) fn complete_frames(&self) -> u64 {
        self.frames.as_ref().map_or(0, |f| f.complete)
    }

    /// True if the stream has stopped inside a frame.
    pub(super) fn is_inside_frame(&self) -> bool {
        self.frames.as_ref().is_some_and(|f| f.missing.is_some() || !f.header.is_empty())
    }
}

impl Frames {
    fn take(
        &mut self,
        mut bytes: &[u8],
        mut dump: Option<&mut HexDump>,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameTooLong> {
        while !bytes.is_empty() {
            let wanted = self.missing.unwrap_or(4 - self.header.len());
            let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            match self.missing {
                None => self.missing = self.read_header(piece)?,
                Some(missing) => {
                    self.missing = Some(missing - piece.len());
                    match &mut dump {
                        Some(dump) => dump.feed(piece, out),
                        None => self.payload.extend_from_slice(piece),
                    }
                }
            }
            if self.missing == Some(0) {
                self.end_frame(dump.as_deref_mut(), out);
            }
        }
        Ok(())
    }

    /// The payload's length once all four bytes are there.
    fn read_header(&mut self, piece: &[u8]) -> Result<Option<usize>, FrameTooLong> {
        self.header.extend_from_slice(piece);
        let Ok(header) = <[u8; 4]>::try_from(self.header.as_slice()) else {
            return Ok(None);
        };
        self.header.clear();
        let length = u32::from_be_bytes(header) as usize;
        if length > self.max_frame {
            return Err(FrameTooLong(length));
        }
        Ok(Some(length))
    }

    fn end_frame(&mut self, dump: Option<&mut HexDump>, out: &mut Vec<u8>) {
        match dump {
            Some(dump) => dump.end(out),
            None => {
                out.append(&mut self.payload);
                out.push(b'\n');
            }
        }
        self.missing = None;
        self.complete += 1;
    }
}

/// `hexdump -vC` as a stream.
#[derive(Default)]
struct HexDump {
    offset: u64,
    /// Fewer than [`ROW_BYTES`] bytes that are not shown yet.
    row: Vec<u8>,
}

const ROW_BYTES: usize = 16;

impl HexDump {
    fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = ROW_BYTES - self.row.len();
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.row.extend_from_slice(piece);
            bytes = rest;
            if self.row.len() == ROW_BYTES {
                self.flush(out);
            }
        }
    }

    /// Shows the row as far as it has come; what follows begins a row of its own.
    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.row.is_empty() {
            return;
        }
        out.extend_from_slice(format!("{:08x} ", self.offset).as_bytes());
        for column in 0..ROW_BYTES {
            if column % 8 == 0 {
                out.push(b' ');
            }
            match self.row.get(column) {
                Some(byte) => out.extend_from_slice(format!("{byte:02x} ").as_bytes()),
                None => out.extend_from_slice(b"   "),
            }
        }
        out.extend_from_slice(b" |");
        let visible = |b: &u8| if matches!(b, b' '..=b'~') { *b } else { b'.' };
        out.extend(self.row.iter().map(visible));
        out.extend_from_slice(b"|\n");
        self.offset += self.row.len() as u64;
        self.row.clear();
    }

    /// Shows the rest and, alone on a line, the length; the next byte is number 0.
    fn end(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        out.extend_from_slice(format!("{:08x}\n", self.offset).as_bytes());
        self.offset = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of `stream` when it comes in two pieces.
    fn shown(mut incoming: Incoming, stream: &[u8], cut: usize) -> String {
        let mut out = Vec::new();
        incoming.take(&stream[..cut], &mut out).expect("short frames");
        incoming.take(&stream[cut..], &mut out).expect("short frames");
        assert!(!incoming.is_inside_frame());
        incoming.finish(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn frames_are_lines_at_every_split() {
        let stream = b"\0\0\0\x03one\0\0\0\0\0\0\0\x04last";
        for cut in 0..=stream.len() {
            assert_eq!(shown(Incoming::new(Some(4), false, false), stream, cut), "one\n\nlast\n");
        }
    }

    #[test]
    fn each_frame_has_a_dump_of_its_own_at_every_split() {
        let stream = b"\0\0\0\x02hi\0\0\0\0\0\0\0\x01!";
        let dump = "\
00000000  68 69                                             |hi|
00000002
00000000
00000000  21                                                |!|
00000001
";
        for cut in 0..=stream.len() {
            assert_eq!(shown(Incoming::new(Some(4), true, false), stream, cut), dump);
        }
    }

    #[test]
    fn rows_are_full_at_every_split() {
        let stream: Vec<u8> = (b'a'..=b'r').chain([0, 0xff]).collect();
        let dump = "\
00000000  61 62 63 64 65 66 67 68  69 6a 6b 6c 6d 6e 6f 70  |abcdefghijklmnop|
00000010  71 72 00 ff                                       |qr..|
00000014
";
        for cut in 0..=stream.len() {
            assert_eq!(shown(Incoming::new(None, true, false), &stream, cut), dump);
        }
    }

    #[test]
    fn on_a_terminal_no_byte_waits_for_its_row() {
        let mut out = Vec::new();
        let mut incoming = Incoming::new(None, true, true);
        incoming.take(b"a", &mut out).expect("raw");
        incoming.take(b"b", &mut out).expect("raw");
        let lines: Vec<_> = out.split(|b| *b == b'\n').map(|l| l.get(..12)).collect();
        assert_eq!(lines, [Some(&b"00000000  61"[..]), Some(b"00000001  62"), None]);
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_by_its_header() {
        let mut incoming = Incoming::new(Some(4), false, false);
        let mut out = Vec::new();
        let refused = incoming.take(b"\0\0\0\x01a\0\0\0\x05", &mut out);
        assert_eq!((refused, out.as_slice()), (Err(FrameTooLong(5)), &b"a\n"[..]));
    }

    #[test]
    fn a_cut_frame_is_not_shown_as_a_line() {
        for cut in [&b"\0\0"[..], b"\0\0\0\x02", b"\0\0\0\x02a"] {
            let mut incoming = Incoming::new(Some(4), false, false);
            let mut out = Vec::new();
            incoming.take(cut, &mut out).expect("short");
            incoming.finish(&mut out);
            assert!(incoming.is_inside_frame());
            assert_eq!((incoming.complete_frames(), out), (0, vec![]));
        }
    }
}
