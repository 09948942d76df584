//! Connections that move from one server to another, in one process: what `Handle::hand_over` takes out,
//! `Handle::resume` goes on with.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use eagain::service::{Chargen, Delay, Discard, Echo, Frames, Proxied};
use eagain::{
    Client, Config, End, Handle, Input, Listener, Next, Output, Parcel, ParcelError, Server, Service, Trigger,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn configs() -> [Config; 4] {
    [(Trigger::Level, 1), (Trigger::Edge, 1), (Trigger::Level, 2), (Trigger::Edge, 2)]
        .map(|(trigger, workers)| Config { trigger, workers, ..Config::default() })
}

/// A server of one service, and one more listener for its successor.
fn serve<S: Service + 'static>(
    config: Config,
    service: impl Fn() -> S + Send + Sync + 'static,
) -> (Server, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::start(config, vec![Listener::try_from(listener).unwrap()], move |_| service()).unwrap();
    (server, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[track_caller]
fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut seen = vec![0; bytes.len()];
    stream.read_exact(&mut seen).unwrap();
    assert!(seen == bytes, "other bytes than expected");
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes everything out of a server, through bytes as another process would see it, and puts it into the other one.
fn move_all(old: Server, new: &Server) -> usize {
    let parcels: Vec<Parcel> = old.handle().hand_over(PATIENCE).into_iter().flatten().collect();
    old.join().unwrap();
    let count = parcels.len();
    for parcel in parcels {
        let (socket, state) = parcel.into_parts();
        new.handle().resume(Parcel::from_parts(0, socket, &state).unwrap()).unwrap();
    }
    count
}

#[test]
fn half_a_frame_is_completed_with_the_other_server() {
    for from in configs() {
        for to in configs() {
            let (old, address) = serve(from.clone(), Frames::default);
            let (new, _) = serve(to, Frames::default);
            let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
            for (index, client) in clients.iter_mut().enumerate() {
                client.write_all(&[0, 0, 0, 1, 9]).unwrap();
                expect(client, &[0, 0, 0, 1, 9]);
                // Cut in the header, or in the payload, or not at all.
                client.write_all(&[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][..index % 12]).unwrap();
            }
            assert_eq!(move_all(old, &new), 20);
            for (index, client) in clients.iter_mut().enumerate() {
                client.write_all(&[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][index % 12..]).unwrap();
                expect(client, &[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
            }
            // A worker publishes at the end of the turn in which it has answered us.
            eventually("all are open there", || new.handle().counters().open == 20);
        }
    }
}

#[test]
fn an_answer_that_was_not_taken_is_sent_by_the_other_server() {
    for config in configs() {
        let (old, address) = serve(config.clone(), || Frames::new(8 << 20));
        let (new, _) = serve(config, || Frames::new(8 << 20));
        let mut client = connect(address);
        let mut frame = (6_u32 << 20).to_be_bytes().to_vec();
        frame.extend((0..6 << 20).map(|i: u32| (i * 7 / 5) as u8));
        client.write_all(&frame).unwrap();
        // More than the sockets hold: the rest is the server's.
        eventually("the answer is on its way", || old.handle().counters().sent_bytes > 0);
        assert_eq!(move_all(old, &new), 1);
        expect(&mut client, &frame);
        client.write_all(&[0, 0, 0, 0]).unwrap();
        expect(&mut client, &[0, 0, 0, 0]);
    }
}

#[test]
fn a_client_that_has_said_its_last_word_gets_the_rest_and_a_fin() {
    for config in configs() {
        let (old, address) = serve(config.clone(), || Delay::new(Duration::from_millis(300)));
        let (new, _) = serve(config, || Delay::new(Duration::from_millis(300)));
        let mut client = connect(address);
        client.write_all(b"late").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        eventually("it has arrived", || old.handle().counters().received_bytes == 4);
        assert_eq!(move_all(old, &new), 1);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"late");
    }
}

#[test]
fn what_is_endless_goes_on_where_it_was() {
    for config in configs() {
        let (old, address) = serve(config.clone(), Chargen::default);
        let (new, _) = serve(config, Chargen::default);
        let mut client = connect(address);
        let mut text = vec![0; 1 << 20];
        client.read_exact(&mut text[..1000]).unwrap();
        assert_eq!(move_all(old, &new), 1);
        client.read_exact(&mut text[1000..]).unwrap();
        for (number, line) in text.chunks_exact(74).enumerate() {
            let expected = (0..72).map(|column| b' ' + ((number + column) % 95) as u8);
            assert!(line[..72].iter().copied().eq(expected) && line.ends_with(b"\r\n"), "line {number}");
        }
    }
}

#[test]
fn a_client_behind_a_proxy_keeps_its_address() {
    /// Answers everything with the address of the client.
    struct Who;
    impl Service for Who {
        type Session = ();
        fn open(&mut self, _: &Client) {}
        fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
            input.consume(input.len());
            let peer = output.client().peer.to_string();
            output.write(peer.as_bytes());
            Next::More
        }
        fn pack(&self, (): &(), _: Instant) -> Option<Vec<u8>> {
            Some(Vec::new())
        }
        fn unpack(&mut self, _: &Client, _: &[u8], _: Instant) -> Option<()> {
            Some(())
        }
    }
    let service = || Proxied::new(Who, |_, _| {});
    for config in configs() {
        let (old, address) = serve(config.clone(), service);
        let (new, _) = serve(config, service);
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 7\r\n";
        let (mut whole, mut cut) = (connect(address), connect(address));
        whole.write_all(header).unwrap();
        whole.write_all(b"?").unwrap();
        expect(&mut whole, b"192.0.2.7:1234");
        cut.write_all(&header[..20]).unwrap();
        eventually("both have arrived", || old.handle().counters().received_bytes == header.len() as u64 + 21);
        assert_eq!(move_all(old, &new), 2);
        whole.write_all(b"?").unwrap();
        expect(&mut whole, b"192.0.2.7:1234");
        cut.write_all(&header[20..]).unwrap();
        cut.write_all(b"?").unwrap();
        expect(&mut cut, b"192.0.2.7:1234");
    }
}

#[test]
fn clients_that_nobody_has_accepted_yet_move_too() {
    for config in configs() {
        let (old, address) = serve(config.clone(), Echo::default);
        let (new, _) = serve(config, Echo::default);
        let mut clients: Vec<TcpStream> = (0..50).map(|_| connect(address)).collect();
        assert_eq!(move_all(old, &new), 50);
        for client in &mut clients {
            client.write_all(b"here").unwrap();
            expect(client, b"here");
        }
    }
}

#[test]
fn a_session_that_cannot_be_packed_is_drained() {
    /// As [`Echo`], but it does not know how to travel.
    struct Settled;
    impl Service for Settled {
        type Session = ();
        fn open(&mut self, _: &Client) {}
        fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
            output.forward(input, input.len());
            Next::More
        }
    }
    let (old, address) = serve(Config::default(), || Settled);
    let (new, _) = serve(Config::default(), || Settled);
    let mut client = connect(address);
    client.write_all(b"last words").unwrap();
    assert_eq!(move_all(old, &new), 0);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"last words");
}

