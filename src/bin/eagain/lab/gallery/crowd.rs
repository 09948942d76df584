//! The clients of the servers, in the same process. None of them believes in a clock: that an answer does not come is
//! believed when the server sleeps, or spends its time on nothing.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use eagain::sys::net::{send, unsent_bytes};
use eagain::sys::raw;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;
use socket2::{Domain, SockRef, Socket, Type};

use super::{Server, site::Site};

/// So long nothing may take; who waits longer gives up, and there is no verdict. In ten seconds a server that spun on a
/// busy machine had not had a tenth of one.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at the server.
const LOOK: Duration = Duration::from_millis(4);
/// A server that is asleep at so many looks in a row will not do more by itself.
const LOOKS: u32 = 25;
/// A server that spends so much without an answer to anybody is doing nothing else.
const FOR_NOTHING: Duration = Duration::from_millis(100);

/// How a server has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// In a system call; for ever, if nobody does anything.
    Asleep,
    /// It burns its processor.
    Spinning,
    /// Its function has returned.
    Ended,
}

/// All clients of one server, and the server's thread.
pub(crate) struct Crowd {
    address: SocketAddr,
    site: Arc<Site>,
    /// The other end of what the server has as its backend.
    backend: UnixStream,
    /// /proc/self/task/TID/stat of the server, opened while there still are descriptors.
    stat: File,
    go: SyncSender<()>,
    end: Receiver<io::Result<()>>,
    ended: OnceCell<io::Result<()>>,
}

impl Crowd {
    /// A listener, and a server that has not looked at it yet.
    pub(super) fn new(server: Server) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (backend, ours) = UnixStream::pair()?;
        let site = Arc::new(Site::new(listener, ours)?);
        let (tell_tid, tid) = sync_channel(1);
        let (go, start) = sync_channel(1);
        let (ending, end) = sync_channel(1);
        let its_site = Arc::clone(&site);
        let thread = move || {
            let _ = tell_tid.send(gettid());
            if start.recv().is_ok() {
                let _ = ending.send(server(&its_site));
            }
        };
        std::thread::Builder::new().name("server".to_owned()).spawn(thread)?;
        let tid = tid.recv().map_err(io::Error::other)?;
        let stat = File::open(format!("/proc/self/task/{tid}/stat"))?;
        Ok(Self { address, site, backend, stat, go, end, ended: OnceCell::new() })
    }

    /// What the server has been told to keep.
    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// The server starts.
    pub(super) fn open(&self) -> io::Result<()> {
        self.go.send(()).map_err(io::Error::other)
    }

    /// A client, connected: it may still be in the accept queue.
    pub(super) fn client(&self) -> io::Result<Client<'_>> {
        self.connect(self.socket()?)
    }

    /// A socket for a client that comes later: it has its number already.
    pub(super) fn socket(&self) -> io::Result<Socket> {
        Socket::new(Domain::IPV4, Type::STREAM, None)
    }

    pub(super) fn connect(&self, socket: Socket) -> io::Result<Client<'_>> {
        socket.connect_timeout(&self.address.into(), PATIENCE)?;
        socket.set_nonblocking(true)?;
        Ok(Client { stream: socket.into(), crowd: self })
    }

    /// What accepted sockets inherit: small buffers in the kernel.
    pub(super) fn small_send_buffers(&self) -> io::Result<()> {
        SockRef::from(&self.site.listener).set_send_buffer_size(32 << 10)
    }

    /// From now on the process may open so many files more.
    pub(super) fn leave_descriptors(&self, more: u64) -> io::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // Numbers are given from the lowest; there may be gaps between those that are open.
        let free = (0..more).map(|_| self.backend.try_clone()).collect::<io::Result<Vec<_>>>()?;
        let last = free.iter().map(AsRawFd::as_raw_fd).max().unwrap_or(0);
        Ok(setrlimit(Resource::RLIMIT_NOFILE, last as u64 + 1, hard)?)
    }

    /// How many files the process has open.
    pub(super) fn open_files(&self) -> io::Result<usize> {
        Ok(std::fs::read_dir("/proc/self/fd")?.count())
    }

    /// The backend has done its work.
    pub(super) fn backend_is_done(&self) -> io::Result<()> {
        send(&self.backend, b".").map(drop)
    }

    /// Waits until the server sleeps, spins or has ended.
    pub(super) fn rest(&self) -> io::Result<Rest> {
        let mut watch = Watch::new(self)?;
        loop {
            if let Some(rest) = watch.look()? {
                return Ok(rest);
            }
        }
    }

    fn is_asleep(&self) -> io::Result<bool> {
        let mut text = [0; 512];
        let count = match self.stat.read_at(&mut text, 0) {
            // It has ended since the last look; the next one will find that.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            result => result?,
        };
        // "TID (server) S …"
        let end = text[..count].iter().position(|&byte| byte == b')').unwrap_or(0);
        Ok(text[..count].get(end + 2) == Some(&b'S'))
    }

    /// Processor time of all threads but this one: of the server.
    fn spent(&self) -> io::Result<Duration> {
        let process: Duration = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into();
        Ok(process.saturating_sub(Duration::from_nanos(raw::thread_time_ns())))
    }

    /// What ended the server, if it is not one of its clients: then it has shown nothing.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        let error = self.has_ended().then(|| self.ended.get()).flatten()?.as_ref().err()?;
        (error.kind() != ErrorKind::ConnectionReset).then_some(error)
    }

    fn has_ended(&self) -> bool {
        if let (None, Ok(result)) = (self.ended.get(), self.end.try_recv()) {
            let _ = self.ended.set(result);
        }
        self.ended.get().is_some()
    }
}

