//! Servers that do wrong, each in one way. The load must see it, name it, and exit with 1.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, LazyLock, Mutex};
use std::thread;

use super::bench;

/// Bytes of a message in these tests.
const SIZE: usize = 64;

/// Serves each connection with `serve` in a thread of its own; the address.
fn server(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

/// Calls `answer` with the number and the bytes of each message; what it gives is sent.
fn answer_each(mut stream: TcpStream, answer: impl Fn(usize, &[u8]) -> Option<Vec<u8>>) {
    let mut message = [0; SIZE];
    for number in 0.. {
        if stream.read_exact(&mut message).is_err() {
            return;
        }
        match answer(number, &message) {
            Some(bytes) if stream.write_all(&bytes).is_ok() => {}
            _ => return,
        }
    }
}

/// The load fails with this cause, and nothing else.
#[track_caller]
fn caught(cause: &str, serve: fn(TcpStream), more: &[&str]) {
    let address = server(serve);
    // Only for what never comes: on a busy machine what comes may take a second.
    let timeout = if cause == "no_answer" { "1" } else { "60" };
    let args = ["--messages", "20", "--connections", "2", "--timeout", timeout, "--json", "-"];
    let told = bench(&[&[address.as_str()], &args[..], more].concat());
    assert_eq!(told.code, 1, "{}", told.stderr);
    let json = told.json();
    let causes = json["errors"]["by_cause"].as_object().expect("causes");
    assert_eq!(causes.keys().collect::<Vec<_>>(), [cause], "{json:#}");
    assert_eq!(json["errors"]["total"], 2, "{json:#}");
    assert!(json["errors"]["messages_lost"].as_u64() >= Some(2), "{json:#}");
    assert!(told.stderr.contains("failed: 2 "), "{}", told.stderr);
}

#[test]
fn one_wrong_bit_is_caught() {
    fn serve(stream: TcpStream) {
        answer_each(stream, |number, message| {
            let mut answer = message.to_vec();
            answer[SIZE / 2] ^= u8::from(number == 7);
            Some(answer)
        });
    }
    caught("corrupted", serve, &[]);
}

#[test]
fn an_answer_cut_short_is_caught() {
    fn closes(stream: TcpStream) {
        answer_each(stream, |number, message| if number < 7 { Some(message.to_vec()) } else { None });
    }
    caught("closed_early", closes, &[]);
    fn swallows(stream: TcpStream) {
        answer_each(stream, |number, message| Some(message[..if number < 7 { SIZE } else { SIZE - 1 }].to_vec()));
    }
    caught("no_answer", swallows, &[]);
}

#[test]
fn answers_in_another_order_are_caught() {
    fn serve(mut stream: TcpStream) {
        let mut pair = [0; 2 * SIZE];
        while stream.read_exact(&mut pair).is_ok() {
            pair.rotate_left(SIZE);
            if stream.write_all(&pair).is_err() {
                return;
            }
        }
    }
    caught("out_of_order", serve, &["--depth", "2"]);
}

#[test]
fn a_lost_answer_is_caught() {
    fn serve(stream: TcpStream) {
        answer_each(stream, |number, message| Some(if number == 7 { Vec::new() } else { message.to_vec() }));
    }
    caught("no_answer", serve, &[]);
    caught("out_of_order", serve, &["--depth", "4"]);
}

#[test]
fn an_answer_given_twice_is_caught() {
    fn serve(stream: TcpStream) {
        answer_each(stream, |number, message| Some(message.repeat(1 + usize::from(number == 7))));
    }
    caught("duplicated", serve, &["--depth", "2"]);
}

#[test]
fn an_answer_meant_for_a_neighbour_is_caught() {
    /// The messages of two connections, which change places.
    static BOTH: Mutex<[Vec<u8>; 2]> = Mutex::new([Vec::new(), Vec::new()]);
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    static IN_STEP: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    fn serve(stream: TcpStream) {
        let own = CONNECTIONS.fetch_add(1, Ordering::Relaxed) % 2;
        answer_each(stream, |_, message| {
            BOTH.lock().unwrap()[own] = message.to_vec();
            IN_STEP.wait();
            Some(BOTH.lock().unwrap()[1 - own].clone())
        });
    }
    caught("corrupted", serve, &[]);
}

#[test]
fn a_reset_is_caught() {
    fn serve(stream: TcpStream) {
        answer_each(
            stream.try_clone().unwrap(),
            |number, message| if number < 7 { Some(message.to_vec()) } else { None },
        );
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
    caught("reset", serve, &[]);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    fn serve(mut stream: TcpStream) {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    caught("no_answer", serve, &[]);
    caught("no_answer", serve, &["--rate", "1000"]);
}

#[test]
fn a_discard_that_talks_and_a_chargen_that_stammers_are_caught() {
    fn talks(mut stream: TcpStream) {
        let _ = stream.write_all(b"hello");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    fn stammers(mut stream: TcpStream) {
        while stream.write_all(b"aaaa").is_ok() {}
    }
    for (serve, service, cause) in [(talks as fn(TcpStream), "discard", "unasked"), (stammers, "chargen", "corrupted")]
    {
        let address = server(serve);
        let args = ["--service", service, "--duration", "2", "--warm-up", "0", "--connections", "2", "--json", "-"];
        let told = bench(&[&[address.as_str()], &args[..]].concat());
        assert_eq!(told.code, 1, "{}", told.stderr);
        assert_eq!(told.json()["errors"]["by_cause"][cause], 2, "{}", told.stdout);
    }
}
