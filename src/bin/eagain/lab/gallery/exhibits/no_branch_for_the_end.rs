//! The end of the stream is ready to be read, for ever.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "no-branch-for-the-end",
    mistake: "recv's 0 is taken for 'nothing came'",
    lesson: "0 is the end of the stream. A level-triggered socket reports it until it is closed.",
    traffic: "One client is answered and leaves.",
    rules: &["eof-is-level-ready-forever", "peer-close-is-not-hup"],
    file: file!(),
    source: include_str!("no_branch_for_the_end.rs"),
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
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                    // WRONG: 0 is not "nothing yet"; that is EAGAIN.
                    Ok(Some(0) | None) => {}
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
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                    Ok(None) => {}
                    // RIGHT: 0 is the end, as an error is.
                    _ => clients.close(&epoll, event.data()),
                }
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    let client = crowd.client()?;
    if !client.is_echoed(b"good-bye")? {
        return Ok(wrong("the client was not answered"));
    }
    drop(client);
    super::rests_without_clients(crowd)
}
