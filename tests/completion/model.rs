//! Any sequence of calls, beside a model of the contract.
//!
//! The model knows for each operation what may come of it, and for each stream which bytes must. Sockets are real; one
//! thread makes all calls, so that the model knows what the port knows.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use eagain::completion::{Completion, Error, Failure, OperationId, Outcome, Port, Reason, SocketId};
use eagain::sys::epoll::Timeout;
use eagain::sys::net::NonBlocking;
use proptest::prelude::*;

/// Sockets at a time.
const SOCKETS: usize = 3;

#[derive(Debug, Clone)]
enum Call {
    Recv {
        at: usize,
        room: usize,
    },
    Send {
        at: usize,
        bytes: usize,
    },
    Shutdown {
        at: usize,
    },
    Timer,
    Post,
    /// The newest, or an older operation.
    Cancel {
        back: usize,
    },
    Close {
        at: usize,
    },
    /// On a socket that was closed before.
    Stale {
        back: usize,
    },
    PeerWrites {
        at: usize,
        bytes: usize,
    },
    PeerReads {
        at: usize,
        bytes: usize,
    },
    PeerLeaves {
        at: usize,
    },
    Next,
}

fn call() -> impl Strategy<Value = Call> {
    let at = || 0..SOCKETS;
    prop_oneof![
        4 => (at(), 0..3000_usize).prop_map(|(at, room)| Call::Recv { at, room }),
        3 => (at(), prop_oneof![0..3000_usize, 300_000..900_000_usize])
            .prop_map(|(at, bytes)| Call::Send { at, bytes }),
        1 => at().prop_map(|at| Call::Shutdown { at }),
        1 => Just(Call::Timer),
        1 => Just(Call::Post),
        2 => (0..6_usize).prop_map(|back| Call::Cancel { back }),
        1 => at().prop_map(|at| Call::Close { at }),
        1 => (0..4_usize).prop_map(|back| Call::Stale { back }),
        3 => (at(), 1..4000_usize).prop_map(|(at, bytes)| Call::PeerWrites { at, bytes }),
        2 => (at(), 1..500_000_usize).prop_map(|(at, bytes)| Call::PeerReads { at, bytes }),
        1 => at().prop_map(|at| Call::PeerLeaves { at }),
        6 => Just(Call::Next),
    ]
}

/// An operation that was accepted and whose completion has not come.
#[derive(Debug)]
enum Open {
    /// Where its buffer is, and how much room it has.
    Recv {
        buffer: *const u8,
        room: usize,
    },
    Send {
        buffer: *const u8,
        bytes: usize,
    },
    Shutdown,
    Timer,
}

#[derive(Debug)]
struct Stream {
    id: SocketId,
    key: u64,
    peer: Option<UnixStream>,
    /// Written by the peer, not received.
    inward: VecDeque<u8>,
    /// The direction's operation, if there is one.
    receiving: Option<OperationId>,
    sending: Option<OperationId>,
    sent_any: bool,
}

struct Model {
    port: Port,
    streams: Vec<Stream>,
    open: BTreeMap<OperationId, (u64, Open)>,
    /// Accepted ever, newest last; and closed sockets.
    operations: Vec<OperationId>,
    closed: Vec<SocketId>,
    posts: VecDeque<u64>,
    keys: u64,
    byte: u8,
}

impl Model {
    fn new() -> Self {
        let (streams, open) = (Vec::new(), BTreeMap::new());
        let port = Port::new().unwrap();
        let (operations, closed, posts) = (Vec::new(), Vec::new(), VecDeque::new());
        let mut model = Self { port, streams, open, operations, closed, posts, keys: 0, byte: 0 };
        for _ in 0..SOCKETS {
            let stream = model.stream();
            model.streams.push(stream);
        }
        model
    }

