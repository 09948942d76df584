//! Ten kilobytes come, one is read.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "one-recv-per-edge",
    mistake: "one recv for each event of an edge-triggered connection",
    lesson: "What is left in the socket is no new edge: it stays there until more arrives. Receive until EAGAIN.",
    traffic: "A client sends 10,240 bytes at once and waits to have them back.",
    rules: &["et-partial-read-stalls", "et-drain-then-edge"],
    file: file!(),
    source: include_str!("one_recv_per_edge.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            }
            // WRONG: a chunk for each event; there may be ten.
            if let Some(client) = clients.get(event.data()) {
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                    Ok(None) => {}
                    _ => clients.close(&epoll, event.data()),
                }
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            }
            // RIGHT: until the socket says EAGAIN, or is closed.
            while let Some(client) = clients.get(event.data()) {
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                    Ok(None) => break,
                    _ => clients.close(&epoll, event.data()),
                }
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    let client = crowd.client()?;
    client.say(&[b'x'; 10_240])?;
    crowd.open()?;
    let heard = client.hear(10_240)?.len();
    let words = format!("{heard} of 10240 bytes came back");
    Ok(if heard == 10_240 { fine(words) } else { wrong(words + "; the server sleeps on the rest") })
}
