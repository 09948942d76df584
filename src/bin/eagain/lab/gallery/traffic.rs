//! What the clients of the gallery do, and how they fared.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eagain::sys::raw;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;

use super::hall::Live;

/// How it went, as a client or an operator would tell it.
pub(super) struct Result {
    pub(super) well: bool,
    pub(super) text: String,
}

fn result(well: bool, text: String) -> io::Result<Result> {
    Ok(Result { well, text })
}

/// An answer that has not come by then will not come.
const PATIENCE: Duration = Duration::from_secs(1);
/// A loop that goes round more often than this in 200 ms of silence spins.
const A_FEW_TURNS: u64 = 20;

fn client(live: &Live) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(live.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How many bytes come, of so many, before there is silence.
fn heard(mut stream: &TcpStream, of: usize) -> usize {
    let (mut sum, mut piece) = (0, vec![0; 65_536]);
    while sum < of {
        match stream.read(&mut piece) {
            Ok(count @ 1..) => sum += count,
            _ => break,
        }
    }
    sum
}

/// Gives the server time to see what was done; it has nothing else to do.
fn until(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !done() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    done()
}

/// Ends the client's direction, and waits until the server's kernel knows.
fn send_fin(client: &TcpStream) -> io::Result<()> {
    /// Our FIN is acknowledged and the peer's has not come: TCP_FIN_WAIT2 of include/net/tcp_states.h.
    const FIN_WAIT_2: u8 = 5;
    client.shutdown(Shutdown::Write)?;
    until(|| raw::tcp_info(client).is_ok_and(|info| info.tcpi_state == FIN_WAIT_2));
    Ok(())
}

pub(super) fn three_at_once(live: &Live) -> io::Result<Result> {
    let paused = live.pause();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = client(live)?;
        client.write_all(b"x")?;
        clients.push(client);
    }
    until(|| raw::tcp_info(&live.listener).is_ok_and(|info| info.tcpi_unacked == 3));
    drop(paused);
    let answered = clients.iter().filter(|client| heard(client, 1) == 1).count();
    result(answered == 3, format!("{answered} of 3 clients are answered"))
}

pub(super) fn two_kilobytes(live: &Live) -> io::Result<Result> {
    let mut client = client(live)?;
    client.write_all(&[b'x'; 2048])?;
    let back = heard(&client, 2048);
    result(back == 2048, format!("{back} of 2048 bytes come back"))
}

pub(super) fn request_and_fin(live: &Live) -> io::Result<Result> {
    let mut client = client(live)?;
    client.write_all(b"x")?;
    heard(&client, 1);
    let paused = live.pause();
    client.write_all(b"request")?;
    send_fin(&client)?;
    drop(paused);
    let back = heard(&client, 7);
    result(back == 7, format!("{back} of 7 bytes of the answer come"))
}

pub(super) fn eight_megabytes(live: &Live) -> io::Result<Result> {
    const MUCH: usize = 8 << 20;
    let mut client = client(live)?;
    client.write_all(b"much")?;
    // Only now does the client begin to read: the network is slower than the server.
    std::thread::sleep(Duration::from_millis(100));
    let came = heard(&client, MUCH);
    result(came == MUCH, format!("{came} of {MUCH} bytes come"))
}

pub(super) fn reset(live: &Live) -> io::Result<Result> {
    let mut client = client(live)?;
    client.write_all(b"x")?;
    heard(&client, 1);
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    let gone = until(|| live.seen.open.load(Ordering::Relaxed) == 0);
    let left = live.seen.open.load(Ordering::Relaxed);
    result(gone, format!("{left} dead connections are kept"))
}

/// How often the loop goes round in 200 ms in which nobody does anything.
fn turns_in_silence(live: &Live) -> u64 {
    let before = live.seen.turns.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(200));
    live.seen.turns.load(Ordering::Relaxed) - before
}

pub(super) fn close_and_silence(live: &Live) -> io::Result<Result> {
    let mut client = client(live)?;
    client.write_all(b"x")?;
    heard(&client, 1);
    drop(client);
    let turns = turns_in_silence(live);
    result(turns < A_FEW_TURNS, format!("the loop goes round {turns} times"))
}

