//! A megabyte is given to send, which takes a part.

use std::collections::BTreeMap;

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "send-result-ignored",
    mistake: "the result of send is not looked at",
    lesson: "send takes what fits and says how much that was. Keep the rest, ask for OUT, go on when it comes.",
    traffic: "A client asks for an answer of a megabyte, and reads it when the server has done what it can.",
    rules: &["short-send-loses-bytes"],
    file: file!(),
    source: include_str!("send_result_ignored.rs"),
    broken,
    repaired,
    visit,
};

const ANSWER: usize = 1 << 20;

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let page = vec![b'x'; ANSWER];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if let Some(client) = clients.get(key) {
                let _ = recv_slice(client, &mut [0; 64]);
                // WRONG: how much of it?
                let _ = send(client, &page);
                clients.close(&epoll, key);
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let page = vec![b'x'; ANSWER];
    let mut progress = BTreeMap::new();
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if let Some(client) = clients.get(key) {
                let _ = recv_slice(client, &mut [0; 64]);
                // RIGHT: the count is kept; the rest follows on OUT.
                let sent = progress.entry(key).or_insert(0);
                match ready(send(client, &page[*sent..])) {
                    Ok(count) => *sent += count.unwrap_or(0),
                    Err(_) => *sent = ANSWER,
                }
                if *sent == ANSWER {
                    progress.remove(&key);
                    clients.close(&epoll, key);
                } else {
                    epoll.modify_nonblocking(client, key, Interest::WRITE, Mode::LEVEL)?;
                }
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.small_send_buffers()?;
    crowd.open()?;
    let client = crowd.client()?;
    client.say(b"the page, please")?;
    crowd.rest()?;
    let heard = client.hear_in_the_end(ANSWER)?.len();
    Ok(if heard == ANSWER {
        fine("the whole answer came")
    } else {
        wrong("the answer was cut short, and then the connection closed as if it had been all")
    })
}
