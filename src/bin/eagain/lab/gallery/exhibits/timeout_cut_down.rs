//! 0.9 milliseconds are 0 milliseconds.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "timeout-cut-down",
    mistake: "the time until a deadline is cut down to whole milliseconds",
    lesson: "Cut down, the last fraction is a timeout of 0, and the loop spins until it is over. Round up.",
    traffic: "A client asks 21 times for an answer that is due 0.9 ms later. It says how often the server waited.",
    rules: &["ms-truncation-spins", "pwait2-nanoseconds"],
    file: file!(),
    source: include_str!("timeout_cut_down.rs"),
    broken,
    repaired,
    visit,
};

const DELAY: Duration = Duration::from_micros(900);

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    // One answer at a time: when, to whom, after how many waits.
    let mut due: Option<(Instant, u64, u8)> = None;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        let left = due.map(|(at, ..)| at.saturating_duration_since(Instant::now()));
        // WRONG: 0.9 ms become 0.
        let left = left.map(|left| Duration::from_millis(left.as_millis() as u64));
        epoll.wait(&mut events, left.into())?;
        if let Some((at, key, waits)) = &mut due {
            *waits = waits.saturating_add(1);
            if *at <= Instant::now() {
                clients.answer(&epoll, *key, &[*waits]);
                due = None;
            }
        }
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if clients.hear(&epoll, event.data(), &mut [0; 64]).is_some() {
                due = Some((Instant::now() + DELAY, event.data(), 0));
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    // One answer at a time: when, to whom, after how many waits.
    let mut due: Option<(Instant, u64, u8)> = None;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        let left = due.map(|(at, ..)| at.saturating_duration_since(Instant::now()));
        // RIGHT: the wrapper waits in nanoseconds, or rounds up.
        epoll.wait(&mut events, left.into())?;
        if let Some((at, key, waits)) = &mut due {
            *waits = waits.saturating_add(1);
            if *at <= Instant::now() {
                clients.answer(&epoll, *key, &[*waits]);
                due = None;
            }
        }
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if clients.hear(&epoll, event.data(), &mut [0; 64]).is_some() {
                due = Some((Instant::now() + DELAY, event.data(), 0));
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    crowd.open()?;
    let client = crowd.client()?;
    let mut waits = Vec::new();
    for _ in 0..21 {
        client.say(b"?")?;
        waits.extend(client.hear(1)?);
    }
    waits.sort_unstable();
    // Most, not the mean: now and then another program has the processor.
    Ok(match waits.get(10) {
        Some(count @ ..=3) => fine(format!("most answers took {count} wait")),
        Some(count) => wrong(format!("most answers took {count} waits or more: it looks again and again")),
        None => wrong("the client was not answered"),
    })
}
