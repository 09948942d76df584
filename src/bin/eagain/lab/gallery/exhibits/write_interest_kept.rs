//! A socket with room is ready to be written, for ever.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "write-interest-kept",
    mistake: "every connection is registered for OUT, whether or not something waits to be sent",
    lesson: "An idle socket has room in its send buffer, so it is always ready. Ask for OUT while something waits.",
    traffic: "One client is answered, stays, and says nothing.",
    rules: &["lt-out-spins-when-idle"],
    file: file!(),
    source: include_str!("write_interest_kept.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() != LISTENER {
                clients.echo(&epoll, event);
                continue;
            }
            while let Some(client) = site.accept()? {
                let key = clients.admit(&epoll, client, Mode::LEVEL)?;
                let Some(client) = clients.get(key) else { continue };
                // WRONG: "to be told when it can be written".
                let interest = Interest::READ | Interest::WRITE;
                epoll.modify_nonblocking(client, key, interest, Mode::LEVEL)?;
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() != LISTENER {
                clients.echo(&epoll, event);
                continue;
            }
            while let Some(client) = site.accept()? {
                // RIGHT: nothing waits to be sent; READ is all.
                clients.admit(&epoll, client, Mode::LEVEL)?;
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    let client = crowd.client()?;
    if !client.is_echoed(b"one moment")? {
        return Ok(wrong("the client was not answered"));
    }
    Ok(match crowd.rest()? {
        Rest::Asleep => fine("while the client is silent the server sleeps"),
        Rest::Spinning => wrong("while the client is silent the server spends all of its processor's time"),
        Rest::Ended => wrong("the server has ended"),
    })
}
