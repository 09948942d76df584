//! Services by the harness (`eagain::harness`): any split, any short write, at any time, under both disciplines; and
//! the harness beside a real server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use eagain::harness::{CAPACITY_BYTES, Harness};
use eagain::limits::{INPUT_LIMIT_BYTES, OUTPUT_HIGH_WATER_BYTES, OUTPUT_LIMIT_BYTES};
use eagain::service::{Chargen, Delay, Echo, Frames};
use eagain::{Address, Client, Config, ConnectionId, End, Input, Listener, Next, Output, Server, Service, Trigger};
use proptest::collection::vec;
use proptest::prelude::*;

const BOTH: [Trigger; 2] = [Trigger::Level, Trigger::Edge];

/// Takes until nothing more comes.
fn take_all<S: Service>(harness: &mut Harness<S>, client: ConnectionId) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let taken = harness.take(client);
        if taken.is_empty() {
            return all;
        }
        all.extend(taken);
    }
}

/// Speaks first, answers each line with its length, keeps a count for each client, and takes its time with `wait`.
#[derive(Default)]
struct Clerk {
    closed: Vec<(usize, End)>,
    late: Vec<Vec<u8>>,
}

struct Desk {
    greeted: bool,
    lines: usize,
}

impl Service for Clerk {
    type Session = Desk;

    fn open(&mut self, _: &Client) -> Desk {
        Desk { greeted: false, lines: 0 }
    }

    fn room(&mut self, desk: &mut Desk, _: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        if !std::mem::replace(&mut desk.greeted, true) {
            output.write(b"hello\n");
        }
        Next::More
    }

    fn data(&mut self, desk: &mut Desk, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        while let Some(length) = input.iter().position(|&byte| byte == b'\n') {
            match &input[..length] {
                b"bye" => return Next::Finish,
                b"wait" => {
                    input.consume(length + 1);
                    return Next::At(output.now() + Duration::from_secs(60));
                }
                _ => {}
            }
            desk.lines += 1;
            output.write(format!("{} {length}\n", desk.lines).as_bytes());
            input.consume(length + 1);
        }
        Next::More
    }

    fn timer(&mut self, desk: &mut Desk, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        output.write(b"waited\n");
        self.data(desk, input, output)
    }

    fn close(&mut self, desk: Desk, _: &Client, end: End) {
        self.closed.push((desk.lines, end));
    }

    fn undelivered(&mut self, _: ConnectionId, bytes: &[u8]) {
        self.late.push(bytes.to_vec());
    }

    fn pack(&self, desk: &Desk, _: std::time::Instant) -> Option<Vec<u8>> {
        Some(vec![u8::from(desk.greeted), desk.lines as u8])
    }

    fn unpack(&mut self, _: &Client, packed: &[u8], _: std::time::Instant) -> Option<Desk> {
        let &[greeted, lines] = packed else { return None };
        Some(Desk { greeted: greeted != 0, lines: lines.into() })
    }
}

#[test]
fn a_service_speaks_first_and_is_told_of_every_end() {
    for trigger in BOTH {
        let mut harness = Harness::new(Clerk::default(), trigger);
        let (alice, bob, carol) = (harness.connect(), harness.connect(), harness.connect());
        assert_eq!(harness.take(alice), b"hello\n");
        harness.send(alice, b"a\nbye\n");
        assert_eq!(harness.take(alice), b"1 1\n");
        assert!(harness.has_finished(alice));
        assert_eq!(harness.end(alice), None, "it waits for the client's FIN");
        harness.shut_down(alice);
        harness.reset(bob);
        harness.close(carol);
        assert_eq!(
            harness.service().closed,
            [(1, End::Finished), (0, End::Broken(libc::ECONNRESET)), (0, End::Closed)],
            "{trigger:?}"
        );
        // What comes for those who have gone is told, or ignored.
        harness.deliver(bob, b"too late");
        harness.send(bob, b"nobody\n");
        assert_eq!(harness.service().late, [b"too late"]);
    }
}

#[test]
fn who_does_not_close_after_our_fin_is_closed_a_second_later() {
    for trigger in BOTH {
        let mut harness = Harness::new(Clerk::default(), trigger);
        let client = harness.connect();
        harness.drain(client);
        assert!(harness.has_finished(client));
        harness.advance(Duration::from_millis(900));
        assert_eq!(harness.end(client), None);
        harness.advance(Duration::from_millis(200));
        assert_eq!(harness.end(client), Some(End::Lingered), "{trigger:?}");
    }
}

