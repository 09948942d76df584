//! A timeline as a picture of HTML: what happened, from left to right, a row for each thread, and above them what each
//! wait found in the kernel's queue; under it the same to scale.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::html::escaped;
use crate::lab::timeline::Step;

/// A step, or several equal ones in a row: a look again and again.
struct Cell<'a> {
    step: &'a Step,
    times: usize,
    /// Microseconds since the experiment began; nothing if it has never returned.
    end_us: Option<u64>,
}

pub(super) fn draw(steps: &[Step]) -> String {
    let cells = cells(steps);
    if cells.is_empty() {
        return String::new();
    }
    let mut lanes: Vec<&str> = cells.iter().map(|cell| cell.step.who.as_str()).collect();
    lanes.sort_by_key(|name| (*name != "main", *name));
    lanes.dedup();
    sequence(&cells, &lanes) + &to_scale(&cells, &lanes)
}

fn cells(steps: &[Step]) -> Vec<Cell<'_>> {
    let mut cells: Vec<Cell<'_>> = Vec::new();
    for step in steps {
        let end_us = step.took_us.map(|took| step.at_us + took);
        match cells.last_mut() {
            Some(last) if are_alike(last.step, step) && !others_returned(steps, last.step.at_us, end_us, &step.who) => {
                (last.times, last.end_us) = (last.times + 1, end_us);
            }
            _ => cells.push(Cell { step, times: 1, end_us }),
        }
    }
    cells
}

/// Whether a call returned between two, so that it would stand at the wrong place if these were one.
fn others_returned(steps: &[Step], from_us: u64, to_us: Option<u64>, who: &str) -> bool {
    let others = steps.iter().filter(|step| step.who != who);
    let mut ends = others.filter_map(|step| Some(step.at_us + step.took_us?));
    ends.any(|end| from_us < end && to_us.is_none_or(|to| end < to))
}

fn are_alike(a: &Step, b: &Step) -> bool {
    let words = |step: &Step| (step.who.clone(), step.call.clone(), step.answer.clone(), step.expected.clone());
    a.took_us.is_some() && b.took_us.is_some() && a.met && b.met && words(a) == words(b)
}

