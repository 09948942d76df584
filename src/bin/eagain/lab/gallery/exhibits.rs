//! The exhibits. Each repaired server is one of the two at the end of this file; what the broken one does otherwise
//! stands in its entry.

use std::os::fd::AsRawFd as _;

use eagain::sys::epoll::{Event, Mode};
use eagain::sys::net;

use super::hall::{Fate, Guest, LISTENER, Server};
use super::{Exhibit, traffic};

pub(super) const EXHIBITS: &[Exhibit] = &[
    Exhibit {
        name: "accept-once",
        mistake: "one accept for each edge",
        rule: "et-single-accept-strands",
        scene: "Three clients connect between two waits and say a byte each.",
        traffic: traffic::three_at_once,
        broken: Server {
            accept: |hall| {
                let _ = hall.accept_one();
            },
            ..EDGE
        },
        repaired: EDGE,
    },
    Exhibit {
        name: "recv-once",
        mistake: "one recv of 1,024 bytes for each edge",
        rule: "et-partial-read-stalls",
        scene: "A client says 2,048 bytes and waits for them to come back.",
        traffic: traffic::two_kilobytes,
        broken: Server {
            serve: |guest, _| {
                let mut piece = [0; 1024];
                match net::recv_slice(&guest.socket, &mut piece) {
                    Ok(0) => Fate::Close,
                    Ok(count) => {
                        let _ = net::send(&guest.socket, &piece[..count]);
                        Fate::Stay
                    }
                    Err(_) => Fate::Stay,
                }
            },
            ..EDGE
        },
        repaired: EDGE,
    },
    Exhibit {
        name: "equals-in",
        mistake: "the mask is compared by ==",
        rule: "equality-test-misses-combined-bits",
        scene: "A client says a request and its FIN in one breath, and waits for the answer.",
        traffic: traffic::request_and_fin,
        broken: Server {
            serve: |guest, event| if event.bits() == libc::EPOLLIN as u32 { echo(guest) } else { Fate::Stay },
            ..EDGE
        },
        repaired: EDGE,
    },
    Exhibit {
        name: "send-unchecked",
        mistake: "what send returns is ignored",
        rule: "short-send-loses-bytes",
        scene: "A client asks for eight megabytes.",
        traffic: traffic::eight_megabytes,
        broken: Server {
            serve: |guest, event| {
                if asked_for_much(guest) {
                    let _ = net::send(&guest.socket, &vec![b'.'; MUCH]);
                    return Fate::Stay;
                }
                serve(guest, event)
            },
            ..LEVEL
        },
        repaired: Server {
            serve: |guest, event| {
                if asked_for_much(guest) {
                    guest.queue.resize(MUCH, b'.');
                }
                serve(guest, event)
            },
            ..LEVEL
        },
    },
    Exhibit {
        name: "hup-after-in",
        mistake: "if IN … else if HUP: close",
        rule: "hup-branch-after-in-never-runs",
        scene: "A client resets its connection.",
        traffic: traffic::reset,
        broken: Server {
            serve: |guest, event| {
                if event.readable() {
                    let mut piece = [0; 1024];
                    if let Ok(count) = net::recv_slice(&guest.socket, &mut piece) {
                        let _ = net::send(&guest.socket, &piece[..count]);
                    }
                } else if event.hung_up() {
                    return Fate::Close;
                }
                Fate::Stay
            },
            ..EDGE
        },
        repaired: EDGE,
    },
    Exhibit {
        name: "no-eof",
        mistake: "recv of 0 bytes is taken for nothing to read",
        rule: "eof-is-level-ready-forever",
        scene: "A client closes; then nothing happens for 200 ms.",
        traffic: traffic::close_and_silence,
        broken: Server {
            serve: |guest, _| {
                let mut piece = [0; 1024];
                let _ = net::recv_slice(&guest.socket, &mut piece).and_then(|n| net::send(&guest.socket, &piece[..n]));
                Fate::Stay
            },
            ..LEVEL
        },
        repaired: LEVEL,
    },
    Exhibit {
        name: "unbounded-queue",
        mistake: "input is read although the answers do not go out",
        rule: "lt-in-kept-on-while-backlogged",
        scene: "A client sends as much as it can and never reads.",
        traffic: traffic::never_reads,
        broken: Server {
            serve: |guest, _| {
                let mut piece = [0; 65_536];
                while let Ok(count @ 1..) = net::recv_slice(&guest.socket, &mut piece) {
                    guest.queue.extend_from_slice(&piece[..count]);
                    let sent = net::send(&guest.socket, &guest.queue).unwrap_or(0);
                    guest.queue.drain(..sent);
                }
                Fate::Stay
            },
            ..EDGE
        },
        repaired: LEVEL,
    },
    Exhibit {
        name: "blocking-sockets",
        mistake: "reads until EAGAIN from a blocking socket",
        rule: "blocking-drain-loop-freezes",
        scene: "One client says a byte; then another one does.",
        traffic: traffic::one_after_the_other,
        broken: Server { blocking: true, ..EDGE },
        repaired: EDGE,
    },
    Exhibit {
        name: "fd-as-identity",
        mistake: "the data of a registration is its descriptor",
        rule: "stale-event-in-batch",
        scene: "Between two waits: a client has the next one evicted, a new one connects, and the evicted one leaves.",
        traffic: traffic::musical_chairs,
        broken: Server { identity: |_, socket| socket.as_raw_fd() as u64, serve: until_rdhup, ..EDGE },
        repaired: Server { serve: until_rdhup, ..EDGE },
    },
    Exhibit {
        name: "emfile-spin",
        mistake: "an accept that fails for want of descriptors is tried again at once",
        rule: "emfile-lt-spins",
        scene: "A client connects while no descriptor is free; then nothing happens for 200 ms.",
        traffic: traffic::no_descriptor_left,
        broken: Server { accept: |hall| while let Ok(true) = hall.accept_one() {}, ..LEVEL },
        repaired: LEVEL,
    },
    Exhibit {
        name: "no-budget",
        mistake: "reads one client until EAGAIN, however long that takes",
        rule: "flood-starves-neighbours",
        scene: "One client floods the server with input; another one says a byte and waits for it.",
        traffic: traffic::flood,
        broken: Server {
            serve: |guest, _| {
                let mut piece = [0; 64];
                while let Ok(1..) = net::recv_slice(&guest.socket, &mut piece) {
                    let _ = net::send(&guest.socket, &piece[..1]);
                }
                Fate::Stay
            },
            ..LEVEL
        },
        repaired: Server {
            serve: |guest, _| {
                let mut piece = [0; 64];
                if let Ok(0) = net::recv_slice(&guest.socket, &mut piece) {
                    return Fate::Close;
                }
                let _ = net::send(&guest.socket, &piece[..1]);
                Fate::Stay
            },
            ..LEVEL
        },
    },
    Exhibit {
        name: "truncated-timeout",
        mistake: "the time until the next timer is cut to milliseconds",
        rule: "ms-truncation-spins",
        scene: "A timer is due in 0.9 ms.",
        traffic: traffic::a_short_timer,
        broken: Server { patience: |due_us| (due_us / 1000) as i32, ..LEVEL },
        repaired: LEVEL,
    },
];

