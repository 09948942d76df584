//! The listeners of the server: where they come from, and which come and go at a reload.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::{Arc, PoisonError, RwLock};

use eagain::{Address, Handle, Listener, somaxconn};

use super::Failure;
use super::systemd::{Manager, Passed, dress, kept_name};
use crate::address;
use crate::cli::{self, ServiceName};
use crate::say;

/// The service of each listener, by its index. It grows, and what is in it stays.
#[derive(Clone)]
pub(crate) struct Names(Arc<RwLock<Vec<ServiceName>>>);

impl Names {
    pub(crate) fn all(&self) -> Vec<ServiceName> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, name: ServiceName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(name);
    }
}

/// A listener, or the place of one.
struct Slot {
    service: ServiceName,
    /// With the real port.
    address: Address,
    /// What was asked for; `None` if it was given by the manager, who alone can take it away.
    asked: Option<Address>,
    /// It accepts. If not, the next listener of the same service takes its place.
    open: bool,
}

pub(crate) struct Listening {
    slots: Vec<Slot>,
    names: Names,
    /// Whether the manager was given sockets to pass, so that nothing is served by default.
    given: bool,
    backlog: u32,
    /// Accept queues for each TCP listener, if not one.
    queues: Option<usize>,
}

/// What a reload would change.
pub(crate) struct Changes {
    open: Vec<(ServiceName, Address, Listener)>,
    shut: Vec<usize>,
}

impl Listening {
    /// Takes the listeners that are passed, and binds the others, before anything is announced: a server that cannot
    /// have them all does not start.
    pub(crate) fn start(
        options: &cli::Serve,
        passed: Passed,
        manager: &Manager,
    ) -> Result<(Self, Vec<Listener>, Vec<std::os::fd::OwnedFd>), Failure> {
        let Passed { given, mut kept, way } = passed;
        let mut this = Self {
            slots: Vec::new(),
            names: Names(Arc::default()),
            given: !given.is_empty(),
            backlog: backlog(options),
            queues: (options.accept == cli::Accept::Reuseport).then_some(options.workers),
        };
        let mut listeners = Vec::new();
        for (service, listener) in given {
            this.add(service, None, &listener);
            listeners.push(listener);
        }
        for (service, asked) in this.wanted(options) {
            let same = |(other, listener): &(ServiceName, Listener)| *other == service && *listener.address() == asked;
            let listener = match kept.iter().position(same) {
                Some(index) => kept.swap_remove(index).1,
                None => {
                    let listener = this.bind(service, &asked)?;
                    this.keep(service, &listener, manager);
                    listener
                }
            };
            this.add(service, Some(asked), &listener);
            listeners.push(listener);
        }
        for (service, listener) in kept {
            forget(service, listener.address(), manager);
        }
        Ok((this, listeners, way))
    }

    /// The service and the address of each listener that the options ask for.
    fn wanted(&self, options: &cli::Serve) -> Vec<(ServiceName, Address)> {
        let default = if self.given { Vec::new() } else { cli::default_listeners() };
        let services = if options.listen.is_empty() { &default } else { &options.listen };
        let metrics = options.metrics.iter().map(|address| (ServiceName::Metrics, address));
        let services = services.iter().map(|(service, address)| (*service, address));
        metrics.chain(services).flat_map(|(service, address)| each(address).map(move |one| (service, one))).collect()
    }

    fn bind(&self, service: ServiceName, asked: &Address) -> Result<Listener, eagain::ListenError> {
        let listener = match (asked, self.queues) {
            (Address::Tcp(address), Some(queues)) => Listener::tcp_reuseport(*address, self.backlog, queues),
            (Address::Tcp(address), None) => Listener::tcp(*address, self.backlog),
            (Address::Unix(path), _) => Listener::unix(path, self.backlog),
            (Address::Abstract(name), _) => Listener::unix_abstract(name, self.backlog),
        }?;
        Ok(dress(service, listener))
    }

    /// Has the manager keep a listener over a restart, so that no client is refused meanwhile. Not one of many queues:
    /// the next process may have another number of workers.
    fn keep(&self, service: ServiceName, listener: &Listener, manager: &Manager) {
        if let (None, Some(name)) = (self.queues, kept_name(service, listener.address())) {
            manager.store(&name, &[listener.as_fd()]);
        }
    }

    fn add(&mut self, service: ServiceName, asked: Option<Address>, listener: &Listener) {
        self.slots.push(Slot { service, address: listener.address().clone(), asked, open: true });
        self.names.push(service);
    }

