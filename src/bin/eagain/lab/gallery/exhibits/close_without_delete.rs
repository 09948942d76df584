//! A registration that nobody can remove.

use std::collections::BTreeMap;

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "close-without-delete",
    mistake: "a connection of which a duplicate lives is closed without EPOLL_CTL_DEL",
    lesson: "A registration goes with the last duplicate, not with the number. DEL before close, always.",
    traffic: "One client is answered and leaves. A duplicate of its socket is kept, as after a fork, or by a log.",
    rules: &["close-with-dup-ghost", "close-last-fd-removes"],
    file: file!(),
    source: include_str!("close_without_delete.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, _) = tools()?;
    let (mut clients, mut kept) = (BTreeMap::new(), Vec::new());
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                let Some(client) = site.accept()? else { continue };
                kept.push(client.get_ref().try_clone()?);
                let key = kept.len() as u64;
                epoll.add_nonblocking(&client, key, Interest::READ, Mode::LEVEL)?;
                clients.insert(key, client);
            } else if let Some(client) = clients.get(&key) {
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                    Ok(None) => {}
                    _ => {
                        // WRONG: closed, but still registered.
                        clients.remove(&key);
                    }
                }
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, _) = tools()?;
    let (mut clients, mut kept) = (BTreeMap::new(), Vec::new());
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                let Some(client) = site.accept()? else { continue };
                kept.push(client.get_ref().try_clone()?);
                let key = kept.len() as u64;
                epoll.add_nonblocking(&client, key, Interest::READ, Mode::LEVEL)?;
                clients.insert(key, client);
            } else if let Some(client) = clients.get(&key) {
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                    Ok(None) => {}
                    _ => {
                        // RIGHT: while it can still be named.
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
    let client = crowd.client()?;
    if !client.is_echoed(b"good-bye")? {
        return Ok(wrong("the client was not answered"));
    }
    drop(client);
    super::rests_without_clients(crowd)
}
