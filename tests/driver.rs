//! Connections driven by hand (`eagain::driver`), one call at a time: on sockets, and on bytes alone.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use eagain::buffer::ByteQueue;
use eagain::driver::{AcceptError, Driven, Driver, Newcomer, Ready, Wire};
use eagain::harness::Harness;
use eagain::limits::OUTPUT_HIGH_WATER_BYTES;
use eagain::service::{Chargen, Delay, Discard, Echo, Frames};
use eagain::sys::epoll::Interest;
use eagain::{Address, Client, End, Input, Listener, Next, Output, Peer, Service, Trigger};
use proptest::collection::vec;
use proptest::prelude::*;

const READABLE: Ready = Ready { readable: true, writable: false, hung_up: false, error: false };
const WRITABLE: Ready = Ready { readable: false, writable: true, hung_up: false, error: false };

fn open<S: Service>(driver: &mut Driver<S>) -> (UnixStream, Driven<S>) {
    let (client, ours) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut driven = driver.open(Newcomer::new(ours).unwrap(), 0);
    driver.turn(&mut driven, Ready::default()).unwrap();
    (client, driven)
}

#[test]
fn a_client_that_does_not_read_is_not_read_and_gets_everything_later() {
    let mut driver = Driver::new(Echo, Instant::now());
    let (mut client, mut driven) = open(&mut driver);
    assert_eq!(driven.interest(), Interest::READ);
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while driven.interest().contains(Interest::READ) {
        sent += client.write(&[7; 4096]).unwrap_or(0);
        driver.turn(&mut driven, READABLE).unwrap();
    }
    assert_eq!(driven.interest(), Interest::WRITE);
    let (mut received, mut buffer) = (0, vec![0; 65_536]);
    while received < sent {
        received += client.read(&mut buffer).unwrap_or(0);
        driver.turn(&mut driven, WRITABLE).unwrap();
        if driven.interest().contains(Interest::READ) {
            driver.turn(&mut driven, READABLE).unwrap();
        }
    }
    assert_eq!((received, driven.interest()), (sent, Interest::READ));
}

#[test]
fn a_timer_is_a_deadline_and_time_is_what_the_loop_says() {
    let start = Instant::now();
    let mut driver = Driver::new(Delay::new(Duration::from_secs(3600)), start);
    let (mut client, mut driven) = open(&mut driver);
    assert_eq!(driver.deadline(&driven), None);
    client.write_all(b"late").unwrap();
    driver.turn(&mut driven, READABLE).unwrap();
    let deadline = driver.deadline(&driven).expect("an answer is due");
    assert!(deadline >= start + Duration::from_secs(3600));
    assert!(!driven.may_end(true), "something is due");
    driver.begin(deadline);
    driver.expire(&mut driven).unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"late");
    assert_eq!(driver.deadline(&driven), None);
}

#[test]
fn the_end_of_the_client_ends_the_turn_and_finish_lingers_for_it() {
    let mut driver = Driver::new(Echo, Instant::now());
    let (client, mut driven) = open(&mut driver);
    drop(client);
    let end = driver.turn(&mut driven, READABLE).unwrap_err();
    assert_eq!(end, End::Finished);
    driver.close(driven, end);

    let (mut client, mut driven) = open(&mut driver);
    driver.finish(&mut driven).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "our FIN");
    let deadline = driver.deadline(&driven).expect("it lingers for a second");
    driver.begin(deadline);
    assert_eq!(driver.expire(&mut driven), Err(End::Lingered));
}

#[test]
fn a_hang_up_is_told_where_nothing_else_would_tell() {
    let mut driver = Driver::new(Delay::new(Duration::from_secs(3600)), Instant::now());
    let (mut client, mut driven) = open(&mut driver);
    client.write_all(b"nobody will read the answer").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    driver.turn(&mut driven, READABLE).unwrap();
    driver.turn(&mut driven, READABLE).unwrap();
    assert_eq!(driven.interest(), Interest::NONE);
    drop(client);
    let ready = Ready { readable: true, writable: true, hung_up: true, error: false };
    assert!(matches!(driver.turn(&mut driven, ready), Err(End::Broken(_))));
}

#[test]
fn a_blocking_connection_sleeps_in_its_turn() {
    let mut driver = Driver::new(Delay::new(Duration::from_millis(1)), Instant::now());
    let (mut client, ours) = UnixStream::pair().unwrap();
    let mut driven = driver.open(Newcomer::new(ours).unwrap().into_blocking().unwrap(), 0);
    let sender = std::thread::spawn(move || {
        client.write_all(b"late").unwrap();
        client
    });
    let before = Instant::now();
    driver.turn_that_blocks(&mut driven, READABLE).unwrap();
    // The time of the turn is that after `recv`, or the answer would be due too early.
    assert!(driver.deadline(&driven).expect("an answer is due") > before + Duration::from_millis(1));
    drop(sender.join().unwrap());
}