    pub(crate) fn names(&self) -> Names {
        self.names.clone()
    }

    /// One line on stdout for each listener: scripts wait for it, and read the port from it.
    pub(crate) fn announce(&self) {
        for slot in &self.slots {
            announce(slot.service, &slot.address);
        }
    }

    /// How the next process knows the listener that a connection came by.
    pub(crate) fn label(&self, index: usize) -> String {
        self.slots.get(index).map_or(String::new(), |slot| format!("{} {}", slot.service, slot.address))
    }

    /// The listener with this label, or another one of the same service.
    pub(crate) fn find(&self, label: &str) -> Option<usize> {
        let service = label.split(' ').next()?;
        let open = || self.slots.iter().enumerate().filter(|(_, slot)| slot.open);
        let same = open().find(|(index, _)| self.label(*index) == label);
        same.or_else(|| open().find(|(_, slot)| slot.service.to_string() == service)).map(|(index, _)| index)
    }

    /// What it takes to have the listeners of these options. New ones are bound here: if that fails, nothing has
    /// changed.
    pub(crate) fn changes(&self, options: &cli::Serve) -> Result<Changes, String> {
        let mut wanted = self.wanted(options);
        let mut shut = Vec::new();
        for (index, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.open) {
            let Some(asked) = &slot.asked else { continue };
            match wanted.iter().position(|(service, address)| (*service, address) == (slot.service, asked)) {
                Some(place) => drop(wanted.remove(place)),
                None => shut.push(index),
            }
        }
        let mut open = Vec::new();
        for (service, asked) in wanted {
            if let Some(&index) = shut.iter().find(|&&index| self.slots[index].address == asked) {
                let old = self.slots[index].service;
                return Err(format!("a restart is needed to have {service} instead of {old} on {asked}"));
            }
            let listener = self.bind(service, &asked).map_err(|why| format!("{service}: {why}"))?;
            open.push((service, asked, listener));
        }
        Ok(Changes { open, shut })
    }

    /// Opens what is new, and shuts what is gone; clients who are there stay.
    pub(crate) fn apply(&mut self, changes: Changes, server: &Handle, manager: &Manager) -> Result<(), Failure> {
        for index in changes.shut {
            server.shut(index);
            let slot = &mut self.slots[index];
            slot.open = false;
            forget(slot.service, &slot.address, manager);
        }
        for (service, asked, listener) in changes.open {
            let address = listener.address().clone();
            self.keep(service, &listener, manager);
            match self.slots.iter().position(|slot| slot.service == service && !slot.open) {
                Some(index) => {
                    self.slots[index] = Slot { service, address: address.clone(), asked: Some(asked), open: true };
                    server.open_again(index, listener);
                }
                None => {
                    // The workers look the name up when the first client comes.
                    self.add(service, Some(asked), &listener);
                    let index = server.open(listener)?;
                    debug_assert_eq!(index + 1, self.slots.len());
                }
            }
            announce(service, &address);
        }
        Ok(())
    }
}

fn forget(service: ServiceName, address: &Address, manager: &Manager) {
    if let Some(name) = kept_name(service, address) {
        manager.forget(&name);
    }
}

/// A host name may stand for several addresses.
fn each(address: &address::Address) -> impl Iterator<Item = Address> {
    let one = match address {
        address::Address::Tcp(_) => None,
        address::Address::Unix(path) => Some(Address::Unix(path.clone())),
        address::Address::Abstract(name) => Some(Address::Abstract(name.clone())),
    };
    let many: &[_] = if let address::Address::Tcp(all) = address { all } else { &[] };
    let many: Vec<_> = many.iter().map(|&tcp| Address::Tcp(tcp)).collect();
    one.into_iter().chain(many)
}

fn backlog(options: &cli::Serve) -> u32 {
    let limit = somaxconn();
    let backlog = options.backlog.map_or(limit, |asked| asked.unsigned_abs());
    if backlog > limit {
        say::warning(format_args!(
            "the kernel cuts --backlog {backlog} to {limit}: raise net.core.somaxconn \
             (sysctl -w net.core.somaxconn={backlog})"
        ));
    }
    backlog
}

fn announce(service: ServiceName, address: &Address) {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "listening {service} {address}").and_then(|()| stdout.flush());
    if let Err(error) = written {
        say::warning(format_args!("cannot write to stdout: {}", say::reason(&error)));
    }
}
