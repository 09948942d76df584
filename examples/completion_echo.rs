//! An echo server on the completion port, for any number of threads.
//!
//! The original wrapped I/O completion ports of Windows in Python. What it had to learn, or got wrong:
//! - Several sends or receives in flight on one socket: bytes came twice or out of order. Here the port refuses the
//!   second one, and gives its buffer back.
//! - A post that failed was waited for. Here it is a `Result`, and what is `Err` never completes.
//! - Resources were freed at the first completion of a connection that had gone, and one more came. Here a buffer comes
//!   with its own completion, and the port frees the rest after the last.
//! - One thread freed a connection while another sent on it. Here connections are names: an old one is refused.
//! - Every operation looked its connection up in a hash map, and that was the bottleneck. Here it is an index.
//!
//! Try: `cargo run --no-default-features --example completion_echo -- 127.0.0.1:7007 4`
use std::env;
use std::error::Error;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use eagain::completion::{Completion, Failure, Outcome, Port, SocketId};
use eagain::sys::epoll::Timeout;
use eagain::sys::net::NonBlocking;

/// Bytes; of each connection, for what it sends and what is sent back in turn.
const BUFFER: usize = 16 * 1024;
/// No completion tells of free descriptors: try again later.
const RETRY: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:7007".into());
    let threads = env::args().nth(2).map(|threads| threads.parse::<NonZeroUsize>());
    let threads = threads.transpose().map_err(|_| "THREADS is a number from 1")?.map_or(2, NonZeroUsize::get);
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    run(listener, threads)
}

/// Serves for ever.
pub(crate) fn run(listener: TcpListener, threads: usize) -> Result<(), Box<dyn Error>> {
    socket2::SockRef::from(&listener).listen(4096)?; // std's 128 drops the SYNs of a burst: seconds.
    let port = Port::new()?;
    let listener = port.associate(NonBlocking::new(listener)?, 0)?;
    port.accept(listener)?;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Ok(Some(completion)) = port.next(Timeout::Never) {
                    serve(&port, listener, completion);
                }
            });
        }
    });
    Ok(())
}

/// One completion, and what follows from it. A refusal means that the socket is closed, and drops the buffer.
fn serve(port: &Port, listener: SocketId, completion: Completion) {
    let socket = completion.operation.socket();
    match (completion.outcome, socket) {
        (Outcome::Accepted(Ok((client, _))), _) => {
            if let Ok(client) = port.associate(client, 0) {
                let _ = port.recv(client, Vec::with_capacity(BUFFER));
            }
            let _ = port.accept(listener);
        }
        // Descriptors have run out, for example: at once would be in vain, and for ever.
        (Outcome::Accepted(Err(Failure::Io(_))), _) => drop(port.timer(Instant::now() + RETRY, 0)),
        (Outcome::Timer(_), _) => drop(port.accept(listener)),
        (Outcome::Received { buffer, result: Ok(1..) }, Some(client)) => drop(port.send(client, buffer)),
        (Outcome::Sent { mut buffer, result: Ok(()), .. }, Some(client)) => {
            buffer.clear(); // All of it is with the kernel.
            let _ = port.recv(client, buffer);
        }
        // The end of its stream, or an error. Nothing else of it is outstanding: it receives or sends, never both.
        (_, Some(client)) => drop(port.close(client)),
        _ => {}
    }
}
