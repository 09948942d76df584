//! The 60 cases of the kernel's `epoll_wakeup_test.c`, as a table.
//!
//! - `flat1`: an epoll with one socket. `flat2`: with two, both of which get data.
//! - `chain`: an outer epoll with an inner one with a socket.
//! - `twins`: an outer epoll with two inner ones with a socket each, both of which get data.
//!
//! A thread waits in `epoll_wait`, or in `poll` on the epoll and then in `epoll_wait` with a timeout of 0.

use std::sync::mpsc::sync_channel;

use eagain::sys::raw;

use super::prelude::*;

/// How long a thread waits at the most; who is not woken is interrupted before.
const LONG_MS: i32 = 5_000;

/// What is watched by what.
#[derive(Clone, Copy)]
enum Shape {
    Flat(usize),
    Chain,
    Twins,
}

/// How a thread waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Wait,
    Poll,
}

/// Who waits, and what is to come of it.
#[derive(Clone, Copy)]
enum Who {
    /// One thread, two rounds: what each call returned.
    Alone(By, &'static str),
    /// Two threads on the outer epoll, with room for so many events: how many were told of something.
    Two(By, By, usize, i64),
    /// One thread on the inner epoll and one on the outer. The first is always told; whether the second is.
    InnerAndOuter(By, By, Told),
}

/// Of the second thread, after the first may have taken an edge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Always,
    Perhaps,
}