    fn key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }

    fn stream(&mut self) -> Stream {
        let (ours, peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let key = self.key();
        let id = self.port.associate(NonBlocking::new(ours).unwrap(), key).unwrap();
        let inward = VecDeque::new();
        Stream { id, key, peer: Some(peer), inward, receiving: None, sending: None, sent_any: false }
    }

    fn accepted(&mut self, operation: OperationId, key: u64, open: Open) {
        assert!(!self.operations.contains(&operation), "a name is given once");
        self.operations.push(operation);
        self.open.insert(operation, (key, open));
    }

    fn make(&mut self, call: &Call) {
        match *call {
            Call::Recv { at, room } => self.recv(at, room),
            Call::Send { at, bytes } => self.send(at, bytes),
            Call::Shutdown { at } => {
                let (id, key, busy) = self.sending(at);
                match self.port.shutdown(id) {
                    Ok(operation) => {
                        assert!(!busy);
                        self.streams[at].sending = Some(operation);
                        self.accepted(operation, key, Open::Shutdown);
                    }
                    Err(refused) => assert!(busy && refused.reason == Reason::Busy),
                }
            }
            Call::Timer => {
                let key = self.key();
                let operation = self.port.timer(Instant::now() + Duration::from_millis(key % 3), key).unwrap();
                self.accepted(operation, key, Open::Timer);
            }
            Call::Post => {
                let key = self.key();
                self.port.post(key).unwrap();
                self.posts.push_back(key);
            }
            Call::Cancel { back } => {
                if let Some(&operation) = self.operations.iter().rev().nth(back)
                    && self.port.cancel(operation)
                {
                    assert!(self.open.contains_key(&operation), "a dead operation was cancelled");
                    assert!(!self.port.cancel(operation), "with one thread it is over at once");
                }
            }
            Call::Close { at } => {
                let new = self.stream();
                let old = std::mem::replace(&mut self.streams[at], new);
                assert!(self.port.close(old.id));
                self.closed.push(old.id);
                Self::peer_sees_the_end(old);
            }
            Call::Stale { back } => {
                if let Some(&id) = self.closed.iter().rev().nth(back) {
                    let refused = self.port.recv(id, Vec::with_capacity(9)).unwrap_err();
                    assert_eq!((refused.reason, refused.buffer.capacity()), (Reason::Closed, 9));
                    let refused = self.port.send(id, b"stale".to_vec()).unwrap_err();
                    assert_eq!((refused.reason, &refused.buffer[..]), (Reason::Closed, &b"stale"[..]));
                    assert!(!self.port.close(id));
                }
            }
            Call::PeerWrites { at, bytes } => {
                let bytes: Vec<u8> = (0..bytes).map(|_| self.next_byte()).collect();
                let stream = &mut self.streams[at];
                if let Some(Ok(written)) = stream.peer.as_mut().map(|peer| peer.write(&bytes)) {
                    stream.inward.extend(&bytes[..written]);
                }
            }
            Call::PeerReads { at, bytes } => {
                let _ = self.streams[at].peer.as_mut().map(|peer| peer.read(&mut vec![0; bytes]));
            }
            Call::PeerLeaves { at } => self.streams[at].peer = None,
            Call::Next => {
                if let Some(completion) = self.port.next(Timeout::Now).unwrap() {
                    self.completed(completion);
                }
            }
        }
        assert_eq!(self.port.outstanding(), self.open.len() + self.posts.len());
    }

    fn next_byte(&mut self) -> u8 {
        self.byte = self.byte.wrapping_add(1);
        self.byte
    }

    /// The descriptor is closed as soon as `close` returns, whatever is outstanding.
    fn peer_sees_the_end(stream: Stream) {
        let Some(mut peer) = stream.peer else { return };
        let mut bytes = vec![0; 1 << 16];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => break,
                Ok(_) => assert!(stream.sent_any),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the peer is still connected: {error}"),
            }
        }
    }

    fn sending(&self, at: usize) -> (SocketId, u64, bool) {
        let stream = &self.streams[at];
        (stream.id, stream.key, stream.sending.is_some())
    }

    fn recv(&mut self, at: usize, room: usize) {
        let buffer = Vec::with_capacity(room);
        let (pointer, stream) = (buffer.as_ptr(), &mut self.streams[at]);
        let (id, key, busy) = (stream.id, stream.key, stream.receiving.is_some());
        match self.port.recv(id, buffer) {
            Ok(operation) => {
                assert!(!busy && room > 0);
                stream.receiving = Some(operation);
                self.accepted(operation, key, Open::Recv { buffer: pointer, room });
            }
            Err(refused) => {
                assert_eq!((refused.buffer.as_ptr(), refused.buffer.capacity()), (pointer, room));
                assert_eq!(refused.reason, if room == 0 { Reason::NoRoom } else { Reason::Busy });
                assert!(busy || room == 0);
            }
        }
    }

    fn send(&mut self, at: usize, bytes: usize) {
        let buffer = vec![at as u8; bytes];
        let pointer = buffer.as_ptr();
        let (id, key, busy) = self.sending(at);
        match self.port.send(id, buffer) {
            Ok(operation) => {
                assert!(!busy);
                let stream = &mut self.streams[at];
                (stream.sending, stream.sent_any) = (Some(operation), true);
                self.accepted(operation, key, Open::Send { buffer: pointer, bytes });
            }
            Err(refused) => {
                assert!(busy && refused.reason == Reason::Busy);
                assert_eq!((refused.buffer.as_ptr(), refused.buffer.len()), (pointer, bytes));
            }
        }
    }

    fn completed(&mut self, completion: Completion) {
        if matches!(completion.outcome, Outcome::Posted) {
            assert_eq!(self.posts.pop_front(), Some(completion.key), "posts come in order");
            return;
        }
        let operation = completion.operation;
        let open = self.open.remove(&operation);
        let (key, open) = open.unwrap_or_else(|| panic!("twice, or never accepted: {completion:?}"));
        assert_eq!(completion.key, key);
        let stream = self.streams.iter_mut().find(|stream| operation.socket() == Some(stream.id));
        match (open, completion.outcome) {
            (Open::Recv { buffer: pointer, room }, Outcome::Received { buffer, result }) => {
                assert_eq!((buffer.as_ptr(), buffer.capacity()), (pointer, room), "another buffer");
                assert_eq!(buffer.len(), *result.as_ref().unwrap_or(&0));
                let Some(stream) = stream else { return };
                assert_eq!(stream.receiving.take(), Some(operation));
                let expected: Vec<u8> = stream.inward.drain(..buffer.len()).collect();
                assert!(buffer == expected, "bytes were lost or out of order");
                if matches!(result, Ok(0)) {
                    assert!(stream.peer.is_none(), "the end of a stream that goes on");
                }
            }
            (Open::Send { buffer: pointer, bytes }, Outcome::Sent { buffer, sent, result }) => {
                assert_eq!((buffer.as_ptr(), buffer.len()), (pointer, bytes), "another buffer");
                assert!(result.is_err() && sent <= bytes || sent == bytes);
                if let Some(stream) = stream {
                    assert_eq!(stream.sending.take(), Some(operation));
                }
            }
            (Open::Shutdown, Outcome::ShutDown(_)) => {
                if let Some(stream) = stream {
                    assert_eq!(stream.sending.take(), Some(operation));
                }
            }
            (Open::Timer, Outcome::Timer(result)) => assert!(matches!(result, Ok(()) | Err(Failure::Cancelled))),
            (open, outcome) => panic!("{open:?} became {outcome:?}"),
        }
    }

    /// What can complete without anybody's help has completed, then everything else does.
    fn end(mut self) {
        while let Some(completion) = self.port.next(Timeout::Now).unwrap() {
            self.completed(completion);
        }
        for stream in &self.streams {
            let something = !stream.inward.is_empty() || stream.peer.is_none();
            assert!(!(something && stream.receiving.is_some()), "an operation waits for what is there");
        }
        self.port.end();
        loop {
            match self.port.next(Timeout::Never) {
                Ok(completion) => self.completed(completion.expect("no timeout")),
                Err(Error::Ended) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(self.open.is_empty() && self.posts.is_empty() && self.port.outstanding() == 0);
    }
}

proptest! {
    #[test]
    fn any_sequence_of_calls_keeps_the_contract(calls in prop::collection::vec(call(), 1..120)) {
        let mut model = Model::new();
        for call in &calls {
            model.make(call);
        }
        model.end();
    }
}
