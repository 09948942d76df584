//! The branch for the hang-up comes after the one that always runs.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "hup-branch-last",
    mistake: "if IN … else if HUP …: the clean-up stands in a branch that never runs",
    lesson: "Of a connection HUP comes with IN, if that was asked for. The end is what recv says: 0, or an error.",
    traffic: "Five clients are answered and then go by a reset.",
    rules: &["hup-branch-after-in-never-runs", "rst-mask"],
    file: file!(),
    source: include_str!("hup_branch_last.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            } else if event.readable() {
                while let Some(client) = clients.get(event.data()) {
                    match ready(recv_slice(client, &mut chunk)) {
                        Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                        Ok(None) => break,
                        // WRONG: "the branch below will see to it".
                        _ => break,
                    }
                }
            } else if event.hung_up() {
                clients.close(&epoll, event.data());
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    let mut chunk = [0; 1024];
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            } else if event.should_read() {
                while let Some(client) = clients.get(event.data()) {
                    match ready(recv_slice(client, &mut chunk)) {
                        Ok(Some(n @ 1..)) if answer(client, &chunk[..n]).is_ok() => {}
                        Ok(None) => break,
                        // RIGHT: the end, or an error: it is over.
                        _ => clients.close(&epoll, event.data()),
                    }
                }
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    super::five_resets(crowd)
}
