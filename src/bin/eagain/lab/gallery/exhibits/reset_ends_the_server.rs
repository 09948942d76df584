//! The error of one connection is handed up.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "reset-ends-the-server",
    mistake: "an error of one connection is handed up until it ends the loop",
    lesson: "ECONNRESET is the affair of the connection that has it. Close that one; the loop ends for its own errors.",
    traffic: "Two clients are answered; one goes by a reset; the other asks again.",
    rules: &["rst-mask", "rst-keeps-received-data"],
    file: file!(),
    source: include_str!("reset_ends_the_server.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if let Some(client) = clients.get(event.data()) {
                // WRONG: `?` is the end of all of them.
                match ready(recv_slice(client, &mut chunk))? {
                    Some(n @ 1..) if answer(client, &chunk[..n]).is_ok() => {}
                    None => {}
                    _ => clients.close(&epoll, event.data()),
                }
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if let Some(client) = clients.get(event.data()) {
                // RIGHT: an error is the end of this one.
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                    Ok(None) => {}
                    _ => clients.close(&epoll, event.data()),
                }
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    let (first, second) = (crowd.client()?, crowd.client()?);
    if !(first.is_echoed(b"hello")? && second.is_echoed(b"hello")?) {
        return Ok(wrong("the clients were not answered before the reset"));
    }
    first.reset()?;
    if crowd.rest()? == Rest::Ended {
        return Ok(wrong("the server has ended, and the second client with it"));
    }
    Ok(if second.is_echoed(b"still there?")? {
        fine("the second client noticed nothing")
    } else {
        wrong("the second client was not answered any more")
    })
}
