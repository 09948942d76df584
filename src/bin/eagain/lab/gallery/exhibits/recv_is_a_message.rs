//! A line comes in two pieces.

use std::collections::BTreeMap;

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "recv-is-a-message",
    mistake: "what one recv returns is taken for one message",
    lesson: "TCP is a stream: the network cuts it where it likes. Keep what came until a message is whole.",
    traffic: "A client sends a line in two pieces. Each message is to be answered with its length.",
    rules: &["one-recv-is-not-one-message"],
    file: file!(),
    source: include_str!("recv_is_a_message.rs"),
    broken,
    repaired,
    visit,
};

/// Of a line: its length is a byte.
const LONGEST: usize = 200;

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 50];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if let Some(count) = clients.hear(&epoll, key, &mut chunk) {
                // WRONG: it may be half of one, or two.
                clients.answer(&epoll, key, &[count as u8]);
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 50];
    let mut lines: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            let key = event.data();
            if key == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if let Some(count) = clients.hear(&epoll, key, &mut chunk) {
                // RIGHT: kept, until a line has its end.
                let line = lines.entry(key).or_default();
                line.extend_from_slice(&chunk[..count]);
                while let Some(end) = line.iter().position(|&b| b == b'\n') {
                    line.drain(..=end);
                    clients.answer(&epoll, key, &[end as u8 + 1]);
                }
                if line.len() > LONGEST {
                    clients.close(&epoll, key);
                }
            }
            if clients.get(key).is_none() {
                lines.remove(&key);
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    let client = crowd.client()?;
    client.say(b"hel")?;
    crowd.rest()?;
    client.say(b"lo\n")?;
    let heard = client.hear(2)?;
    Ok(if heard == [6] {
        fine("one line, one answer: 6 bytes")
    } else {
        wrong(format!("the line was answered as {} messages, of {heard:?} bytes", heard.len()))
    })
}
