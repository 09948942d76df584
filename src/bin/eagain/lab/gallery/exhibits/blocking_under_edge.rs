//! Reading until EAGAIN, where there is no EAGAIN.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "blocking-under-edge",
    mistake: "accepted sockets are left blocking, and read until EAGAIN",
    lesson: "An accepted socket does not inherit O_NONBLOCK from its listener. Say SOCK_NONBLOCK to accept4.",
    traffic: "One client is answered and stays silent; then another comes.",
    rules: &["blocking-drain-loop-freezes", "accept-inherits-nothing"],
    file: file!(),
    source: include_str!("blocking_under_edge.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() != LISTENER {
                clients.echo(&epoll, event);
                continue;
            }
            while let Some((client, _)) = ready(site.listener.get_ref().accept())? {
                // WRONG: it is blocking, whatever is said of it here.
                let client = NonBlocking::trust(client.into());
                clients.admit(&epoll, client, Mode::EDGE)?;
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() != LISTENER {
                clients.echo(&epoll, event);
                continue;
            }
            while let Some((client, _)) = ready(site.listener.get_ref().accept())? {
                // RIGHT: it is made non-blocking.
                let client = NonBlocking::new(client.into())?;
                clients.admit(&epoll, client, Mode::EDGE)?;
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    let silent = crowd.client()?;
    if !silent.is_echoed(b"hello")? {
        return Ok(wrong("not even the first client was answered"));
    }
    let second = crowd.client()?.is_echoed(b"hello")?;
    Ok(if second {
        fine("both clients were answered")
    } else {
        wrong("the second client was not answered: the server sleeps in recv for the first")
    })
}