/// A column for each step, as wide as its words. Time is at the top, and not to scale: the next call may come after
/// microseconds, or after a second.
fn sequence(cells: &[Cell<'_>], lanes: &[&str]) -> String {
    let mut text = String::from("<div class=\"time\" tabindex=\"0\" role=\"group\" aria-label=\"timeline\">\n");
    let names = ["time", "kernel queue"].into_iter().chain(lanes.iter().copied());
    for (row, name) in (1..).zip(names) {
        let _ = writeln!(text, "<div class=\"lane\" style=\"grid-area:{row}/1\">{}</div>", escaped(name));
    }
    // By column, since several waits may return between two calls.
    let mut harvests: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (at, cell) in cells.iter().enumerate() {
        let row = 3 + lanes.iter().position(|lane| *lane == cell.step.who).unwrap_or(0);
        let (first, last) = (at + 2, at + 2 + others_meanwhile(&cells[at..]));
        let time = milliseconds(cell.step.at_us);
        let _ = writeln!(text, "<div class=\"tick\" style=\"grid-area:1/{first}\">{time}</div>");
        if is_wait(cell.step) && cell.end_us.is_some() {
            harvests.entry(last).or_default().push(&cell.step.answer);
        }
        text += &call(cell, row, first, last, lanes.len() > 1);
    }
    for (column, answers) in harvests {
        let is_empty = answers.iter().all(|answer| *answer == "nothing");
        let (class, found) = if is_empty { ("queue none", "empty".to_owned()) } else { ("queue", counted(&answers)) };
        let _ = writeln!(text, "<div class=\"{class}\" style=\"grid-area:2/{column}\">{}</div>", escaped(&found));
    }
    text + "</div>\n"
}

/// `IN reader ×2 · OUT ours`.
fn counted(answers: &[&str]) -> String {
    let of_each = answers.chunk_by(|a, b| a == b).map(|equal| match equal.len() {
        1 => equal[0].to_owned(),
        count => format!("{} ×{count}", equal[0]),
    });
    of_each.collect::<Vec<_>>().join(" · ")
}

fn is_wait(step: &Step) -> bool {
    step.call.starts_with("epoll_wait")
}

/// How many of the steps behind the first began before it returned: it reaches over them.
fn others_meanwhile(cells: &[Cell<'_>]) -> usize {
    let Some(end_us) = cells[0].end_us else { return cells.len() - 1 };
    cells[1..].iter().take_while(|cell| cell.step.at_us < end_us).count()
}

/// On paper, which has no rows for them, each of several threads is named beside its calls.
fn call(cell: &Cell<'_>, row: usize, first: usize, last: usize, several: bool) -> String {
    let step = cell.step;
    let kind = match (&step.expected, step.met) {
        (_, false) => "wrong",
        (Some(_), true) => "right",
        (None, true) if step.call.starts_with("-- ") => "note",
        (None, true) if is_wait(step) => "wait",
        (None, true) => "plain",
    };
    let words = step.call.strip_prefix("-- ").unwrap_or(&step.call);
    let lasts = if last > first { " long" } else { "" };
    let who = if several { format!(" data-who=\"{}\"", escaped(&step.who)) } else { String::new() };
    let mut text = format!(
        "<div class=\"call {kind}{lasts}\"{who} style=\"grid-area:{row}/{first}/auto/{end}\"><code>{words}</code>",
        end = last + 1,
        words = breakable(words),
    );
    let answer = match cell.end_us {
        None => "never returned".to_owned(),
        Some(_) if step.answer.is_empty() => String::new(),
        Some(_) => format!("= {}", escaped(&step.answer)),
    };
    let times = if cell.times > 1 { format!(" ×{}", cell.times) } else { String::new() };
    let took = match cell.end_us.map(|end| end - step.at_us) {
        Some(took) if took >= 1_000 => format!("<small>{}</small>", milliseconds(took)),
        _ => String::new(),
    };
    if !(answer.is_empty() && times.is_empty() && took.is_empty()) {
        let _ = write!(text, "<span><b>{answer}{times}</b>{took}</span>");
    }
    if let (Some(expected), false) = (&step.expected, step.met) {
        let _ = write!(text, "<em>expected {}</em>", escaped(expected));
    }
    text + "</div>\n"
}

/// A call may be broken behind its name, and not between a number and its unit.
fn breakable(words: &str) -> String {
    let text = escaped(words).replace('(', "(<wbr>");
    [" ms", " B", " kB", " MB"].iter().fold(text, |text, unit| text.replace(unit, &unit.replace(' ', "&nbsp;")))
}

/// The whole width is the whole time: here one sees what lasts.
fn to_scale(cells: &[Cell<'_>], lanes: &[&str]) -> String {
    /// Of the picture, which is stretched to the width of the page.
    const WIDTH: f64 = 1000.0;
    /// The height of a lane, and of a bar in it.
    const LANE: usize = 8;
    const BAR: usize = 6;
    let end_us = cells.iter().map(|cell| cell.end_us.unwrap_or(0).max(cell.step.at_us)).max().unwrap_or(0);
    if end_us == 0 {
        return String::new();
    }
    let x = |us: u64| us as f64 / end_us as f64 * WIDTH;
    let mut text = format!(
        "<div class=\"scale\"><svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\" \
         style=\"height:{height}px\" aria-hidden=\"true\">",
        height = lanes.len() * LANE,
    );
    for cell in cells.iter().filter(|cell| !cell.step.call.starts_with("-- ")) {
        let lane = lanes.iter().position(|lane| *lane == cell.step.who).unwrap_or(0);
        let (from, to) = (x(cell.step.at_us), x(cell.end_us.unwrap_or(end_us)));
        let kind = if is_wait(cell.step) { " class=\"wait\"" } else { "" };
        let _ = write!(
            text,
            "<rect x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{BAR}\"{kind}/>",
            lane * LANE,
            (to - from).max(1.5),
        );
    }
    text += "</svg>\n";
    let step = round_step(end_us);
    for us in (0..=end_us).step_by(step as usize) {
        let _ = write!(text, "<span style=\"left:{:.2}%\">{}</span>", x(us) / WIDTH * 100.0, round_time(us));
    }
    text + "</div>\n"
}

/// 1, 2 or 5 times a power of ten, that at most five times fits into it.
fn round_step(end_us: u64) -> u64 {
    let fits = |step: &u64| end_us / step <= 5;
    let steps = (0..12).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    steps.into_iter().find(fits).unwrap_or(end_us)
}

/// A round time in its own unit.
fn round_time(us: u64) -> String {
    match us {
        0 => "0".to_owned(),
        _ if us.is_multiple_of(1_000_000) => format!("{} s", us / 1_000_000),
        _ if us.is_multiple_of(1_000) => format!("{} ms", us / 1_000),
        _ => format!("{us} µs"),
    }
}

fn milliseconds(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2} ms", us as f64 / 1000.0),
        _ => format!("{:.1} ms", us as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_a_few_round_marks() {
        assert_eq!((round_step(50_551), round_step(4_000_000), round_step(7)), (10_000, 1_000_000, 2));
        assert_eq!([0, 500, 20_000, 3_000_000].map(round_time), ["0", "500 µs", "20 ms", "3 s"]);
    }

    #[test]
    fn equal_looks_in_a_row_are_one_cell() {
        let step =
            |call: &str, at_us| Step { call: call.into(), at_us, took_us: Some(1), met: true, ..Step::default() };
        let mut steps = vec![step("a", 0), step("b", 2), step("b", 4), step("b", 6), step("a", 8)];
        let cells = cells(&steps);
        assert_eq!(cells.iter().map(|cell| cell.times).collect::<Vec<_>>(), [1, 3, 1]);
        assert_eq!(cells[1].end_us, Some(7));
        // A call of another thread that returns between them comes in between.
        steps.insert(0, Step { who: "A".into(), took_us: Some(6), ..step("wait", 0) });
        assert_eq!(super::cells(&steps).iter().map(|cell| cell.times).collect::<Vec<_>>(), [1, 1, 2, 1, 1]);
    }
}