/// Looks at a server from time to time.
struct Watch<'a> {
    crowd: &'a Crowd,
    spent: Duration,
    asleep: u32,
    deadline: Instant,
}

impl<'a> Watch<'a> {
    fn new(crowd: &'a Crowd) -> io::Result<Self> {
        Ok(Self { crowd, spent: crowd.spent()?, asleep: 0, deadline: Instant::now() + PATIENCE })
    }

    fn look(&mut self) -> io::Result<Option<Rest>> {
        if self.crowd.has_ended() {
            return Ok(Some(Rest::Ended));
        }
        if self.crowd.spent()?.saturating_sub(self.spent) > FOR_NOTHING {
            return Ok(Some(Rest::Spinning));
        }
        self.asleep = if self.crowd.is_asleep()? { self.asleep + 1 } else { 0 };
        if self.asleep == LOOKS {
            return Ok(Some(Rest::Asleep));
        }
        if Instant::now() > self.deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "the server comes to no rest"));
        }
        std::thread::sleep(LOOK);
        Ok(None)
    }
}

/// One connection.
pub(crate) struct Client<'a> {
    stream: TcpStream,
    crowd: &'a Crowd,
}

impl Client<'_> {
    /// Sends it all, and returns when it has arrived at the server's socket.
    pub(super) fn say(&self, bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut sent = 0;
        while sent < bytes.len() || unsent_bytes(&self.stream)? > 0 {
            sent += self.offer(&bytes[sent..])?;
            if Instant::now() > deadline {
                return Err(io::Error::new(ErrorKind::TimedOut, "what was said does not arrive"));
            }
            std::thread::sleep(LOOK / 8);
        }
        Ok(())
    }

    /// Sends what the server takes of so many bytes, until it rests. Returns how many those were.
    pub(super) fn flood(&self, bytes: usize) -> io::Result<usize> {
        let flood = vec![b'x'; bytes];
        let (mut sent, mut watch) = (0, Watch::new(self.crowd)?);
        while sent < bytes {
            match self.offer(&flood[sent..])? {
                0 if watch.look()?.is_some() => break,
                0 => {}
                count => (sent, watch) = (sent + count, Watch::new(self.crowd)?),
            }
        }
        Ok(sent)
    }

    /// What the socket takes; nothing, if it is full.
    fn offer(&self, bytes: &[u8]) -> io::Result<usize> {
        match send(&self.stream, bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// What the server answers, up to so many bytes; fewer, if it closes the connection or does nothing more.
    pub(super) fn hear(&self, most: usize) -> io::Result<Vec<u8>> {
        self.listen(most, true)
    }

    /// As [`hear`](Self::hear), of a server that may sleep before it answers, or a network that does.
    pub(super) fn hear_in_the_end(&self, most: usize) -> io::Result<Vec<u8>> {
        self.listen(most, false)
    }

    fn listen(&self, most: usize, until_it_rests: bool) -> io::Result<Vec<u8>> {
        let (mut heard, mut chunk) = (Vec::new(), vec![0; most.min(65_536)]);
        let (mut watch, mut rests, deadline) = (Watch::new(self.crowd)?, false, Instant::now() + PATIENCE);
        while heard.len() < most && Instant::now() < deadline {
            let room = chunk.len().min(most - heard.len());
            match (&self.stream).read(&mut chunk[..room]) {
                Ok(0) => break,
                Ok(count) => {
                    heard.extend_from_slice(&chunk[..count]);
                    (watch, rests) = (Watch::new(self.crowd)?, false);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                // It has been asked once more after the server had come to rest.
                Err(_) if rests => break,
                Err(_) if until_it_rests => rests = watch.look()?.is_some(),
                Err(_) => std::thread::sleep(LOOK / 8),
            }
        }
        Ok(heard)
    }

    /// Whether the answer to `bytes` is the same bytes.
    pub(super) fn is_echoed(&self, bytes: &[u8]) -> io::Result<bool> {
        self.say(bytes)?;
        Ok(self.hear(bytes.len())? == bytes)
    }

    /// Says that nothing more will be said, but listens on.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Goes by a reset, as a process does that is killed with bytes unread.
    pub(super) fn reset(self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }
}
