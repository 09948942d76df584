//! A client that sends and does not read.

use std::collections::BTreeMap;

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "queue-without-bound",
    mistake: "what a client does not take is queued, however much it is",
    lesson: "While much waits for a client, do not read from it: TCP then holds it back, and memory has a bound.",
    traffic: "A client sends 4 MiB to an echo server without reading; then it reads all that it has sent.",
    rules: &["lt-in-kept-on-while-backlogged"],
    file: file!(),
    source: include_str!("queue_without_bound.rs"),
    broken,
    repaired,
    visit,
};

const FLOOD: usize = 4 << 20;
const BOUND: usize = 64 << 10;

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let (mut chunk, mut queues) = (vec![0; BOUND], BTreeMap::new());
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
                continue;
            }
            let queue: &mut Vec<u8> = queues.entry(key).or_default();
            if event.should_read() {
                // WRONG: whatever comes is read, and kept.
                let came = clients.hear(&epoll, key, &mut chunk);
                queue.extend_from_slice(&chunk[..came.unwrap_or(0)]);
            }
            let Some(client) = clients.get(key) else {
                queues.remove(&key);
                continue;
            };
            site.note_queued(queue.len());
            let sent = ready(send(client, queue)).ok().flatten();
            queue.drain(..sent.unwrap_or(0));
            let interest = match queue.len() {
                0 => Interest::READ,
                _ => Interest::READ | Interest::WRITE,
            };
            epoll.modify_nonblocking(client, key, interest, Mode::LEVEL)?;
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let (mut chunk, mut queues) = (vec![0; BOUND], BTreeMap::new());
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
                continue;
            }
            let queue: &mut Vec<u8> = queues.entry(key).or_default();
            if event.should_read() {
                // RIGHT: as much as there is room for.
                let room = BOUND - queue.len();
                let came = clients.hear(&epoll, key, &mut chunk[..room]);
                queue.extend_from_slice(&chunk[..came.unwrap_or(0)]);
            }
            let Some(client) = clients.get(key) else {
                queues.remove(&key);
                continue;
            };
            site.note_queued(queue.len());
            let sent = ready(send(client, queue)).ok().flatten();
            queue.drain(..sent.unwrap_or(0));
            let interest = match queue.len() {
                0 => Interest::READ,
                // RIGHT: a full queue reads nothing.
                BOUND => Interest::WRITE,
                _ => Interest::READ | Interest::WRITE,
            };
            epoll.modify_nonblocking(client, key, interest, Mode::LEVEL)?;
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.small_send_buffers()?;
    crowd.open()?;
    let client = crowd.client()?;
    let mut sent = client.flood(FLOOD)?;
    // What the kernel had taken goes on to the server.
    crowd.rest()?;
    let queued = crowd.site().most_queued();
    // Then it reads, and sends what was held back: nothing is lost by that.
    let mut heard = 0;
    while heard < FLOOD {
        match client.hear_in_the_end((sent - heard).min(1 << 20))?.len() {
            0 => break,
            count => heard += count,
        }
        sent += client.flood((FLOOD - sent).min(1 << 20))?;
    }
    if heard < FLOOD {
        return Ok(wrong("what the client sent did not all come back"));
    }
    Ok(if queued <= BOUND {
        fine(format!("the server never kept more than {} KiB, and all came back in the end", BOUND >> 10))
    } else {
        wrong(format!("the server kept {} of 4 MiB for one client, and would have kept any number", queued >> 20))
    })
}
