//! Workers on threads, and the [`Handle`] by which other threads reach them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::access::AccessList;
use crate::client::ConnectionId;
use crate::edge::Edge;
use crate::exchange::Discipline;
use crate::gate::{Gate, Limits};
use crate::level::Level;
use crate::limits::{LISTENERS_MAX, WORKERS_MAX};
use crate::listener::Listener;
use crate::mailbox::{self, Mailbox, Message, SendError};
use crate::metrics::{Counters, WorkerCounters};
use crate::parcel::Parcel;
use crate::service::Service;
use crate::sys::epoll::Epoll;
use crate::timeouts::Timeouts;
use crate::trace::{Silent, Trace};
use crate::worker::{self, Rules, Worker};

/// Why a server did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number of workers that is out of range.
    #[error("{0} workers: 1 to {WORKERS_MAX} are possible")]
    Workers(usize),
    /// More listeners than a server can tell apart, with those that were shut.
    #[error("more than {LISTENERS_MAX} listeners: open one again in the place of one that was shut")]
    Listeners,
    /// There is no thread, or no descriptor, to be had.
    #[error("cannot start a worker: {0}")]
    Start(#[source] io::Error),
    /// A worker could not go on; the others were stopped.
    #[error(transparent)]
    Worker(#[from] worker::Error),
    /// The code of a service panicked; the other workers were stopped.
    #[error("a worker panicked")]
    Panicked,
}

/// How the kernel is asked to tell of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trigger {
    /// As long as something is ready. The default.
    #[default]
    Level,
    /// When something becomes ready.
    Edge,
}

/// How new connections come to the workers. (With [`Listener::tcp_reuseport`] the kernel has decided before.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accept {
    /// The worker that accepts one hands it on to the worker with the fewest, if that has clearly fewer. The default.
    #[default]
    Handoff,
    /// Who accepts keeps. It is the worker that the kernel woke (EPOLLEXCLUSIVE), and while there is little to do that
    /// is nearly always the same one (`exclusive-is-not-fair`).
    Keep,
}

/// How a server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Level- or edge-triggered. What clients see is the same.
    pub trigger: Trigger,
    /// Threads, each with its own epoll and its own connections; 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// How much the server takes on. Nothing is limited by default.
    pub limits: Limits,
    /// How long a client may take. For ever by default.
    pub timeouts: Timeouts,
    /// Who may connect; everybody, if it is empty. Others are closed at once, and counted ([`Counters::denied`]).
    /// Behind a proxy its address is meant, not the client's.
    pub access: AccessList,
    /// How new connections come to the workers.
    pub accept: Accept,
}

impl Default for Config {
    /// Level-triggered, a worker for each processor that this process may use.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(WORKERS_MAX);
        Self {
            trigger: Trigger::Level,
            workers,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            access: AccessList::default(),
            accept: Accept::default(),
        }
    }
}

/// A running server. Dropping it stops it, at once.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
///
/// use eagain::{Config, Listener, Server, service::Echo};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// let server = Server::start(Config::default(), vec![Listener::try_from(listener)?], |_| Echo)?;
///
/// let mut client = TcpStream::connect(address)?;
/// client.write_all(b"hello")?;
/// let mut answer = [0; 5];
/// client.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
///
/// drop(client);
/// server.handle().drain(Duration::from_secs(5));
/// server.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    handle: Handle,
    workers: Vec<JoinHandle<Result<(), Error>>>,
    ended: Arc<EventFd>,
}

impl Server {
    /// Starts the workers; each makes its own service with `service`, on its own thread. Returns when every worker has
    /// registered every listener.
    ///
    /// # Errors
    /// [`Error::Workers`], [`Error::Listeners`], [`Error::Start`]; [`Error::Worker`], [`Error::Panicked`] if a worker
    /// did not get that far.
    pub fn start<S, F>(config: Config, listeners: Vec<Listener>, service: F) -> Result<Self, Error>
    where
        S: Service + 'static,
        F: Fn(&Handle) -> S + Send + Sync + 'static,
    {
        Self::start_traced(config, listeners, service, || Silent)
    }

