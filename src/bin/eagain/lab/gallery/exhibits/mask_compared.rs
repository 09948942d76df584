//! A reset is more than one bit.

use super::super::prelude::*;

pub(super) static EXHIBIT: Exhibit = Exhibit {
    id: "mask-compared",
    mistake: "the mask of an event is compared with ==",
    lesson: "An event has several bits at once; that of a reset is IN|ERR|HUP. Test the bits one by one.",
    traffic: "Five clients are answered and then go by a reset.",
    rules: &["equality-test-misses-combined-bits", "rst-mask"],
    file: file!(),
    source: include_str!("mask_compared.rs"),
    broken,
    repaired,
    visit,
};

fn broken(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            // WRONG: false for IN|ERR|HUP, and nobody else looks.
            } else if event.bits() == Interest::READ.bits() {
                clients.echo(&epoll, event);
            }
        }
    }
}

fn repaired(site: &Site) -> io::Result<()> {
    let (epoll, mut events, mut clients) = tools()?;
    epoll.add(&site.listener, LISTENER, Interest::READ, Mode::EDGE)?;
    loop {
        epoll.wait(&mut events, Timeout::Never)?;
        for event in events.iter() {
            if event.data() == LISTENER {
                clients.admit_all(&epoll, site, Mode::EDGE)?;
            // RIGHT: IN, RDHUP, ERR or HUP, alone or together.
            } else if event.should_read() {
                clients.echo(&epoll, event);
            }
        }
    }
}

fn visit(crowd: &Crowd) -> io::Result<Seen> {
    super::five_resets(crowd)
}