#[test]
fn a_service_speaks_first_and_ends_at_a_drain() {
    let mut driver = Driver::new(Chargen, Instant::now());
    let (mut client, mut driven) = open(&mut driver);
    let mut line = [0; 74];
    client.read_exact(&mut line).unwrap();
    assert!(line.starts_with(b" !\"#"));
    assert!(driven.may_end(false), "endless by nature");
}

#[test]
fn newcomers_come_one_by_one_and_then_nobody() -> Result<(), AcceptError> {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    assert!(Newcomer::accept(&listener)?.is_none());
    let Address::Tcp(address) = listener.address() else { unreachable!() };
    let clients = [(); 2].map(|()| std::net::TcpStream::connect(address).unwrap());
    let peers = [(); 2].map(|()| Newcomer::accept(&listener).unwrap().expect("it waits").peer().ip());
    assert_eq!(peers, clients.each_ref().map(|client| client.local_addr().ok()));
    assert!(Newcomer::accept(&listener)?.is_none());
    Ok(())
}

#[test]
fn what_accept_said_to_somebody_else_is_told_apart_too() {
    let of = |errno| AcceptError::from(std::io::Error::from_raw_os_error(errno));
    // Those that end with time, or with a second try.
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::ECONNABORTED] {
        assert!(matches!(of(errno), AcceptError::Exhausted(told) if told == errno), "{errno}");
    }
    assert!(matches!(of(libc::EINVAL), AcceptError::Broken(libc::EINVAL)));
}

#[test]
fn a_newcomer_comes_apart_into_its_socket_and_its_peer() {
    let (mut client, theirs) = UnixStream::pair().unwrap();
    let (socket, peer) = Newcomer::new(theirs).unwrap().into_parts();
    assert_eq!(peer, Peer::UNIX);
    eagain::sys::net::send(&socket, b"hello").unwrap();
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
}

// ---- without a socket ----------------------------------------------------------------------------------------------

/// A connection on bytes that has had its first turn.
fn open_wire<S: Service>(driver: &mut Driver<S>, capacity: usize) -> Driven<S, Wire> {
    let mut driven = driver.open_wire(Peer::UNIX, 0, capacity);
    driver.turn_with(&mut driven, &mut ByteQueue::new()).unwrap();
    driven
}

/// All that can be sent is sent, turn by turn; returns it.
fn send_all<S: Service>(
    driver: &mut Driver<S>,
    driven: &mut Driven<S, Wire>,
    input: &mut ByteQueue,
) -> Result<Vec<u8>, (Vec<u8>, End)> {
    let mut all = Vec::new();
    while !driven.output().is_empty() {
        let output = driven.take_output();
        driven.sent(output.len());
        all.extend(output);
        if let Err(end) = driver.turn_with(driven, input) {
            return Err((all, end));
        }
    }
    Ok(all)
}

#[test]
fn while_answers_wait_no_input_is_taken_and_each_place_is_bounded() {
    const CAPACITY: usize = 1000;
    let mut driver = Driver::new(Echo, Instant::now());
    let mut driven = open_wire(&mut driver, CAPACITY);
    let mut input = ByteQueue::from(vec![7; 1_000_000]);
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert!(!driven.wants_input());
    assert_eq!(driven.output().len(), CAPACITY);
    let taken = 1_000_000 - input.len();
    // One receive passes the mark, and the next is not made.
    assert!((OUTPUT_HIGH_WATER_BYTES..OUTPUT_HIGH_WATER_BYTES + 128 * 1024).contains(&taken), "{taken}");
    // What was taken is not yet sent: it counts all the same.
    assert_eq!(driven.take_output().len(), CAPACITY);
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert_eq!((driven.output().len(), input.len()), (0, 1_000_000 - taken));
    // A part of it is sent, and as much goes on.
    driven.sent(10);
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert_eq!(driven.output().len(), 10);
    driven.sent(CAPACITY - 10);
    driver.turn_with(&mut driven, &mut input).unwrap();
    let rest = send_all(&mut driver, &mut driven, &mut input).unwrap();
    assert_eq!(rest.len(), 1_000_000 - CAPACITY);
    assert!(driven.wants_input() && input.is_empty());
}

