//! What happened, call by call: written down while it happens, line by line to whoever started this process, so that
//! even an experiment that hangs has told how far it came.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::verdict::Verdict;

/// One call, or one thing that was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Microseconds since the experiment began.
    pub(crate) at_us: u64,
    /// How long it took, in microseconds; nothing if it has never returned.
    pub(crate) took_us: Option<u64>,
    /// Which thread or process.
    pub(crate) who: String,
    pub(crate) call: String,
    pub(crate) answer: String,
    /// Set if the experiment had an opinion about the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<String>,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub(crate) met: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_true(met: &bool) -> bool {
    *met
}

/// What an experiment's process writes to the one that started it: a line of JSON for each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    Begin {
        step: u64,
        at_us: u64,
        who: String,
        call: String,
    },
    End {
        step: u64,
        took_us: u64,
        answer: String,
    },
    Expect {
        step: u64,
        expected: String,
        met: bool,
    },
    /// The kernel is older than this, and the experiment expects what was so before.
    Before(String),
    Verdict(Verdict),
}

/// The writing side, one for each process.
pub(crate) struct Timeline {
    start: Instant,
    /// In the middle of many equal rounds nothing is told that goes well.
    muted: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    next: u64,
    /// Steps that are not told yet, because they are muted.
    untold: HashMap<u64, (Line, Option<Line>)>,
    /// How often each call was made, for lies about the n-th.
    calls: HashMap<&'static str, u32>,
}

/// The numbers of the steps of a forked process begin here, away from those of its parent.
const STEPS_OF_A_CHILD: u64 = 1_000_000;

impl Timeline {
    pub(crate) fn new() -> Self {
        let inner = Inner { next: 0, untold: HashMap::new(), calls: HashMap::new() };
        Self { start: Instant::now(), muted: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// A call begins. Returns the number of the step, and how many-th call of this name it is, from 1.
    pub(crate) fn begin(&self, verb: &'static str, call: String) -> (u64, u32) {
        let who = std::thread::current().name().unwrap_or("?").to_owned();
        let mut inner = self.lock();
        let step = inner.next;
        inner.next += 1;
        let nth = inner.calls.entry(verb).or_insert(0);
        *nth += 1;
        let nth = *nth;
        let line = Line::Begin { step, at_us: self.now_us(), who, call };
        if self.muted.load(Ordering::Relaxed) {
            inner.untold.insert(step, (line, None));
        } else {
            tell(&line);
        }
        (step, nth)
    }

    pub(crate) fn end(&self, step: u64, since: Instant, answer: String) {
        let took_us = since.elapsed().as_micros() as u64;
        let line = Line::End { step, took_us, answer };
        match self.lock().untold.get_mut(&step) {
            Some((_, end)) => *end = Some(line),
            None => tell(&line),
        }
    }

    pub(crate) fn expect(&self, step: u64, expected: String, met: bool) {
        let untold = self.lock().untold.remove(&step);
        match (untold, met) {
            (Some(_), true) => return,
            (Some((begin, end)), false) => {
                tell(&begin);
                end.iter().for_each(tell);
            }
            (None, _) => {}
        }
        tell(&Line::Expect { step, expected, met });
    }

    /// From now on, or no longer, nothing is told that goes well.
    pub(crate) fn mute(&self, yes: bool) {
        self.muted.store(yes, Ordering::Relaxed);
        if !yes {
            self.lock().untold.clear();
        }
    }

    /// This process is a child, forked a moment ago.
    pub(crate) fn is_a_child_now(&self) {
        self.lock().next += STEPS_OF_A_CHILD;
    }
}

/// One line, in one `write`: lines of several processes do not mix.
pub(crate) fn tell(line: &Line) {
    let Ok(mut text) = serde_json::to_string(line) else { return };
    text.push('\n');
    let mut stdout = std::io::stdout().lock();
    // Nobody to tell it to: the experiment ends by itself soon.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The reading side: steps in the order in which they began.
#[derive(Default)]
pub(crate) struct Reader {
    steps: Vec<(u64, Step)>,
    before: Option<String>,
}

impl Reader {
    pub(crate) fn line(&mut self, line: Line) -> Option<Verdict> {
        match line {
            Line::Begin { step, at_us, who, call } => {
                self.steps.push((step, Step { at_us, who, call, met: true, ..Step::default() }));
            }
            Line::End { step, took_us, answer } => {
                if let Some(found) = self.find(step) {
                    found.took_us = Some(took_us);
                    found.answer = answer;
                }
            }
            Line::Expect { step, expected, met } => {
                if let Some(found) = self.find(step) {
                    found.expected = Some(expected);
                    found.met = met;
                }
            }
            Line::Before(version) => self.before = Some(version),
            Line::Verdict(verdict) => return Some(verdict),
        }
        None
    }

    fn find(&mut self, step: u64) -> Option<&mut Step> {
        self.steps.iter_mut().rev().find(|(number, _)| *number == step).map(|(_, step)| step)
    }

    pub(crate) fn before(&mut self) -> Option<String> {
        self.before.take()
    }

    pub(crate) fn steps(mut self) -> Vec<Step> {
        self.steps.sort_by_key(|(_, step)| step.at_us);
        self.steps.into_iter().map(|(_, step)| step).collect()
    }
}