#[test]
fn a_watcher_that_keeps_its_connection_open_holds_nobody_up() {
    /// Serves, cannot travel, and tells how each connection ended.
    struct Told(Sender<End>);
    impl Service for Told {
        type Session = ();
        fn open(&mut self, _: &Client) {}
        fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
            output.forward(input, input.len());
            Next::More
        }
        fn close(&mut self, (): (), _: &Client, end: End) {
            let _ = self.0.send(end);
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Listener::try_from(listener).unwrap().stay_while_draining();
    let (ends, ended) = channel();
    let ends = Mutex::new(ends);
    let service = move |_: &Handle| Told(ends.lock().unwrap().clone());
    let server = Server::start(Config::default(), vec![listener], service).unwrap();
    let mut watcher = connect(address);
    watcher.write_all(b"well?").unwrap();
    expect(&mut watcher, b"well?");
    assert_eq!(server.handle().hand_over(PATIENCE).into_iter().count(), 0);
    // Not Lingered: nobody has waited for it to close.
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), End::Stopped);
    server.join().unwrap();
}

#[test]
fn a_session_of_another_service_is_refused_and_costs_nobody_else_anything() {
    let (old, address) = serve(Config::default(), Chargen::default);
    let (new, others) = serve(Config::default(), Discard::default);
    let mut neighbour = connect(others);
    let mut client = connect(address);
    client.read_exact(&mut [0; 74]).unwrap();
    assert_eq!(move_all(old, &new), 1);
    eventually("it is refused", || new.handle().counters().refused == 1);
    // It ends, in whatever way, behind what was on its way.
    let _ = client.read_to_end(&mut Vec::new());
    neighbour.write_all(b"still here").unwrap();
    eventually("the neighbour is served", || new.handle().counters().received_bytes == 10);
    let counters = new.handle().counters();
    assert_eq!((counters.accepted, counters.open, counters.closed), (2, 1, 1));
}

#[test]
fn what_is_no_state_is_no_parcel() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = Parcel::from_parts(0, ours.try_clone().unwrap().into(), b"").unwrap_err();
    assert!(matches!(error, ParcelError::Malformed), "{error}");
    let error = Parcel::from_parts(0, ours.into(), &[77, 1, 2]).unwrap_err();
    assert!(matches!(error, ParcelError::Version(77)), "{error}");
}

#[test]
fn listeners_come_and_go_while_their_clients_stay() {
    for config in configs() {
        let (server, first) = serve(config, Echo::default);
        let mut old = connect(first);
        old.write_all(b"1").unwrap();
        expect(&mut old, b"1");

        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = second.local_addr().unwrap();
        let index = server.handle().open(Listener::try_from(second).unwrap()).unwrap();
        assert_eq!(index, 1);
        let mut new = connect(address);
        new.write_all(b"2").unwrap();
        expect(&mut new, b"2");

        server.handle().shut(0);
        eventually("nobody listens there", || TcpStream::connect(first).is_err());
        for client in [&mut old, &mut new] {
            client.write_all(b"3").unwrap();
            expect(client, b"3");
        }

        let again = TcpListener::bind(first).unwrap_or_else(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = again.local_addr().unwrap();
        server.handle().open_again(0, Listener::try_from(again).unwrap());
        let mut third = connect(address);
        third.write_all(b"4").unwrap();
        expect(&mut third, b"4");
    }
}