#[test]
fn a_turn_takes_all_of_its_input_however_long_if_nothing_holds_it_back() {
    let mut driver = Driver::new(Discard, Instant::now());
    let mut driven = open_wire(&mut driver, 1);
    let mut input = ByteQueue::from(vec![7; 3_000_000]);
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert!(input.is_empty() && driven.wants_input());
}

#[test]
fn output_can_be_sent_from_where_it_is() {
    let mut driver = Driver::new(Echo, Instant::now());
    let mut driven = open_wire(&mut driver, 100);
    let mut input = ByteQueue::from(b"one two three".to_vec());
    driver.turn_with(&mut driven, &mut input).unwrap();
    driven.sent(4);
    assert_eq!(driven.output(), b"two three");
    // What is taken now is older than what comes: so many bytes that are sent are bytes of it.
    assert_eq!(driven.take_output(), b"two three");
    input.push(b" four");
    driver.turn_with(&mut driven, &mut input).unwrap();
    driven.sent(9);
    assert_eq!(driven.output(), b" four");
    driven.sent(1);
    assert_eq!(driven.output(), b"four");
}

#[test]
fn a_capacity_of_nothing_is_one_byte_and_more_than_there_is_cannot_be_sent() {
    let mut driver = Driver::new(Echo, Instant::now());
    let mut driven = open_wire(&mut driver, 0);
    let mut input = ByteQueue::from(b"abc".to_vec());
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert_eq!(driven.output(), b"a");
    driven.sent(usize::MAX);
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert_eq!(send_all(&mut driver, &mut driven, &mut input).unwrap(), b"bc");
    driven.sent(1);
    assert!(driven.output().is_empty() && driven.wants_input());
}

#[test]
fn the_end_and_our_fin_come_behind_what_is_under_way() {
    let mut driver = Driver::new(Echo, Instant::now());
    let mut driven = open_wire(&mut driver, 100);
    let mut input = ByteQueue::from(b"last words".to_vec());
    driven.end_input();
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert_eq!(driven.take_output(), b"last words");
    assert!(!driven.wants_input() && !driven.may_end(true));
    // A socket would have them by now; here they could still be lost.
    driver.turn_with(&mut driven, &mut input).unwrap();
    driven.sent(9);
    driver.turn_with(&mut driven, &mut input).unwrap();
    driven.sent(1);
    assert_eq!(driver.turn_with(&mut driven, &mut input), Err(End::Finished));
    driver.close(driven, End::Finished);

    // The same when we are first.
    let mut driven = open_wire(&mut driver, 100);
    input.push(b"answered");
    driver.turn_with(&mut driven, &mut input).unwrap();
    driver.finish(&mut driven).unwrap();
    assert!(!driven.has_finished() && driver.deadline(&driven).is_none());
    assert_eq!(driven.take_output(), b"answered");
    driven.sent(8);
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert!(driven.has_finished() && driven.wants_input());
    // What the peer sends then is thrown away, until its end or the deadline.
    input.push(b"too late");
    driver.turn_with(&mut driven, &mut input).unwrap();
    assert!(input.is_empty() && driven.output().is_empty());
    let deadline = driver.deadline(&driven).expect("it lingers for a second");
    driver.begin(deadline);
    assert_eq!(driver.expire(&mut driven), Err(End::Lingered));
}

/// Takes its input when a timer comes, and until then no more than 10 bytes of it.
struct Later;

impl Service for Later {
    type Session = ();

    fn open(&mut self, _: &Client) {}

    fn data(&mut self, (): &mut (), _: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        Next::At(output.now() + Duration::from_secs(1))
    }

    fn timer(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        output.forward(input, input.len());
        Next::More
    }

    fn input_limit(&self, (): &()) -> usize {
        10
    }
}

#[test]
fn the_end_of_the_input_is_not_seen_before_the_rest_of_it() {
    const BYTES: usize = 1_000_000;
    let mut driver = Driver::new(Later, Instant::now());
    let mut driven = open_wire(&mut driver, BYTES);
    let mut input = ByteQueue::from(vec![7; BYTES]);
    driven.end_input();
    driver.turn_with(&mut driven, &mut input).unwrap();
    let mut answer = Vec::new();
    while !input.is_empty() {
        assert!(!driven.wants_input());
        let deadline = driver.deadline(&driven).expect("the rest is due");
        driver.begin(deadline);
        driver.expire(&mut driven).unwrap();
        answer.extend(send_all(&mut driver, &mut driven, &mut input).unwrap());
    }
    let deadline = driver.deadline(&driven).expect("the last of it");
    driver.begin(deadline);
    driver.expire(&mut driven).unwrap();
    let Err((last, End::Finished)) = send_all(&mut driver, &mut driven, &mut input) else { panic!("it goes on") };
    assert_eq!(answer.len() + last.len(), BYTES);
}

