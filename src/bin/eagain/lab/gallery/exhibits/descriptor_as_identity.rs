//! A late answer, and a number that means somebody else by then.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "descriptor-as-identity",
    mistake: "connections are known by the number of their descriptor",
    lesson: "A number is given to the next client as soon as it is free. Know connections by what is never used again.",
    traffic: "A client asks and leaves before the answer is there; another comes; then the backend is done.",
    rules: &["fd-number-reuse", "data-is-opaque"],
    file: file!(),
    source: include_str!("descriptor_as_identity.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, _) = tools()?;
    let (mut clients, mut asked) = (BTreeMap::new(), Vec::new());
    let mut question = [0; 64];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    epoll.add(&site.backend, BACKEND, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                let Some(client) = site.accept()? else { continue };
                // WRONG: the number of a descriptor is soon another's.
                let key = client.get_ref().as_raw_fd() as u64;
                epoll.add_nonblocking(&client, key, Interest::READ, Mode::LEVEL)?;
                clients.insert(key, client);
            } else if key == BACKEND {
                recv_slice(&site.backend, &mut [0; 64])?;
                for (key, question) in asked.drain(..) {
                    let Some(client) = clients.get(&key) else { continue };
                    let _ = answer(client, question);
                }
            } else if let Some(client) = clients.get(&key) {
                match ready(recv_slice(client, &mut question)) {
                    Ok(Some(1..)) => asked.push((key, b"what A asked for")),
                    Ok(None) => {}
                    _ => {
                        epoll.delete(client)?;
                        clients.remove(&key);
                    }
                }
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, _) = tools()?;
    let (mut clients, mut asked) = (BTreeMap::new(), Vec::new());
    let mut question = [0; 64];
    let mut last = LISTENER;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    epoll.add(&site.backend, BACKEND, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                let Some(client) = site.accept()? else { continue };
                // RIGHT: a number of our own, given once.
                last += 1;
                let key = last;
                epoll.add_nonblocking(&client, key, Interest::READ, Mode::LEVEL)?;
                clients.insert(key, client);
            } else if key == BACKEND {
                recv_slice(&site.backend, &mut [0; 64])?;
                for (key, question) in asked.drain(..) {
                    let Some(client) = clients.get(&key) else { continue };
                    let _ = answer(client, question);
                }
            } else if let Some(client) = clients.get(&key) {
                match ready(recv_slice(client, &mut question)) {
                    Ok(Some(1..)) => asked.push((key, b"what A asked for")),
                    Ok(None) => {}
                    _ => {
                        epoll.delete(client)?;
                        clients.remove(&key);
                    }
                }
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    let first = crowd.client()?;
    first.say(b"I am A; my balance?")?;
    crowd.rest()?;
    // Servers have their numbers for themselves; here the next client must not take the one that becomes free.
    let socket = crowd.socket()?;
    first.finish()?;
    crowd.rest()?;
    let second = crowd.connect(socket)?;
    crowd.rest()?;
    crowd.backend_is_done()?;
    let heard = second.hear(64)?;
    Ok(if heard.is_empty() {
        fine("the second client, who had asked nothing, was told nothing")
    } else {
        wrong(format!("the second client, who had asked nothing, was told '{}'", String::from_utf8_lossy(&heard)))
    })
}