#[test]
fn timers_come_in_their_order_and_not_a_millisecond_early() {
    for trigger in BOTH {
        let mut harness = Harness::new(Clerk::default(), trigger);
        let (first, second) = (harness.connect(), harness.connect());
        harness.send(first, b"wait\nthen\n");
        harness.advance(Duration::from_secs(30));
        harness.send(second, b"wait\n");
        let due = harness.deadline(first).unwrap() - harness.now();
        assert_eq!(due, Duration::from_secs(30));
        harness.advance(due - Duration::from_millis(1));
        assert_eq!(harness.take(first), b"hello\n");
        harness.advance(Duration::from_millis(1));
        assert_eq!(harness.take(first), b"waited\n1 4\n", "{trigger:?}");
        assert_eq!(harness.take(second), b"hello\n");
        harness.advance(Duration::from_secs(3600));
        assert_eq!(harness.take(second), b"waited\n");
    }
}

#[test]
fn a_timer_in_the_past_does_not_stop_the_time() {
    struct Restless(u32);
    impl Service for Restless {
        type Session = ();
        fn open(&mut self, _: &Client) {}
        fn data(&mut self, (): &mut (), _: &mut Input<'_>, output: &mut Output<'_>) -> Next {
            Next::At(output.now())
        }
        fn timer(&mut self, (): &mut (), _: &mut Input<'_>, output: &mut Output<'_>) -> Next {
            self.0 += 1;
            Next::At(output.now())
        }
    }
    let mut harness = Harness::new(Restless(0), Trigger::Edge);
    let client = harness.connect();
    harness.send(client, b"go");
    harness.advance(Duration::from_millis(10));
    assert!((10..=11).contains(&harness.service().0));
}

#[test]
fn a_client_that_takes_nothing_is_held_back_and_gets_everything_later() {
    for trigger in BOTH {
        let mut harness = Harness::new(Echo, trigger);
        let client = harness.connect();
        harness.capacity(client, 0);
        let mut sent = Vec::new();
        while harness.unreceived(client) == 0 {
            let piece: Vec<u8> = (0..10_007_usize).map(|at| ((at + sent.len()) % 251) as u8).collect();
            harness.send(client, &piece);
            sent.extend(piece);
            assert!(sent.len() < 2 * OUTPUT_HIGH_WATER_BYTES + INPUT_LIMIT_BYTES, "it is not held back");
        }
        assert!(harness.unsent(client) >= OUTPUT_HIGH_WATER_BYTES);
        harness.capacity(client, 4099);
        assert!(take_all(&mut harness, client) == sent, "{trigger:?}");
        assert_eq!((harness.unreceived(client), harness.unsent(client)), (0, 0));
    }
}

#[test]
fn other_threads_may_send_until_the_limit() {
    let mut harness = Harness::new(Echo, Trigger::Level);
    let client = harness.connect();
    harness.capacity(client, 0);
    harness.deliver(client, &vec![0; OUTPUT_LIMIT_BYTES]);
    assert_eq!(harness.end(client), None);
    harness.deliver(client, b"!");
    assert_eq!(harness.end(client), Some(End::TooSlow));
}

#[test]
fn what_has_no_end_stops_at_the_capacity() {
    for trigger in BOTH {
        let mut harness = Harness::new(Chargen, trigger);
        let client = harness.connect();
        assert_eq!(harness.take(client).len(), CAPACITY_BYTES);
        harness.capacity(client, 100);
        let _ = harness.take(client);
        assert_eq!(harness.take(client).len(), 100, "{trigger:?}");
    }
}

#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen() {
    for trigger in BOTH {
        let mut harness = Harness::new(Echo, trigger);
        let client = harness.connect_as("192.0.2.1:7".parse::<std::net::SocketAddr>().unwrap().into(), 0);
        harness.wake(client);
        harness.send_and_shut_down(client, b"last words");
        assert_eq!(harness.end(client), Some(End::Finished), "{trigger:?}");
        assert_eq!(harness.take(client), b"last words");
    }
}

#[test]
fn a_reset_is_told_while_an_answer_is_due_and_nothing_is_of_interest() {
    for trigger in BOTH {
        let mut harness = Harness::new(Delay::new(Duration::from_secs(60)), trigger);
        let client = harness.connect();
        harness.send_and_shut_down(client, b"question");
        assert_eq!(harness.end(client), None);
        harness.reset(client);
        assert_eq!(harness.end(client), Some(End::Broken(libc::ECONNRESET)), "{trigger:?}");
    }
}

