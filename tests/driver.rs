//! Connections driven by hand (`eagain::driver`), one call at a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use eagain::driver::{AcceptError, Driven, Driver, Newcomer, Ready};
use eagain::service::{Chargen, Delay, Echo};
use eagain::sys::epoll::Interest;
use eagain::{Address, End, Listener, Service};

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
