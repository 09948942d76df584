//! An answer that takes its time, and one that need not.

use std::collections::VecDeque;

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "slow-answer",
    mistake: "an answer that is due later is slept for in the loop",
    lesson: "The loop is the only one who works: while it sleeps for one, it sleeps for all. Wait in epoll_wait.",
    traffic: "One client asks for a late answer, another for one at once. Each answer says how many went before.",
    rules: &["slow-handler-delays-everyone"],
    file: file!(),
    source: include_str!("slow_answer.rs"),
    broken,
    repaired,
    visit,
};

const LATE: Duration = Duration::from_millis(50);

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let (mut question, mut answers) = ([0; 64], 0);
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if clients.hear(&epoll, event.data(), &mut question).is_some() {
                if question.starts_with(b"late") {
                    // WRONG: everybody waits.
                    std::thread::sleep(LATE);
                }
                clients.answer(&epoll, event.data(), &[answers]);
                answers += 1;
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let (mut question, mut answers) = ([0; 64], 0);
    let mut due = VecDeque::new();
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::LEVEL)?;
    loop {
        // RIGHT: until something comes, or the first of these is due.
        let next: Option<&(Instant, u64)> = due.front();
        let left = next.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        epoll.wait(&mut events, left.into())?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::LEVEL)?;
            } else if clients.hear(&epoll, event.data(), &mut question).is_some() {
                if question.starts_with(b"late") {
                    due.push_back((Instant::now() + LATE, event.data()));
                    continue;
                }
                clients.answer(&epoll, event.data(), &[answers]);
                answers += 1;
            }
        }
        while let Some(&(at, key)) = due.front()
            && at <= Instant::now()
        {
            due.pop_front();
            clients.answer(&epoll, key, &[answers]);
            answers += 1;
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    let (patient, hasty) = (crowd.client()?, crowd.client()?);
    patient.say(b"late")?;
    hasty.say(b"now")?;
    crowd.open()?;
    let (first, second) = (hasty.hear_in_the_end(1)?, patient.hear_in_the_end(1)?);
    Ok(match (&first[..], &second[..]) {
        ([0], [1]) => fine("the client in a hurry was answered first"),
        ([1], [0]) => wrong("the client in a hurry was answered second, after the whole delay of the other"),
        _ => wrong("not both clients were answered"),
    })
}
