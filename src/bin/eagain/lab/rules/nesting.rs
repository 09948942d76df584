//! Epolls in epolls, and the matrix of the kernel's own selftest.

use std::os::fd::AsRawFd as _;

use eagain::sys::raw;
use nix::errno::Errno;

use super::matrix;
use super::prelude::*;

pub(crate) static GROUP: Group = Group { name: "nesting", title: "epolls in epolls", experiments: EXPERIMENTS };

/// Puts each epoll into the one before it.
fn chain(epolls: &[Ep]) -> Outcome {
    epolls.windows(2).try_for_each(|pair| pair[0].add(&pair[1], IN))
}

fn epolls(stage: &Stage, count: usize) -> Outcome<Vec<Ep>> {
    (0..count).map(|_| stage.epoll()).collect()
}

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "nested-epoll-readable",
        core: true,
        claim: "An epoll is readable, for poll, select and epoll, while something in it is ready. It is never \
                writable.",
        source: "epoll(7), questions and answers",
        why: "A loop can live inside another one: that of a toolkit, or of another runtime.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let (inner, outer) = (stage.epoll()?, stage.epoll()?);
            inner.add(&reader, IN)?;
            outer.add(&inner, IN | OUT)?;
            outer.quiet()?;
            writer.send(1)?;
            outer.reports(IN)?;
            poll_now(stage, "ep", inner.number(), IN | OUT).is(IN)?;
            let selected = raw::select(&[inner.number()], [true, true, false], 0).map_err(Errno::from_raw)?;
            stage.saw("select: readable", selected.read.len()).is(1)?;
            stage.saw("select: writable", selected.write.len()).is(0)?;
            Ok(())
        },
        mutation: fake_wait(2, &[IN.and(OUT)]),
    },
    Experiment {
        id: "nested-lt-and-et",
        core: true,
        claim: "An outer level-triggered epoll repeats as long as the inner one has something. An outer edge-triggered \
                one reports once.",
        source: "the kernel's selftests epoll17 to epoll20",
        why: "The same contract as for any file: edge-triggered outside, drain the inner one until its wait finds \
              nothing.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            for (outside, inside, repeats) in [(NONE, NONE, true), (NONE, ET, true), (ET, NONE, false), (ET, ET, false)]
            {
                let (reader, writer) = stage.pipe()?;
                let (inner, outer) = (stage.epoll()?, stage.epoll()?);
                inner.add(&reader, IN | inside)?;
                outer.add(&inner, IN | outside)?;
                writer.send(1)?;
                outer.reports(IN)?;
                if repeats {
                    outer.reports(IN)?;
                } else {
                    outer.quiet()?;
                }
            }
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "nested-poll-does-not-consume",
        core: false,
        claim: "Looking at an inner epoll by poll, or waiting on the outer one, does not consume its edge. Only a wait \
                on the inner one does.",
        source: "the kernel's selftests epoll5, 6, 18 and 22",
        why: "Look as often as you like; harvest once.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let (inner, outer) = (stage.epoll()?, stage.epoll()?);
            inner.add(&reader, IN | ET)?;
            outer.add(&inner, IN)?;
            writer.send(1)?;
            poll_now(stage, "ep", inner.number(), IN).is(IN)?;
            poll_now(stage, "ep", inner.number(), IN).is(IN)?;
            outer.reports(IN)?;
            inner.reports(IN)?;
            poll_now(stage, "ep", inner.number(), IN).is(Answer::NOTHING)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "nested-loop-eloop",
        core: true,
        claim: "Epolls that would watch one another in a circle are refused with ELOOP.",
        source: "epoll_ctl(2), ELOOP; LTP epoll_ctl05 and 07",
        why: "Such circles were a denial of service until 2.6.38.",
        since: (2, 6),
        changed: "2.6.38: refused",
        run: |stage| {
            let two = epolls(stage, 2)?;
            chain(&two)?;
            two[1].try_add(&two[0], IN).is(ELOOP)?;
            let three = epolls(stage, 3)?;
            chain(&three)?;
            three[2].try_add(&three[0], IN).is(ELOOP)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 2, Lie::Done),
    },
    Experiment {
        id: "nested-depth-limit",
        core: true,
        claim: "A chain has at most 5 epolls, whether it grows at its top, at its bottom, or by joining two.",
        source: "epoll_ctl(2), 'greater than 5'; EP_MAX_NESTS of fs/eventpoll.c",
        why: "Older kernels could be made to recurse deeper by a chain that grew at its bottom, or by joining two.",
        since: (2, 6),
        changed: "6.17 counts upwards, too (f2e467a48287, CVE-2025-38614); before, only the epolls below counted, \
                  of which 6 were allowed, unless the fix was carried back, as in 6.1.149 and 6.12.43",
        run: |stage| {
            let (upper, lower) = (epolls(stage, 2)?, epolls(stage, 3)?);
            chain(&upper)?;
            chain(&lower)?;
            upper[1].try_add(&lower[0], IN).is(())?;
            let down = epolls(stage, 6)?;
            chain(&down[..5])?;
            let at_bottom = down[4].try_add(&down[5], IN);
            let counts_upwards = at_bottom.failed() || stage.since((6, 17));
            if counts_upwards {
                at_bottom.is(ELOOP)?;
            }
            let most = if counts_upwards { 5 } else { 6 };
            let up = epolls(stage, most + 1)?;
            for pair in up[1..].windows(2).rev() {
                pair[0].add(&pair[1], IN)?;
            }
            up[0].try_add(&up[1], IN).is(ELOOP)?;
            let (upper, lower) = (epolls(stage, 3)?, epolls(stage, 3)?);
            chain(&upper)?;
            chain(&lower)?;
            let joined = upper[2].try_add(&lower[0], IN);
            if counts_upwards {
                joined.is(ELOOP)?
            } else {
                joined.is(())?
            };
            Ok(())
        },
        mutation: fake("epoll_ctl", 4, Lie::Fails(ELOOP)),
    },
    Experiment {
        id: "nested-wakeup-path-limit",
        core: false,
        claim: "A file is reached by at most 500 ways through two epolls, 100 through three: the next ADD is EINVAL. \
                Epolls that watch it directly are not limited.",
        source: "path_limits of fs/eventpoll.c; epoll_ctl(2) does not know this EINVAL",
        why: "Who makes an epoll for each connection meets an error that no manual explains.",
        since: (3, 3),
        changed: "",
        run: |stage| {
            let (top, second) = (stage.epoll()?, stage.epoll()?);
            let two = ways_into(stage, &top, &stage.pipe()?.0)?;
            stage.saw("ways through two epolls", two).is(500)?;
            stage.note("a third epoll, above the second one; and another file");
            let above = stage.epoll()?;
            above.add(&second, IN)?;
            let three = ways_into(stage, &second, &stage.pipe()?.0)?;
            stage.saw("ways through three epolls", three).is(100)?;
            Ok(())
        },
        mutation: fake("ways through two epolls", 1, Lie::Count(600)),
    },
    Experiment {
        id: "nested-close-inner",
        core: false,
        claim: "Closing the inner epoll takes it out of the outer one.",
        source: "epoll(7)",
        why: "The same rules of life at every level.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let (inner, outer) = (stage.epoll()?, stage.epoll()?);
            inner.add(&reader, IN)?;
            outer.add(&inner, IN)?;
            writer.send(1)?;
            outer.reports(IN)?;
            inner.close()?;
            outer.quiet()
        },
        mutation: fake_wait(2, &[IN]),
    },
    Experiment {
        id: "selftest-wakeup-matrix",
        core: true,
        claim: "Flat, in a chain and as twins, level- and edge-triggered, in epoll_wait and in poll, by one thread and \
                by two: in all 60 cases is woken who the kernel's selftest says.",
        source: "tools/testing/selftests/filesystems/epoll/epoll_wakeup_test.c",
        why: "The last word on who is woken how often.",
        since: (5, 7),
        changed: "",
        run: matrix::run,
        mutation: without(ET),
    },
];

/// How many epolls that watch `file` can be put into `top` before one is refused.
fn ways_into(stage: &Stage, top: &Ep, file: &File) -> Outcome<usize> {
    let add = |ep, number| raw::epoll_ctl(ep, libc::EPOLL_CTL_ADD, number, Some((IN.0, 0)));
    let mut watching = Vec::new();
    let refusal = loop {
        let ep = raw::epoll_create1(libc::EPOLL_CLOEXEC).map_err(Errno::from_raw)?;
        add(ep.as_raw_fd(), file.number()).map_err(Errno::from_raw)?;
        match add(top.number(), ep.as_raw_fd()) {
            Ok(()) if watching.len() < FAR_TOO_MANY => watching.push(ep),
            answer => break answer,
        }
    };
    stage.answered("one way more", refusal).is(EINVAL)?;
    // They are there until the experiment's process ends.
    let ways = watching.len();
    std::mem::forget(watching);
    Ok(ways)
}

const FAR_TOO_MANY: usize = 600;