struct Case(&'static str, Shape, Mask, Mask, Who);

use By::{Poll, Wait};
use Shape::{Chain, Flat, Twins};
use Told::{Always, Perhaps};
use Who::{Alone, InnerAndOuter, Two};

/// Number and name; shape; mode of the outer epoll (or the only one) and of the inner; who waits and what must come.
const CASES: &[Case] = &[
    Case("1: flat1 LT, wait", Flat(1), NONE, NONE, Alone(Wait, "1 1")),
    Case("2: flat1 ET, wait", Flat(1), ET, NONE, Alone(Wait, "1 0")),
    Case("3: flat2 LT, wait", Flat(2), NONE, NONE, Alone(Wait, "2 2")),
    Case("4: flat2 ET, wait", Flat(2), ET, NONE, Alone(Wait, "2 0")),
    Case("5: flat1 LT, poll", Flat(1), NONE, NONE, Alone(Poll, "1 1 1 1")),
    Case("6: flat1 ET, poll", Flat(1), ET, NONE, Alone(Poll, "1 1 0 0")),
    Case("7: flat2 LT, poll", Flat(2), NONE, NONE, Alone(Poll, "1 2 1 2")),
    Case("8: flat2 ET, poll", Flat(2), ET, NONE, Alone(Poll, "1 2 0 0")),
    Case("9: flat1 LT, wait + wait", Flat(1), NONE, NONE, Two(Wait, Wait, 1, 2)),
    Case("10: flat1 ET, wait + wait", Flat(1), ET, NONE, Two(Wait, Wait, 1, 1)),
    Case("11: flat2 LT, wait + wait", Flat(2), NONE, NONE, Two(Wait, Wait, 2, 2)),
    Case("12: flat2 ET, wait + wait", Flat(2), ET, NONE, Two(Wait, Wait, 1, 2)),
    Case("13: flat1 LT, wait + poll", Flat(1), NONE, NONE, Two(Wait, Poll, 1, 2)),
    Case("14: flat1 ET, wait + poll", Flat(1), ET, NONE, Two(Wait, Poll, 1, 1)),
    Case("15: flat2 LT, wait + poll", Flat(2), NONE, NONE, Two(Wait, Poll, 2, 2)),
    Case("16: flat2 ET, wait + poll", Flat(2), ET, NONE, Two(Wait, Poll, 1, 2)),
    Case("17: chain LT/LT, wait", Chain, NONE, NONE, Alone(Wait, "1 1")),
    Case("18: chain LT/ET, wait", Chain, NONE, ET, Alone(Wait, "1 1")),
    Case("19: chain ET/LT, wait", Chain, ET, NONE, Alone(Wait, "1 0")),
    Case("20: chain ET/ET, wait", Chain, ET, ET, Alone(Wait, "1 0")),
    Case("21: chain LT/LT, poll", Chain, NONE, NONE, Alone(Poll, "1 1 1 1")),
    Case("22: chain LT/ET, poll", Chain, NONE, ET, Alone(Poll, "1 1 1 1")),
    Case("23: chain ET/LT, poll", Chain, ET, NONE, Alone(Poll, "1 1 0 0")),
    Case("24: chain ET/ET, poll", Chain, ET, ET, Alone(Poll, "1 1 0 0")),
    Case("25: chain LT/LT, wait + wait", Chain, NONE, NONE, Two(Wait, Wait, 1, 2)),
    Case("26: chain LT/ET, wait + wait", Chain, NONE, ET, Two(Wait, Wait, 1, 2)),
    Case("27: chain ET/LT, wait + wait", Chain, ET, NONE, Two(Wait, Wait, 1, 1)),
    Case("28: chain ET/ET, wait + wait", Chain, ET, ET, Two(Wait, Wait, 1, 1)),
    Case("29: chain LT/LT, wait + poll", Chain, NONE, NONE, Two(Wait, Poll, 1, 2)),
    Case("30: chain LT/ET, wait + poll", Chain, NONE, ET, Two(Wait, Poll, 1, 2)),
    Case("31: chain ET/LT, wait + poll", Chain, ET, NONE, Two(Wait, Poll, 1, 1)),
    Case("32: chain ET/ET, wait + poll", Chain, ET, ET, Two(Wait, Poll, 1, 1)),
    Case("33: chain LT/LT, inner wait, outer wait", Chain, NONE, NONE, InnerAndOuter(Wait, Wait, Always)),
    Case("34: chain LT/ET, inner wait, outer wait", Chain, NONE, ET, InnerAndOuter(Wait, Wait, Perhaps)),
    Case("35: chain ET/LT, inner wait, outer wait", Chain, ET, NONE, InnerAndOuter(Wait, Wait, Always)),
    Case("36: chain ET/ET, inner wait, outer wait", Chain, ET, ET, InnerAndOuter(Wait, Wait, Perhaps)),
    Case("37: chain LT/LT, inner poll, outer wait", Chain, NONE, NONE, InnerAndOuter(Poll, Wait, Always)),
    Case("38: chain LT/ET, inner poll, outer wait", Chain, NONE, ET, InnerAndOuter(Poll, Wait, Perhaps)),
    Case("39: chain ET/LT, inner poll, outer wait", Chain, ET, NONE, InnerAndOuter(Poll, Wait, Always)),
    Case("40: chain ET/ET, inner poll, outer wait", Chain, ET, ET, InnerAndOuter(Poll, Wait, Perhaps)),
    Case("41: chain LT/LT, inner wait, outer poll", Chain, NONE, NONE, InnerAndOuter(Wait, Poll, Always)),
    Case("42: chain LT/ET, inner wait, outer poll", Chain, NONE, ET, InnerAndOuter(Wait, Poll, Perhaps)),
    Case("43: chain ET/LT, inner wait, outer poll", Chain, ET, NONE, InnerAndOuter(Wait, Poll, Always)),
    Case("44: chain ET/ET, inner wait, outer poll", Chain, ET, ET, InnerAndOuter(Wait, Poll, Perhaps)),
    Case("45: chain LT/LT, inner poll, outer poll", Chain, NONE, NONE, InnerAndOuter(Poll, Poll, Always)),
    Case("46: chain LT/ET, inner poll, outer poll", Chain, NONE, ET, InnerAndOuter(Poll, Poll, Perhaps)),
    Case("47: chain ET/LT, inner poll, outer poll", Chain, ET, NONE, InnerAndOuter(Poll, Poll, Always)),
    Case("48: chain ET/ET, inner poll, outer poll", Chain, ET, ET, InnerAndOuter(Poll, Poll, Perhaps)),
    Case("49: twins LT/LT, wait", Twins, NONE, NONE, Alone(Wait, "2 2")),
    Case("50: twins ET/LT, wait", Twins, ET, NONE, Alone(Wait, "2 0")),
    Case("51: twins LT/LT, poll", Twins, NONE, NONE, Alone(Poll, "1 2 1 2")),
    Case("52: twins ET/LT, poll", Twins, ET, NONE, Alone(Poll, "1 2 0 0")),
    Case("53: twins LT/LT, wait + wait", Twins, NONE, NONE, Two(Wait, Wait, 1, 2)),
    Case("54: twins ET/LT, wait + wait", Twins, ET, NONE, Two(Wait, Wait, 1, 2)),
    Case("55: twins LT/LT, wait + poll", Twins, NONE, NONE, Two(Wait, Poll, 1, 2)),
    Case("56: twins ET/LT, wait + poll", Twins, ET, NONE, Two(Wait, Poll, 1, 2)),
    Case("57: twins LT/LT, poll + poll", Twins, NONE, NONE, Two(Poll, Poll, 1, 2)),
    Case("58: twins ET/LT, poll + poll", Twins, ET, NONE, Two(Poll, Poll, 1, 2)),
];

pub(super) fn run(stage: &Stage) -> Outcome {
    for case in CASES {
        perform(stage, case)?;
    }
    let lost = stage.silently(|| mod_race(stage))?;
    stage.saw("59: MOD beside a waiter, waits that found nothing", lost).is(0)?;
    let lost = stage.silently(|| ten_eventfds(stage))?;
    stage.saw("60: ten eventfds, ten threads, wake-ups lost", lost).is(0)?;
    Ok(())
}

fn perform(stage: &Stage, Case(name, shape, outside, inside, who): &Case) -> Outcome {
    match *who {
        Alone(by, expected) => {
            let told = stage.silently(|| {
                let (outer, _inner, sockets) = build(stage, *shape, *outside, *inside)?;
                write_all(&sockets)?;
                Ok(two_rounds(stage, &outer, by))
            })?;
            stage.saw(name, told).is(expected)?;
        }
        Two(first, second, room, expected) => {
            let told = stage.silently(|| {
                let (outer, _inner, sockets) = build(stage, *shape, *outside, *inside)?;
                two_threads(stage, [(&outer, first), (&outer, second)], room, &sockets)
            })?;
            stage.saw(name, told.into_iter().filter(|told| *told).count()).is(expected)?;
        }
        InnerAndOuter(first, second, the_second) => {
            let [inner_told, outer_told] = stage.silently(|| {
                let (outer, inner, sockets) = build(stage, *shape, *outside, *inside)?;
                two_threads(stage, [(&inner[0], first), (&outer, second)], 1, &sockets)
            })?;
            let as_it_should = inner_told && (outer_told || the_second == Perhaps);
            stage.saw(name, as_it_should).is(true)?;
        }
    }
    Ok(())
}

type Sockets = Vec<(File, File)>;

/// The outer epoll, the inner ones, and the sockets. Who drops an inner one has closed it.
fn build(stage: &Stage, shape: Shape, outside: Mask, inside: Mask) -> Outcome<(Ep, Vec<Ep>, Sockets)> {
    let outer = stage.epoll()?;
    let (mut sockets, mut inner) = (Vec::new(), Vec::new());
    match shape {
        Flat(count) => {
            for _ in 0..count {
                let pair = stage.unix_pair()?;
                outer.add(&pair.0, IN | outside)?;
                sockets.push(pair);
            }
        }
        Chain | Twins => {
            for _ in 0..if matches!(shape, Twins) { 2 } else { 1 } {
                let (pair, ep) = (stage.unix_pair()?, stage.epoll()?);
                outer.add(&ep, IN | outside)?;
                ep.add(&pair.0, IN | inside)?;
                sockets.push(pair);
                inner.push(ep);
            }
        }
    }
    Ok((outer, inner, sockets))
}

fn write_all(sockets: &Sockets) -> Outcome {
    sockets.iter().try_for_each(|(_, peer)| peer.send(1))
}

fn two_rounds(stage: &Stage, ep: &Ep, by: By) -> String {
    let mut told = Vec::new();
    for _ in 0..2 {
        if by == Poll {
            told.push(poll_now(stage, &ep.name, ep.number(), IN).events().len());
        }
        told.push(ep.wait(0).events().len());
    }
    told.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Two threads that wait; then the sockets get data. Whether each was told of something.
fn two_threads(stage: &Stage, who: [(&Ep, By); 2], room: usize, sockets: &Sockets) -> Outcome<[bool; 2]> {
    let mut threads = Vec::new();
    for ((ep, by), name) in who.into_iter().zip(["A", "B"]) {
        let ep = ep.clone();
        let thread = stage.thread(name, move || {
            if by == Poll {
                let _ = raw::poll(&[(ep.number(), libc::POLLIN)], LONG_MS);
            }
            let timeout_ms = if by == Poll { 0 } else { LONG_MS };
            !ep.wait_for(room, timeout_ms).events().is_empty()
        })?;
        thread.asleep()?;
        threads.push(thread);
    }
    write_all(sockets)?;
    let told = stage.gather(threads)?;
    Ok([told[0], told[1]])
}

/// A thread waits while another changes the mask, so that what is ready becomes of interest: each wait must find it.
fn mod_race(stage: &Stage) -> Outcome<usize> {
    const ROUNDS: usize = 500;
    let eventfd = stage.eventfd()?;
    eventfd.add(1)?;
    let ep = stage.epoll()?;
    ep.add(&eventfd, ERR)?;
    let (go, gone) = sync_channel::<()>(0);
    let (other, watched) = (ep.clone(), eventfd.clone());
    let modifier = stage.thread("B", move || {
        while gone.recv().is_ok() {
            let _ = other.try_modify(&watched, IN | ERR | ET);
        }
    })?;
    let mut lost = 0;
    for _ in 0..ROUNDS {
        let _ = go.send(());
        lost += usize::from(ep.wait_for(1, LONG_MS).events().is_empty());
        ep.modify(&eventfd, ERR)?;
    }
    drop(go);
    modifier.join()?;
    Ok(lost)
}

/// Ten threads wait on one epoll, ten eventfds are written to at once: each thread must get one.
fn ten_eventfds(stage: &Stage) -> Outcome<usize> {
    let mut lost = 0;
    for _ in 0..5 {
        let ep = stage.epoll()?;
        let mut eventfds = Vec::new();
        for _ in 0..10 {
            let eventfd = stage.eventfd()?;
            ep.add(&eventfd, IN | ET)?;
            eventfds.push(eventfd);
        }
        let threads: Vec<_> = ["A"; 10].iter().map(|name| ep.waiter(name, LONG_MS)).collect::<Outcome<_>>()?;
        eventfds.iter().try_for_each(|eventfd| eventfd.add(1))?;
        for thread in threads {
            lost += usize::from(thread.join()?.events().is_empty());
        }
    }
    Ok(lost)
}
