//! Six clients come, one edge is told.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "one-accept-per-edge",
    mistake: "one accept for each event of an edge-triggered listener",
    lesson: "An edge says that the accept queue is not empty, once for however many are in it. Accept until EAGAIN.",
    traffic: "Six clients are connected before the server looks for the first time. Each says something.",
    rules: &["et-single-accept-strands", "et-reports-once"],
    file: file!(),
    source: include_str!("one_accept_per_edge.rs"),
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
            // WRONG: one event, one accept; the others wait for an edge.
            if let Some(client) = site.accept()? {
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
            // RIGHT: until nobody is left in the queue.
            while let Some(client) = site.accept()? {
                clients.admit(&epoll, client, Mode::EDGE)?;
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    let clients: Vec<_> = (0..6).map(|_| crowd.client()).collect::<io::Result<_>>()?;
    for client in &clients {
        client.say(b"is anybody there?")?;
    }
    crowd.open()?;
    crowd.rest()?;
    let mut answered = 0;
    for client in &clients {
        answered += usize::from(client.hear(17)? == b"is anybody there?");
    }
    let words = format!("{answered} of 6 clients were answered");
    Ok(if answered == 6 { fine(words) } else { wrong(words + "; then the server slept") })
}