    /// As [`start`](Self::start), with a [`Trace`] for each worker.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_traced<S, T, F, G>(
        config: Config,
        listeners: Vec<Listener>,
        service: F,
        trace: G,
    ) -> Result<Self, Error>
    where
        S: Service + 'static,
        T: Trace + 'static,
        F: Fn(&Handle) -> S + Send + Sync + 'static,
        G: Fn() -> T + Send + Sync + 'static,
    {
        match config.trigger {
            Trigger::Level => Self::launch::<Level, S, T>(config, listeners, Arc::new((service, trace))),
            Trigger::Edge => Self::launch::<Edge, S, T>(config, listeners, Arc::new((service, trace))),
        }
    }

    fn launch<D, S, T>(
        config: Config,
        listeners: Vec<Listener>,
        make: Arc<(impl Fn(&Handle) -> S + Send + Sync + 'static, impl Fn() -> T + Send + Sync + 'static)>,
    ) -> Result<Self, Error>
    where
        D: Discipline + 'static,
        S: Service + 'static,
        T: Trace + 'static,
    {
        let count = config.workers;
        if !(1..=WORKERS_MAX).contains(&count) {
            return Err(Error::Workers(count));
        }
        if listeners.len() > LISTENERS_MAX {
            return Err(Error::Listeners);
        }
        let handle = Handle::new(&config, listeners.len()).map_err(Error::Start)?;
        let ended = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let ended = Arc::new(ended.map_err(|errno| Error::Start(errno.into()))?);
        let epolls: Result<Vec<_>, _> = (0..count).map(|_| Epoll::new()).collect();
        let epolls = epolls.map_err(worker::Error::from)?;
        let listeners: Vec<Arc<Listener>> = listeners.into_iter().map(Arc::new).collect();
        let handoff = config.accept == Accept::Handoff;
        let running = Arc::new(AtomicUsize::new(count));
        let (ready, ready_workers) = channel();
        let mut server = Self { handle, workers: Vec::with_capacity(count), ended };
        for (number, epoll) in epolls.into_iter().enumerate() {
            let (handle, running, ended) = (server.handle.clone(), Arc::clone(&running), Arc::clone(&server.ended));
            let rules = Rules { timeouts: config.timeouts, handoff, gate: Arc::clone(&handle.gate) };
            let leave = Leave { handle, number, running, ended };
            let (listeners, make, ready) = (listeners.clone(), Arc::clone(&make), ready.clone());
            let body = move || work::<D, S, T>(&leave, epoll, listeners, rules, &make.0, &make.1, ready);
            // If this fails, dropping `server` stops those that run.
            let thread = std::thread::Builder::new().name(format!("worker {number}")).spawn(body);
            server.workers.push(thread.map_err(Error::Start)?);
        }
        drop(ready);
        // A worker that fails stops the others.
        if ready_workers.iter().count() < count { server.join_all().and(Err(Error::Panicked)) } else { Ok(server) }
    }

    /// The way for other threads to reach the connections.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until every worker has ended, and says why, if it was not because of [`Handle::drain`] or
    /// [`Handle::shutdown`].
    ///
    /// # Errors
    /// [`Error::Worker`], [`Error::Panicked`]: the first that was found.
    pub fn join(mut self) -> Result<(), Error> {
        self.join_all()
    }

    fn join_all(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for worker in self.workers.drain(..) {
            let end = worker.join().unwrap_or(Err(Error::Panicked));
            result = result.and(end);
        }
        result
    }
}

impl AsFd for Server {
    /// Becomes readable when all workers have ended: register it if you wait for other things too. Do not read from it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
        let _ = self.join_all();
    }
}

