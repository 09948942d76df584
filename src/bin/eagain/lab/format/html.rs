//! One page with everything, for a browser: no network, no other file.

use std::fmt::Write as _;

use super::{diagram, text};
use crate::lab::Chosen;
use crate::lab::experiment::{Experiment, Group};
use crate::lab::kernel;
use crate::lab::run::Report;
use crate::lab::verdict::Verdict;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// The browser itself sees to it that the page asks for nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
const INTRODUCTION: &str = "What is said about epoll, tried on this kernel by <code>eagain lab</code>. An open rule \
                            shows what happened, from left to right: the calls of each thread, and above them what \
                            each wait found in the kernel's queue. An edge of green is an answer as expected, one of \
                            red is not. The bars below are the same calls to scale.";
const VERDICTS: [&str; 3] = ["holds", "does-not-hold", "not-tested"];

pub(crate) fn write(chosen: &Chosen, reports: &[Report]) -> String {
    let release = escaped(&kernel::release());
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>epoll on Linux {release}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>epoll on Linux {release}</h1>\n"
    );
    text += &filters(chosen, reports);
    let _ = writeln!(text, "</header>\n<main>\n<p class=\"intro\">{INTRODUCTION}</p>");
    for (group, cards) in by_group(chosen, reports) {
        let _ = writeln!(text, "<section>\n<h2>{} <small>{}</small></h2>", escaped(group.title), group.name);
        text.extend(cards.iter().map(|(one, report)| card(group.name, one, report)));
        text += "</section>\n";
    }
    let _ = write!(
        text,
        "<p id=\"none\" hidden>No rule fits.</p>\n</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    );
    text
}

type Cards<'a> = Vec<(&'a Experiment, &'a Report)>;

fn by_group<'a>(chosen: &'a Chosen, reports: &'a [Report]) -> Vec<(&'static Group, Cards<'a>)> {
    let mut groups: Vec<(&'static Group, Cards<'a>)> = Vec::new();
    for (&(group, one), report) in chosen.iter().zip(reports) {
        match groups.last_mut() {
            Some((last, cards)) if last.name == group.name => cards.push((one, report)),
            _ => groups.push((group, vec![(one, report)])),
        }
    }
    groups
}

/// Choices of group and verdict, and words to look for. Without a script they would do nothing, and are not shown.
fn filters(chosen: &Chosen, reports: &[Report]) -> String {
    let mut text = String::from("<form role=\"search\" hidden>\n<fieldset>\n<legend>Verdict</legend>\n");
    text += "<label><input type=\"radio\" name=\"verdict\" value=\"\" checked><span>all</span></label>\n";
    for name in VERDICTS {
        let count = reports.iter().filter(|report| report.verdict.name() == name).count();
        let class = if count > 0 { format!(" class=\"{name}\"") } else { String::new() };
        let _ = writeln!(
            text,
            "<label><input type=\"radio\" name=\"verdict\" value=\"{name}\"><span{class}>{count} {}</span></label>",
            plural(name),
        );
    }
    text += "</fieldset>\n<label>Group <select name=\"group\"><option value=\"\">all</option>\n";
    for (group, cards) in by_group(chosen, reports) {
        let (name, title) = (group.name, escaped(group.title));
        let _ = writeln!(text, "<option value=\"{name}\">{title} ({})</option>", cards.len());
    }
    text + "</select></label>\n<label>Words <input name=\"words\" type=\"search\" autocomplete=\"off\"></label>\n\
            <button type=\"button\" name=\"every\">Open all</button>\n<output></output>\n\
            <p class=\"keys\"><kbd>/</kbd> words <kbd>j</kbd> <kbd>k</kbd> next, previous <kbd>Enter</kbd> open</p>\n\
            </form>\n"
}

fn plural(verdict: &str) -> &'static str {
    match verdict {
        "holds" => "hold",
        "does-not-hold" => "do not hold",
        _ => "not tested",
    }
}

fn card(group: &str, one: &Experiment, report: &Report) -> String {
    let verdict = report.verdict.name();
    // What does not hold is what one has come to see.
    let (mark, open) = match report.verdict {
        Verdict::Holds => ("✓", ""),
        Verdict::DoesNotHold(_) => ("✗", " open"),
        Verdict::NotTested(_) => ("–", ""),
    };
    let mut text = format!(
        "<details id=\"{id}\" data-group=\"{group}\" data-verdict=\"{verdict}\"{open}>\n\
         <summary><b class=\"{verdict}\" role=\"img\" aria-label=\"{words}\" title=\"{words}\">{mark}</b> \
         <code>{id}</code> <span>{claim}</span></summary>\n",
        id = one.id,
        words = verdict.replace('-', " "),
        claim = escaped(one.claim),
    );
    if !report.verdict.reason().is_empty() {
        let words = verdict.replace('-', " ");
        let reason = escaped(report.verdict.reason());
        let _ = writeln!(text, "<p class=\"reason {verdict}\"><b>{words}:</b> {reason}</p>");
    }
    if report.before.is_some() {
        let _ = writeln!(text, "<p class=\"reason holds\"><b>holds</b>{}</p>", escaped(&text::before(report)));
    }
    text += &diagram::draw(&report.timeline);
    text += &facts(one);
    text + "</details>\n"
}

fn facts(one: &Experiment) -> String {
    let (major, minor) = one.since;
    let mut text = String::from("<dl>\n");
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "<dt>{name}</dt><dd>{}</dd>", escaped(value));
        }
    };
    fact("Why it matters", one.why);
    fact("Source", one.source);
    fact("Since", &format!("Linux {major}.{minor}"));
    fact("Kernels differ", one.changed);
    let _ = writeln!(text, "<dt>Try it</dt><dd><code>eagain lab run {}</code></dd>", one.id);
    text + "</dl>\n"
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_outside_is_text() {
        assert_eq!(escaped("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }

    #[test]
    fn a_rule_that_holds_as_on_older_kernels_says_so_on_every_door() {
        let report = r#"{"id":"pidfd-exit-is-in","group":"descriptors","verdict":"holds","before":"6.9"}"#;
        let report: Report = serde_json::from_str(report).expect("a report");
        let (group, one) = crate::lab::experiment::find(&report.id).expect("a rule");
        assert!(card(group.name, one, &report).contains("<b>holds</b>, as before Linux 6.9</p>"));
        assert!(
            crate::lab::format::tap::write(&[report]).ends_with("ok 1 - pidfd-exit-is-in\n# as before Linux 6.9\n")
        );
    }
}