#[test]
fn a_session_goes_on_after_a_restart_and_one_that_is_not_packed_stays() {
    let mut harness = Harness::new(Clerk::default(), Trigger::Level);
    let client = harness.connect();
    harness.send(client, b"one\ntw");
    assert!(harness.hand_over(client));
    harness.send(client, b"o\n");
    assert_eq!(harness.take(client), b"hello\n1 3\n2 3\n");
    let mut harness = Harness::new(Chargen, Trigger::Level);
    let client = harness.connect();
    let packs = harness.hand_over(client);
    assert_eq!((packs, harness.end(client)), (packs, None));
}

/// The same bytes, the same answers: the harness is no other server.
#[test]
fn a_real_server_answers_the_same() {
    let input = b"one\nthree\n\nfour\nbye\n";
    for trigger in BOTH {
        let mut harness = Harness::new(Clerk::default(), trigger);
        let client = harness.connect();
        harness.send(client, input);
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let Address::Tcp(address) = listener.address().clone() else { unreachable!() };
        let config = Config { trigger, ..Config::default() };
        let server = Server::start(config, vec![listener], |_| Clerk::default()).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(input).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        assert_eq!(harness.take(client), answers, "{trigger:?}");
        server.handle().shutdown();
        server.join().unwrap();
    }
}

// ---- any split, any short write ------------------------------------------------------------------------------------

/// What may happen between two pieces of a stream.
#[derive(Debug, Clone)]
enum Step {
    Send(usize),
    Take(usize),
    Wake,
    HandOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_usize..200).prop_map(Step::Send),
        3 => (0_usize..300).prop_map(Step::Take),
        1 => Just(Step::Wake),
        1 => Just(Step::HandOver),
    ];
    vec(step, 0..40)
}

/// What a client gets that sends `input` and its FIN, with these steps on the way.
fn outcome<S: Service>(service: S, trigger: Trigger, input: &[u8], steps: &[Step]) -> (Vec<u8>, Option<End>) {
    let mut harness = Harness::new(service, trigger);
    let client = harness.connect();
    let (mut left, mut got) = (input, Vec::new());
    for step in steps {
        match *step {
            Step::Send(count) => {
                let (piece, rest) = left.split_at(count.min(left.len()));
                harness.send(client, piece);
                left = rest;
            }
            Step::Take(capacity) => {
                got.extend(harness.take(client));
                harness.capacity(client, capacity);
            }
            Step::Wake => harness.wake(client),
            Step::HandOver => drop(harness.hand_over(client)),
        }
    }
    harness.send_and_shut_down(client, left);
    harness.capacity(client, CAPACITY_BYTES);
    got.extend(take_all(&mut harness, client));
    (got, harness.end(client))
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    // Frames of up to 300 bytes where 200 are allowed, and perhaps a piece of one at the end.
    let frame =
        vec(any::<u8>(), 0..300).prop_map(|payload| [&(payload.len() as u32).to_be_bytes()[..], &payload].concat());
    (vec(frame, 0..12), vec(any::<u8>(), 0..6)).prop_map(|(frames, rest)| [frames.concat(), rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_back_the_same_at_any_split(input in frames(), steps in steps()) {
        let plain = outcome(Frames::new(200), Trigger::Level, &input, &[]);
        for trigger in BOTH {
            prop_assert_eq!(&outcome(Frames::new(200), trigger, &input, &steps), &plain);
        }
    }

    #[test]
    fn an_echo_is_an_echo_at_any_split(input in vec(any::<u8>(), 0..4000), steps in steps()) {
        for trigger in BOTH {
            let (got, end) = outcome(Echo, trigger, &input, &steps);
            prop_assert_eq!(&got, &input);
            prop_assert_eq!(end, Some(End::Finished));
        }
    }

    #[test]
    fn lines_are_counted_the_same_at_any_split(input in "([a-z]{0,9}\n){0,30}[a-z]{0,3}", steps in steps()) {
        let plain = outcome(Clerk::default(), Trigger::Level, input.as_bytes(), &[]);
        for trigger in BOTH {
            prop_assert_eq!(&outcome(Clerk::default(), trigger, input.as_bytes(), &steps), &plain);
        }
    }
}