/// What the thread of a worker does, from its beginning to its end.
fn work<D, S, T>(
    leave: &Leave,
    epoll: Epoll,
    listeners: Vec<Arc<Listener>>,
    rules: Rules,
    service: &impl Fn(&Handle) -> S,
    trace: &impl Fn() -> T,
    ready: Sender<()>,
) -> Result<(), Error>
where
    D: Discipline,
    S: Service,
    T: Trace,
{
    let mailboxes = Arc::clone(&leave.handle.mailboxes);
    let (service, trace) = (service(&leave.handle), trace());
    let worker = Worker::<S, D, T>::new(epoll, leave.number as u16, &listeners, mailboxes, rules, service, trace);
    // From here on the worker alone decides how long the listeners live.
    drop(listeners);
    if worker.is_ok() {
        // Nobody listens only if another thread could not be had; then this one is about to be stopped.
        let _ = ready.send(());
    }
    drop(ready);
    let result = worker.and_then(Worker::run).map_err(Error::from);
    if result.is_err() {
        leave.handle.shutdown();
    }
    result
}

/// Dropped when a worker ends. After a panic the others end too: never half a server.
struct Leave {
    handle: Handle,
    number: usize,
    running: Arc<AtomicUsize>,
    ended: Arc<EventFd>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.handle.shutdown();
        }
        self.handle.mailboxes[self.number].end();
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            mailbox::wake(&self.ended);
        }
    }
}

/// Reaches the connections of a server from any thread. Cheap to clone.
///
/// Everything is asynchronous: a message is handed to the worker that owns the connection.
#[derive(Debug, Clone)]
pub struct Handle {
    mailboxes: Arc<[Arc<Mailbox>]>,
    gate: Arc<Gate>,
    ending: Arc<AtomicBool>,
    /// Listeners there have been.
    listeners: Arc<AtomicUsize>,
}

impl Handle {
    fn new(config: &Config, listeners: usize) -> io::Result<Self> {
        let mailboxes: io::Result<Vec<_>> = (0..config.workers).map(|_| Mailbox::new().map(Arc::new)).collect();
        Ok(Self {
            mailboxes: mailboxes?.into(),
            gate: Arc::new(Gate::new(config.limits, config.access.clone(), Instant::now())),
            ending: Arc::default(),
            listeners: Arc::new(AtomicUsize::new(listeners)),
        })
    }

