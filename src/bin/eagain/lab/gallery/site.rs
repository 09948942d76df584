//! What the servers of the gallery find when they start, and the words that all of them share. What is a lesson
//! somewhere is written out there; here is the right form of it, for the servers whose mistake is another.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use eagain::sys::epoll::{Epoll, Event, Events, Interest, Mode};
use eagain::sys::net::{self, NonBlocking};
use socket2::Socket;

/// The data of the listener's events. Those of clients are above.
pub(super) const LISTENER: u64 = 0;
/// The data of the backend's events, where there is one.
pub(super) const BACKEND: u64 = u64::MAX;

/// What a server is given.
pub(crate) struct Site {
    pub(super) listener: NonBlocking<TcpListener>,
    /// Who knows the answers, for a server that does not know them itself.
    pub(super) backend: NonBlocking<UnixStream>,
    most_queued: AtomicUsize,
}

impl Site {
    pub(super) fn new(listener: TcpListener, backend: UnixStream) -> io::Result<Self> {
        let (listener, backend) = (NonBlocking::new(listener)?, NonBlocking::new(backend)?);
        Ok(Self { listener, backend, most_queued: AtomicUsize::new(0) })
    }

    /// The next of the accept queue, non-blocking; `None` if nobody is in it.
    pub(super) fn accept(&self) -> io::Result<Option<NonBlocking<Socket>>> {
        Ok(ready(NonBlocking::accept(&self.listener))?.map(|(client, _)| client))
    }

    /// A server tells how many bytes it keeps for a client.
    pub(super) fn note_queued(&self, bytes: usize) {
        self.most_queued.fetch_max(bytes, Ordering::Relaxed);
    }

    pub(super) fn most_queued(&self) -> usize {
        self.most_queued.load(Ordering::Relaxed)
    }
}

/// What every server begins with.
pub(super) fn tools() -> io::Result<(Epoll, Events, Clients)> {
    Ok((Epoll::new()?, Events::with_capacity(64), Clients::default()))
}

/// `None` is EAGAIN: nothing now.
pub(super) fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a short answer, which fits into a send buffer that is nearly empty; an error if it does not.
pub(super) fn answer(client: &NonBlocking<Socket>, bytes: &[u8]) -> io::Result<()> {
    if net::send(client, bytes)? == bytes.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

/// The connections of a server, each under a number that is never used again.
#[derive(Default)]
pub(super) struct Clients {
    table: BTreeMap<u64, NonBlocking<Socket>>,
    last: u64,
}

impl Clients {
    pub(super) fn admit(&mut self, epoll: &Epoll, client: NonBlocking<Socket>, mode: Mode) -> io::Result<u64> {
        self.last += 1;
        epoll.add_nonblocking(&client, self.last, Interest::READ, mode)?;
        self.table.insert(self.last, client);
        Ok(self.last)
    }

    /// Everybody who waits in the accept queue.
    pub(super) fn admit_all(&mut self, epoll: &Epoll, site: &Site, mode: Mode) -> io::Result<()> {
        while let Some(client) = site.accept()? {
            self.admit(epoll, client, mode)?;
        }
        Ok(())
    }

    pub(super) fn get(&self, key: u64) -> Option<&NonBlocking<Socket>> {
        self.table.get(&key)
    }

    pub(super) fn close(&mut self, epoll: &Epoll, key: u64) {
        if let Some(client) = self.table.remove(&key) {
            let _ = epoll.delete(&client);
        }
    }

    /// How many bytes a client says; `None` if there are none now. Who has gone is closed.
    pub(super) fn hear(&mut self, epoll: &Epoll, key: u64, chunk: &mut [u8]) -> Option<usize> {
        match ready(net::recv_slice(self.get(key)?, chunk)) {
            Ok(Some(count @ 1..)) => Some(count),
            Ok(None) => None,
            _ => {
                self.close(epoll, key);
                None
            }
        }
    }

    /// A short answer, if the client is still there. Who does not take it is closed.
    pub(super) fn answer(&mut self, epoll: &Epoll, key: u64, bytes: &[u8]) {
        if self.get(key).is_some_and(|client| answer(client, bytes).is_err()) {
            self.close(epoll, key);
        }
    }

    /// Sends back what a client says, until it has said all, or goes.
    pub(super) fn echo(&mut self, epoll: &Epoll, event: Event) {
        let mut chunk = [0; 1024];
        let Some(client) = self.get(event.data()) else { return };
        let gone = loop {
            match ready(net::recv_slice(client, &mut chunk)) {
                Ok(Some(count @ 1..)) if answer(client, &chunk[..count]).is_ok() => {}
                Ok(None) => break false,
                _ => break true,
            }
        };
        if gone {
            self.close(epoll, event.data());
        }
    }
}