const MUCH: usize = 8 << 20;

// ---- the repaired ones --------------------------------------------------------------------------------------------

/// Edge-triggered: everything until EAGAIN.
const EDGE: Server = Server { door: Mode::EDGE, mode: Mode::EDGE, serve: |guest, _| echo(guest), ..LEVEL };

/// Level-triggered: a piece for each event, and no input while output waits.
const LEVEL: Server = Server {
    door: Mode::LEVEL,
    mode: Mode::LEVEL,
    blocking: false,
    accept: |hall| loop {
        match hall.accept_one() {
            Ok(true) => {}
            Ok(false) => return,
            // Out of descriptors: until one is free again there is nothing to be heard here.
            Err(_) => {
                let _ = hall.epoll.delete(&hall.listener);
                return;
            }
        }
    },
    serve,
    identity: |hall, _| {
        hall.next += 1;
        assert_ne!(hall.next, LISTENER);
        hall.next
    },
    patience: |due_us| due_us.div_ceil(1000) as i32,
};

/// Sends back all that there is to read.
fn echo(guest: &mut Guest) -> Fate {
    let mut piece = [0; 1024];
    loop {
        match net::recv_slice(&guest.socket, &mut piece) {
            Ok(0) => return Fate::Close,
            Ok(count) if piece[..count].starts_with(b"evict") => return Fate::CloseTheNext,
            Ok(count) => {
                let _ = net::send(&guest.socket, &piece[..count]);
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Fate::Stay,
            Err(_) => return Fate::Close,
        }
    }
}

/// Sends back all that there is to read, and closes when the event says that no more will come.
fn until_rdhup(guest: &mut Guest, event: Event) -> Fate {
    let fate = echo(guest);
    if event.read_closed() { Fate::Close } else { fate }
}

/// Sends what waits; if nothing does, reads a piece and answers it.
fn serve(guest: &mut Guest, _: Event) -> Fate {
    if guest.queue.is_empty() {
        let mut piece = [0; 65_536];
        match net::recv_slice(&guest.socket, &mut piece) {
            Ok(0) => return Fate::Close,
            Ok(count) => guest.queue.extend_from_slice(&piece[..count]),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(_) => return Fate::Close,
        }
    }
    match net::send(&guest.socket, &guest.queue) {
        Ok(sent) => drop(guest.queue.drain(..sent)),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
        Err(_) => return Fate::Close,
    }
    Fate::Stay
}

/// Whether the client has said `much`.
fn asked_for_much(guest: &Guest) -> bool {
    let mut word = [0; 4];
    guest.queue.is_empty() && net::recv_slice(&guest.socket, &mut word).is_ok_and(|count| &word[..count] == b"much")
}
