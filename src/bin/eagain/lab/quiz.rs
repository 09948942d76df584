//! `eagain lab quiz`: predict what a call will answer, then see.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use super::Chosen;
use super::format::text::{indent, timeline};
use super::paint;
use super::run::{self, Report};
use super::timeline::Step;
use super::verdict::Verdict;
use crate::cli::LabOptions;
use crate::say;

/// Questions in a row, if nobody has named any.
const QUESTIONS: usize = 5;

/// What came of one question.
enum Told {
    Right,
    Wrong,
    /// The input has ended, or nobody is there.
    Nothing,
}

pub(crate) fn run(mut chosen: Chosen) -> Result<ExitCode, String> {
    super::can_start_processes()?;
    shuffle(&mut chosen);
    let asks = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let (mut right, mut asked) = (0, 0);
    for (group, one) in chosen {
        if asked == QUESTIONS {
            break;
        }
        let reports = run::perform(&[(group, one)], LabOptions { mutated: false, slack: 1 }, |_, _| {});
        let Some((report, hidden)) = reports.first().and_then(|report| Some((report, question(report)?))) else {
            continue;
        };
        say::deliver(&show(one.id, &report.timeline[..hidden], &report.timeline[hidden], asked + 1))?;
        let told = if asks { ask(&report.timeline[hidden].answer) } else { Told::Nothing };
        if asks && matches!(told, Told::Nothing) {
            say::out("\n");
            break;
        }
        asked += 1;
        right += usize::from(matches!(told, Told::Right));
        let verdict = match told {
            Told::Right => "Right.",
            Told::Wrong => "No.",
            Told::Nothing => "",
        };
        let mut text = format!("  {verdict} It answered: {}\n\n", report.timeline[hidden].answer).replace("   ", "  ");
        text += &indent(one.claim, 2);
        text += &indent(one.why, 2);
        say::deliver(&(text + "\n"))?;
    }
    if asks {
        say::out(&format!("{right} of {asked} right. 'eagain lab explain ID' tells more.\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The step that is worth asking: the last wait about which the experiment had an opinion, else the last step with one.
fn question(report: &Report) -> Option<usize> {
    if report.verdict != Verdict::Holds {
        return None;
    }
    let judged = |step: &Step| step.expected.is_some() && step.answer != "ok" && !step.call.starts_with("scene");
    let steps = &report.timeline;
    let waits = |step: &Step| judged(step) && step.call.starts_with("epoll_wait");
    steps.iter().rposition(waits).or_else(|| steps.iter().rposition(judged))
}

fn show(id: &str, before: &[Step], hidden: &Step, number: usize) -> String {
    let mut asked = hidden.clone();
    asked.answer = "?".to_owned();
    (asked.expected, asked.took_us) = (None, Some(0));
    let mut steps = before.to_vec();
    steps.push(asked);
    format!("{number}. {}\n{}\n", paint().bold(id), timeline(&steps, paint()))
}

/// Reads a prediction: names of bits in any order and case, `nothing`, a number, or the name of an error.
fn ask(answer: &str) -> Told {
    say::out("  What does the last call answer? (IN|OUT, nothing, 0, EAGAIN, …)  ");
    // Whatever is typed is a guess, and what is no text is a wrong one.
    let mut line = Vec::new();
    match std::io::stdin().lock().read_until(b'\n', &mut line) {
        Ok(count) if count > 0 => {
            if alike(&String::from_utf8_lossy(&line), answer) {
                Told::Right
            } else {
                Told::Wrong
            }
        }
        _ => Told::Nothing,
    }
}

fn alike(guess: &str, answer: &str) -> bool {
    // "IN|RDHUP ours": the name of the file was not asked.
    let bits = |text: &str| {
        let text = text.trim().to_uppercase().replace([' ', ','], "|");
        let mut bits: Vec<String> = text.split('|').filter(|bit| !bit.is_empty()).map(str::to_owned).collect();
        bits.sort();
        bits
    };
    let unnamed: Vec<&str> = answer.split(", ").map(|event| event.split(' ').next().unwrap_or(event)).collect();
    bits(guess) == bits(&unnamed.join("|")) || bits(guess) == bits(answer)
}

/// Another order each time, from the keys that the standard library draws for its maps.
fn shuffle(chosen: &mut Chosen) {
    chosen.sort_by_cached_key(|(_, one)| {
        thread_local!(static KEYS: RandomState = RandomState::new());
        KEYS.with(|keys| {
            let mut hasher = keys.build_hasher();
            hasher.write(one.id.as_bytes());
            hasher.finish()
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_may_be_written_in_any_order() {
        assert!(alike("rdhup|in\n", "IN|RDHUP ours"));
        assert!(alike("nothing", "nothing") && alike(" eagain", "EAGAIN") && alike("0", "0"));
        assert!(!alike("in", "IN|RDHUP ours") && !alike("", "nothing"));
    }
}
