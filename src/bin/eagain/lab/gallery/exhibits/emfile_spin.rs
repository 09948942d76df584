//! No descriptor is left, and somebody knocks.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "emfile-spin",
    mistake: "accept fails for want of descriptors, and the loop goes on as if nothing were",
    lesson: "The client stays in the queue, so the listener stays ready. Take it out until a descriptor is free again.",
    traffic: "Four clients come to a server that has descriptors for two; then one of the two leaves.",
    rules: &["emfile-lt-spins"],
    file: file!(),
    source: include_str!("emfile_spin.rs"),
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
            // WRONG: EMFILE changes nothing; it is ready again at once.
            let _ = clients.admit_all(&epoll, site, Mode::LEVEL);
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut listening = true;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() != LISTENER {
                clients.echo(&epoll, event);
                // RIGHT: back, as soon as one is gone.
                if !listening && clients.get(event.data()).is_none() {
                    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
                    listening = true;
                }
                continue;
            }
            // RIGHT: a listener that cannot be served is taken out.
            if clients.admit_all(&epoll, site, Mode::LEVEL).is_err() {
                epoll.delete(&site.listener)?;
                listening = false;
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    let mut clients: Vec<_> = (0..4).map(|_| crowd.client()).collect::<io::Result<_>>()?;
    for client in &clients {
        client.say(b"hello")?;
    }
    // An epoll, and two clients.
    crowd.leave_descriptors(3)?;
    crowd.open()?;
    match crowd.rest()? {
        Rest::Spinning => {
            return Ok(wrong("two clients wait, and the server spends all of its time on failing accepts"));
        }
        Rest::Ended => return Ok(wrong("the server has ended")),
        Rest::Asleep => {}
    }
    // Its own number stays taken here, or there would be two more.
    clients[0].finish()?;
    let third = clients.remove(2).hear(5)?;
    Ok(match (&third[..], crowd.rest()?) {
        (b"hello", Rest::Asleep) => fine("the server slept while two waited, and let the next in when one had left"),
        _ => wrong("a descriptor was free, and the next client was not let in"),
    })
}
