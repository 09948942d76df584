//! One page with everything, for a browser: no network, no other file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::lab::Chosen;
use crate::lab::experiment::Experiment;
use crate::lab::kernel;
use crate::lab::run::Report;
use crate::lab::timeline::Step;
use crate::lab::verdict::Verdict;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub(crate) fn write(chosen: &Chosen, reports: &[Report]) -> String {
    let release = escaped(&kernel::release());
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>epoll on Linux {release}</title>\n<style>\n{STYLE}</style>\n\
         <header>\n<h1>epoll on Linux {release}</h1>\n"
    );
    text += &filters(chosen, reports);
    text += "</header>\n<main>\n";
    for ((group, one), report) in chosen.iter().zip(reports) {
        text += &card(group.name, one, report);
    }
    let _ = write!(text, "</main>\n<script>\n{SCRIPT}</script>\n</html>\n");
    text
}

/// Choices of group and verdict, and words to look for.
fn filters(chosen: &Chosen, reports: &[Report]) -> String {
    let mut text = String::from("<form role=\"search\">\n<label>Group <select id=\"group\"><option value=\"\">all\n");
    let mut last = "";
    for (group, _) in chosen {
        if group.name != last {
            let _ = writeln!(text, "<option value=\"{}\">{}: {}", group.name, group.name, escaped(group.title));
            last = group.name;
        }
    }
    text += "</select></label>\n<label>Verdict <select id=\"verdict\"><option value=\"\">all\n";
    for name in ["holds", "does-not-hold", "not-tested"] {
        let count = reports.iter().filter(|report| report.verdict.name() == name).count();
        let _ = writeln!(text, "<option value=\"{name}\">{}: {count}", name.replace('-', " "));
    }
    text += "</select></label>\n<label>Words <input id=\"words\" type=\"search\" placeholder=\"press /\"></label>\n\
             <output id=\"count\"></output>\n</form>\n";
    text
}

fn card(group: &str, one: &Experiment, report: &Report) -> String {
    let verdict = report.verdict.name();
    let (major, minor) = one.since;
    // What does not hold is what one has come to see.
    let open = if matches!(report.verdict, Verdict::DoesNotHold(_)) { " open" } else { "" };
    let mut text = format!(
        "<details id=\"{id}\" data-group=\"{group}\" data-verdict=\"{verdict}\"{open}>\n\
         <summary><b class=\"{verdict}\">{words}</b> <code>{id}</code> <span>{claim}</span></summary>\n",
        id = one.id,
        words = verdict.replace('-', " "),
        claim = escaped(one.claim),
    );
    if !report.verdict.reason().is_empty() {
        let _ = writeln!(text, "<p class=\"reason\">{}</p>", escaped(report.verdict.reason()));
    }
    text += &diagram(&report.timeline);
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "<p><b>{name}</b> {}</p>", escaped(value));
        }
    };
    fact("Why it matters", one.why);
    fact("Source", one.source);
    fact("Since", &format!("Linux {major}.{minor}"));
    fact("Kernels differ", one.changed);
    text + "</details>\n"
}

/// The steps from left to right: a row with the times, one with what the kernel's queue gave, one for each thread.
fn diagram(steps: &[Step]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let mut lanes: Vec<&str> = Vec::new();
    for step in steps {
        if !lanes.contains(&step.who.as_str()) {
            lanes.push(&step.who);
        }
    }
    let mut text = String::from("<div class=\"time\" tabindex=\"0\" role=\"group\" aria-label=\"timeline\">\n");
    let names = ["ms", "kernel queue"].into_iter().chain(lanes.iter().copied());
    for (row, name) in (1..).zip(names) {
        let _ = writeln!(text, "<i style=\"grid-area:{row}/1\">{}</i>", escaped(name));
    }
    // By column, since several waits may return between two calls.
    let mut harvests: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let row = 3 + lanes.iter().position(|lane| *lane == step.who).unwrap_or(0);
        let (first, last) = (at + 2, at + 2 + others_meanwhile(&steps[at..]));
        let _ = writeln!(text, "<u style=\"grid-area:1/{first}\">{:.3}</u>", step.at_us as f64 / 1000.0);
        if step.call.starts_with("epoll_wait") && step.took_us.is_some() {
            harvests.entry(last).or_default().push(&step.answer);
        }
        text += &cell(step, row, first, last);
    }
    for (column, answers) in harvests {
        let empty = if answers.iter().all(|answer| *answer == "nothing") { " class=\"empty\"" } else { "" };
        let _ = writeln!(text, "<s style=\"grid-area:2/{column}\"{empty}>{}</s>", escaped(&answers.join(" · ")));
    }
    text + "</div>\n"
}

/// How many of the steps behind the first began before it returned: it reaches over them.
fn others_meanwhile(steps: &[Step]) -> usize {
    let Some(took) = steps[0].took_us else { return steps.len() - 1 };
    steps[1..].iter().take_while(|step| step.at_us < steps[0].at_us + took).count()
}

fn cell(step: &Step, row: usize, first: usize, last: usize) -> String {
    let kind = match (&step.expected, step.met) {
        (_, false) => "wrong",
        (Some(_), true) => "right",
        (None, true) => "plain",
    };
    let answer = match step.took_us {
        None => "never returned".to_owned(),
        Some(_) if step.answer.is_empty() => String::new(),
        Some(_) => format!("= {}", escaped(&step.answer)),
    };
    let expected = match (&step.expected, step.met) {
        (Some(expected), false) => format!("<em>expected {}</em>", escaped(expected)),
        _ => String::new(),
    };
    let took = step
        .took_us
        .filter(|took| *took >= 1000)
        .map_or(String::new(), |took| format!("<small>{:.1} ms</small>", took as f64 / 1000.0));
    format!(
        "<div class=\"{kind}\" style=\"grid-area:{row}/{first}/auto/{end}\"><code>{}</code> <b>{answer}</b>{expected}{took}</div>\n",
        escaped(&step.call),
        end = last + 1,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_outside_is_text() {
        assert_eq!(escaped("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }
}