pub(super) fn never_reads(live: &Live) -> io::Result<Result> {
    const MOST: usize = 48 << 20;
    const MOST_KIB: u64 = 1024;
    let mut client = client(live)?;
    client.set_write_timeout(Some(PATIENCE))?;
    let (mut sent, piece) = (0, vec![b'x'; 1 << 20]);
    while sent < MOST {
        match client.write(&piece) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    let queued = || live.seen.queued.load(Ordering::Relaxed) >> 10;
    until(|| queued() > MOST_KIB);
    let queued = queued();
    result(queued <= MOST_KIB, format!("the server keeps {queued} KiB for it"))
}

pub(super) fn one_after_the_other(live: &Live) -> io::Result<Result> {
    let (mut first, mut second) = (client(live)?, client(live)?);
    first.write_all(b"x")?;
    heard(&first, 1);
    second.write_all(b"x")?;
    let answered = heard(&second, 1) == 1;
    result(answered, format!("the second client is {}answered", if answered { "" } else { "not " }))
}

pub(super) fn musical_chairs(live: &Live) -> io::Result<Result> {
    let (mut first, mut next) = (client(live)?, client(live)?);
    for guest in [&mut first, &mut next] {
        guest.write_all(b"x")?;
        heard(guest, 1);
    }
    let paused = live.pause();
    // In this order they come into the kernel's queue.
    first.write_all(b"evict")?;
    until(|| raw::tcp_info(&first).is_ok_and(|info| info.tcpi_unacked == 0));
    let mut newcomer = client(live)?;
    until(|| raw::tcp_info(&live.listener).is_ok_and(|info| info.tcpi_unacked == 1));
    send_fin(&next)?;
    drop(paused);
    until(|| raw::tcp_info(&live.listener).is_ok_and(|info| info.tcpi_unacked == 0));
    // The newcomer speaks when all of that has been dealt with.
    drop(live.pause());
    newcomer.write_all(b"hello")?;
    let back = heard(&newcomer, 5);
    result(back == 5, format!("the new client {}", if back == 5 { "is answered" } else { "is thrown out instead" }))
}

pub(super) fn no_descriptor_left(live: &Live) -> io::Result<Result> {
    let client = Box::new(client(live)?);
    until(|| live.seen.open.load(Ordering::Relaxed) == 1);
    let paused = live.pause();
    let late = self::client(live)?;
    // No number is free any more: those below the limit are taken.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let mut taken = Vec::new();
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(256), hard)?;
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    drop(paused);
    let turns = turns_in_silence(live);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    drop((client, late, taken));
    result(turns < A_FEW_TURNS, format!("the loop goes round {turns} times"))
}

/// How long the neighbour of a flood is watched.
const WATCHED: Duration = Duration::from_millis(500);

pub(super) fn flood(live: &Live) -> io::Result<Result> {
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let mut floods = Vec::new();
    // Two, so that there is always something to read, whichever of them the kernel holds back.
    let source = client(live)?;
    for _ in 0..2 {
        let mut source = source.try_clone()?;
        source.set_write_timeout(Some(PATIENCE))?;
        floods.push(std::thread::spawn(move || {
            let piece = vec![b'x'; 1 << 20];
            // A write that found no room for a whole second has told enough.
            while !STOP.load(Ordering::Relaxed) {
                if source.write(&piece).is_err() {
                    return;
                }
            }
        }));
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut pings = 0;
    let mut neighbour = client(live)?;
    neighbour.set_read_timeout(Some(WATCHED))?;
    let deadline = Instant::now() + WATCHED;
    while Instant::now() < deadline {
        neighbour.write_all(b"x")?;
        pings += heard(&neighbour, 1);
    }
    STOP.store(true, Ordering::Relaxed);
    source.shutdown(Shutdown::Both)?;
    floods.into_iter().for_each(|flood| drop(flood.join()));
    result(pings > 10, format!("the other client gets {pings} answers in {} ms", WATCHED.as_millis()))
}

pub(super) fn a_short_timer(live: &Live) -> io::Result<Result> {
    // The loop of this file, not the server's: the clock is the only client here.
    let due = Instant::now() + Duration::from_micros(900);
    let mut waits = 0;
    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let timeout_ms = (live.server.patience)(left.as_micros() as u64);
        std::thread::sleep(Duration::from_millis(timeout_ms as u64));
        waits += 1;
    }
    result(waits <= 2, format!("{waits} waits until the timer is due"))
}