#[test]
fn a_service_speaks_first_within_the_capacity_and_ends_at_a_drain() {
    let mut driver = Driver::new(Chargen, Instant::now());
    let mut driven = open_wire(&mut driver, 740);
    assert_eq!(driven.output().len(), 740);
    let before = driven.take_output();
    driven.sent(740);
    driver.turn_with(&mut driven, &mut ByteQueue::new()).unwrap();
    assert!(before.starts_with(b" !\"#") && driven.output().starts_with(b"*+,-"), "it goes on where it was");
    assert!(driven.may_end(false), "endless by nature");
}

/// What happens to a connection, by a harness and by bytes.
#[derive(Clone, Debug)]
enum Event {
    /// A byte, so many times.
    Arrives(u8, usize),
    /// All that is on its way to the client gets there.
    Takes,
    Passes(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let arrives = (any::<u8>(), prop_oneof![1_usize..20, 1_usize..100_000]);
    prop_oneof![
        3 => arrives.prop_map(|(byte, times)| Event::Arrives(byte, times)),
        3 => Just(Event::Takes),
        1 => (0_u64..30).prop_map(Event::Passes),
    ]
}

/// The harness, which the tests of services rely on, and the driver: the same bytes, the same end.
fn agree<S: Service>(service: fn() -> S, capacity: usize, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut harness = Harness::new(service(), Trigger::Edge);
    let client = harness.connect();
    harness.capacity(client, capacity);
    let mut now = Instant::now();
    let mut driver = Driver::new(service(), now);
    let mut driven = open_wire(&mut driver, capacity);
    let (mut input, mut ended) = (ByteQueue::new(), None);
    let closing = [Event::Takes, Event::Passes(50)];
    let last = closing.iter().cycle().take(400).cloned();
    for event in events.into_iter().chain(last) {
        let turned = match event {
            Event::Arrives(byte, times) => {
                let bytes = vec![byte; times];
                harness.send(client, &bytes);
                if ended.is_none() {
                    input.push(&bytes);
                }
                Ok(())
            }
            Event::Takes => {
                let (one, other) = (harness.take(client), driven.take_output());
                prop_assert!(one == other, "{} bytes, {} bytes", one.len(), other.len());
                driven.sent(other.len());
                Ok(())
            }
            Event::Passes(millis) => {
                let step = Duration::from_millis(millis);
                harness.advance(step);
                now += step;
                let mut result = Ok(());
                while result.is_ok() && driver.deadline(&driven).is_some_and(|due| due <= now) {
                    driver.begin(driver.deadline(&driven).unwrap());
                    result = driver.expire(&mut driven);
                    result = result.and_then(|()| driver.turn_with(&mut driven, &mut input));
                }
                driver.begin(now);
                result
            }
        };
        if ended.is_none() {
            ended = turned.and_then(|()| driver.turn_with(&mut driven, &mut input)).err();
        }
        if ended.is_none() && harness.end(client).is_none() && !harness.has_finished(client) {
            prop_assert_eq!(harness.unreceived(client), input.len());
        }
    }
    // The harness ends earlier: what was sent is with its kernel.
    if capacity >= 20_000 {
        prop_assert_eq!(harness.end(client), ended);
        prop_assert!(ended.is_some() || input.is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_and_the_harness_agree(
        capacity in prop_oneof![1_usize..100, 20_000_usize..200_000],
        events in vec(event(), 1..40),
    ) {
        agree(|| Echo, capacity, events.clone())?;
        agree(|| Frames::new(1000), capacity, events.clone())?;
        agree(|| Delay::new(Duration::from_millis(10)), capacity, events)?;
    }
}

/// Says by which listener the client came, as told when it came and as told now.
struct Door;

impl Service for Door {
    type Session = usize;

    fn open(&mut self, client: &Client) -> usize {
        client.listener
    }

    fn data(&mut self, door: &mut usize, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        input.consume(input.len());
        let told = format!("{door} {}", output.client().listener);
        output.write(told.as_bytes());
        Next::More
    }
}

#[test]
fn the_index_of_a_listener_is_the_same_throughout_and_ends_at_65_535() {
    let mut driver = Driver::new(Door, Instant::now());
    for (given, told) in [(0, "0 0"), (65_535, "65535 65535"), (70_000, "65535 65535")] {
        let mut driven = driver.open_wire(Peer::UNIX, given, 100);
        driver.turn_with(&mut driven, &mut ByteQueue::from(vec![b'?'])).unwrap();
        assert_eq!(driven.output(), told.as_bytes());
    }
}
