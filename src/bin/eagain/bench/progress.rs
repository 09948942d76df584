//! How far it is, on a terminal; elsewhere not a byte.

use std::io::IsTerminal as _;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::plan::Plan;
use super::run::Progress;

/// Parts of a measurement.
const STEPS: u64 = 1000;

pub(super) struct Meter {
    bar: ProgressBar,
    measurements: usize,
    begun: usize,
    /// When, and at how many answers, the rate was last told.
    last: Option<(Instant, u64)>,
    name: String,
}

impl Meter {
    pub(super) fn new(measurements: usize) -> Meter {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(10),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Meter { bar, measurements, begun: 0, last: None, name: String::new() }
    }

    /// Another measurement begins.
    pub(super) fn next(&mut self, plan: &Plan) {
        self.begun += 1;
        self.name = match self.measurements {
            1 => plan.name.clone(),
            all => format!("{} ({} of {all})", plan.name, self.begun),
        };
        self.last = None;
        self.bar.set_prefix(self.name.clone());
    }

    pub(super) fn show(&mut self, progress: Progress) {
        if self.bar.is_hidden() {
            return;
        }
        match progress {
            Progress::Connecting => self.bar.set_message("connecting"),
            Progress::Running { part, answers } => {
                self.bar.set_position((part.unwrap_or(0.0).min(1.0) * STEPS as f64) as u64);
                if self.last.is_none() {
                    self.bar.set_message("");
                }
                let (then, before) = *self.last.get_or_insert((Instant::now(), answers));
                let seconds = then.elapsed().as_secs_f64();
                if seconds >= 0.5 {
                    self.bar.set_message(format!("{:.0} messages/s", (answers - before) as f64 / seconds));
                    self.last = Some((Instant::now(), answers));
                }
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