    /// Sends bytes to one connection. If it is gone when the message gets there,
    /// [`Service::undelivered`] is told; nobody else ever receives them.
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::Ended`].
    pub fn send(&self, to: ConnectionId, bytes: impl Into<Arc<[u8]>>) -> Result<(), SendError> {
        let mailbox = self.mailboxes.get(to.worker as usize).ok_or(SendError::Ended)?;
        mailbox.leave(Message::Send(to.token, bytes.into()))
    }

    /// Sends bytes to every connection there is when the message gets there.
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::Ended`] if a worker did not take the message. The others did.
    pub fn broadcast(&self, bytes: impl Into<Arc<[u8]>>) -> Result<(), SendError> {
        let bytes = bytes.into();
        let leave = |mailbox: &Arc<Mailbox>| mailbox.leave(Message::Broadcast(Arc::clone(&bytes)));
        self.mailboxes.iter().map(leave).fold(Ok(()), Result::and)
    }

    /// Closes one connection, at once. Nothing happens if it is gone.
    ///
    /// # Errors
    /// [`SendError::Ended`].
    pub fn close(&self, connection: ConnectionId) -> Result<(), SendError> {
        let mailbox = self.mailboxes.get(connection.worker as usize).ok_or(SendError::Ended)?;
        mailbox.leave(Message::Close(connection.token))
    }

    /// Asks every worker for an answer from its loop: a watchdog is to be fed only while all of them give it. See
    /// [`pongs`](Self::pongs).
    pub fn ping(&self) {
        self.tell_all(|| Message::Ping);
    }

    /// Pings that *every* worker has answered since the start. A worker that has ended does not count; `u64::MAX` if
    /// all have.
    #[must_use]
    pub fn pongs(&self) -> u64 {
        self.mailboxes.iter().map(|mailbox| mailbox.pongs()).min().unwrap_or(u64::MAX)
    }

    /// Stops accepting, lets every connection finish, and ends the server: each client gets what is due to it, then a
    /// FIN when it has been silent for a moment. What is left after `timeout` is closed.
    pub fn drain(&self, timeout: Duration) {
        self.ending.store(true, Ordering::Relaxed);
        let until = Instant::now() + timeout;
        self.tell_all(|| Message::Drain { until, parcels: None });
    }

    /// As [`drain`](Self::drain), but connections whose sessions the service can [`pack`](Service::pack) are not
    /// finished: they come out of the receiver, packed, for [`resume`](Self::resume) of another server. Those whom the
    /// kernel had accepted already are among them. The receiver ends when the server has ended.
    #[must_use]
    pub fn hand_over(&self, timeout: Duration) -> Receiver<Vec<Parcel>> {
        self.ending.store(true, Ordering::Relaxed);
        let until = Instant::now() + timeout;
        let (parcels, receiver) = channel();
        self.tell_all(|| Message::Drain { until, parcels: Some(parcels.clone()) });
        receiver
    }

    /// Goes on with a connection that [`hand_over`](Self::hand_over) took out of another server. It is given to the
    /// worker with the fewest, and passes no limit and no access list: it was let in before. If the service cannot
    /// [`unpack`](Service::unpack) it, it is closed and counted as refused.
    ///
    /// # Errors
    /// [`SendError::Ended`]; the connection is closed.
    pub fn resume(&self, parcel: Parcel) -> Result<(), SendError> {
        let fewest = self.mailboxes.iter().min_by_key(|mailbox| mailbox.load()).ok_or(SendError::Ended)?;
        fewest.raise_load();
        self.gate.enter_again(&parcel.state.peer);
        fewest.leave(Message::Resume(Box::new(parcel)))
    }

    /// Accepts from one more listener, in every worker, and returns its index ([`Client::listener`](crate::Client)). A
    /// worker that has no memory for it at the moment tries again, as after [`Service::exhausted`].
    ///
    /// # Errors
    /// [`Error::Listeners`].
    pub fn open(&self, listener: Listener) -> Result<usize, Error> {
        let next = |count: usize| (count < LISTENERS_MAX).then_some(count + 1);
        let taken = self.listeners.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let index = taken.map_err(|_| Error::Listeners)?;
        self.open_again(index, listener);
        Ok(index)
    }

    /// As [`open`](Self::open), in the place of one that was [`shut`](Self::shut): for the same service.
    pub fn open_again(&self, index: usize, listener: Listener) {
        let listener = Arc::new(listener);
        self.tell_all(|| Message::Open(index, Arc::clone(&listener)));
    }

    /// Accepts from this listener no more; who has come by it stays. It is closed when every worker has heard of it.
    pub fn shut(&self, index: usize) {
        self.tell_all(|| Message::Shut(index));
    }

    /// Other limits, timeouts and addresses from now on. Timeouts hold for the connections that are there too; the rest
    /// only for those that come.
    pub fn reconfigure(&self, limits: Limits, timeouts: Timeouts, access: AccessList) {
        self.gate.set(limits, access);
        self.tell_all(|| Message::Timeouts(timeouts));
    }

    /// Closes every connection and ends the server.
    pub fn shutdown(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.tell_all(|| Message::Stop);
    }

    /// Whether [`drain`](Self::drain) or [`shutdown`](Self::shutdown) was called.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// What has happened so far, in all workers together. Each number is of the end of its worker's last turn.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.mailboxes.iter().for_each(|mailbox| sum += mailbox.counters().all);
        sum
    }

    /// The numbers of each worker, in order; each worker's are those of the end of its last turn.
    #[must_use]
    pub fn worker_counters(&self) -> Vec<WorkerCounters> {
        self.mailboxes.iter().map(|mailbox| mailbox.counters()).collect()
    }

    /// A worker that has ended needs no command.
    fn tell_all(&self, message: impl Fn() -> Message) {
        for mailbox in self.mailboxes.iter() {
            let _ = mailbox.leave(message());
        }
    }
}
