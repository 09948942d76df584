//! One has much to say, the other little.

use std::collections::BTreeSet;

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "no-budget",
    mistake: "a connection is read until EAGAIN, however long that takes",
    lesson: "Whoever sends as fast as it is read never lets EAGAIN come. After a budget it is the turn of the others.",
    traffic: "One client has sent 48 KiB, another one byte. The answer to that says how much was read before.",
    rules: &["flood-starves-neighbours"],
    file: file!(),
    source: include_str!("no_budget.rs"),
    broken,
    repaired,
    visit,
};

const KIB: usize = 1024;
const BUDGET: usize = 4;

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let (mut turn, mut chunk, mut read) = (BTreeSet::new(), [0; KIB], 0);
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        turn.extend(events.iter().map(|event| event.data()));
        for key in std::mem::take(&mut turn) {
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            }
            // WRONG: nobody else is looked at until the end.
            while let Some(client) = clients.get(key) {
                let before = [(read / KIB) as u8];
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(1)) if answer(client, &before).is_ok() => {}
                    Ok(Some(count @ 2..)) => read += count,
                    Ok(None) => break,
                    _ => clients.close(&epoll, key),
                }
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let (mut turn, mut chunk, mut read) = (BTreeSet::new(), [0; KIB], 0);
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        // RIGHT: who was interrupted goes on, without a new edge.
        let timeout = if turn.is_empty() { Timeout::Never } else { Timeout::Now };
        epoll.wait(&mut events, timeout)?;
        turn.extend(events.iter().map(|event| event.data()));
        for key in std::mem::take(&mut turn) {
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            }
            let mut left = BUDGET;
            while let Some(client) = clients.get(key) {
                // RIGHT: so much, and then the others.
                if left == 0 {
                    turn.insert(key);
                    break;
                }
                left -= 1;
                let before = [(read / KIB) as u8];
                match ready(recv_slice(client, &mut chunk)) {
                    Ok(Some(1)) if answer(client, &before).is_ok() => {}
                    Ok(Some(count @ 2..)) => read += count,
                    Ok(None) => break,
                    _ => clients.close(&epoll, key),
                }
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    let (flooding, modest) = (crowd.client()?, crowd.client()?);
    flooding.say(&[b'x'; 48 * KIB])?;
    modest.say(b"?")?;
    crowd.open()?;
    let heard = modest.hear(1)?;
    let Some(&before) = heard.first() else { return Ok(wrong("the second client was not answered at all")) };
    let words = format!("the second client was answered after {before} KiB of the first");
    Ok(if usize::from(before) <= BUDGET { fine(words) } else { wrong(words) })
}
