//! `eagain lab explain`: what is claimed, who says so, why it matters, and where the server obeys.

use std::fmt::Write as _;

use super::experiment::{Experiment, Group};
use super::format::text::indent;

/// The files in which a comment `RULE` with an id says that they obey it; `tests/lab.rs` checks that none is missing.
const OBEDIENT: &[(&str, &str)] = &[
    ("src/bin/eagain/bench/dial.rs", include_str!("../bench/dial.rs")),
    ("src/bin/eagain/connect.rs", include_str!("../connect.rs")),
    ("src/bin/eagain/connect/dial.rs", include_str!("../connect/dial.rs")),
    ("src/completion/operation.rs", include_str!("../../../completion/operation.rs")),
    ("src/connection.rs", include_str!("../../../connection.rs")),
    ("src/edge.rs", include_str!("../../../edge.rs")),
    ("src/exchange.rs", include_str!("../../../exchange.rs")),
    ("src/level.rs", include_str!("../../../level.rs")),
    ("src/listener.rs", include_str!("../../../listener.rs")),
    ("src/service/frames.rs", include_str!("../../../service/frames.rs")),
    ("src/sys/epoll.rs", include_str!("../../../sys/epoll.rs")),
    ("src/sys/net.rs", include_str!("../../../sys/net.rs")),
    ("src/worker.rs", include_str!("../../../worker.rs")),
    ("src/worker/doors.rs", include_str!("../../../worker/doors.rs")),
];
/// Lines of code shown behind a marker.
const SHOWN: usize = 3;

pub(crate) fn explain(group: &Group, one: &Experiment) -> String {
    let (major, minor) = one.since;
    let core = if one.core { ", core" } else { "" };
    let mut text = format!("{} ({}{core})\n", one.id, group.name);
    text += &indent(one.claim, 2);
    text.push('\n');
    text += &labelled("Source", one.source);
    let _ = writeln!(text, "  Since        Linux {major}.{minor}");
    if !one.changed.is_empty() {
        text += &labelled("Changed", one.changed);
    }
    text += &labelled("It matters", one.why);
    let _ = writeln!(text, "  Try it       eagain lab run {}", one.id);
    let _ = writeln!(text, "  The recipe   src/bin/eagain/lab/rules/{}.rs", recipe(group, one));
    let places = places(one.id);
    if places.is_empty() {
        return text;
    }
    text += "\n  The server obeys it in\n";
    for place in places {
        text += &place;
    }
    text
}

fn labelled(label: &str, words: &str) -> String {
    let text = indent(words, 15);
    format!("  {label:<13}{}", text.trim_start())
}

/// The file of the recipe, less its ending.
fn recipe(group: &Group, one: &Experiment) -> &'static str {
    const IN_A_SECOND_FILE: &[(&str, &str)] = &[("sockets/options", include_str!("rules/sockets/options.rs"))];
    let entry = format!("id: \"{}\",", one.id);
    IN_A_SECOND_FILE.iter().find(|(_, source)| source.contains(&entry)).map_or(group.name, |(file, _)| file)
}

/// Each place with a marker of this rule, and the lines behind it.
fn places(id: &str) -> Vec<String> {
    let marker = ["RULE", "(", id, ")"].concat();
    let mut places = Vec::new();
    for (path, source) in OBEDIENT {
        let lines: Vec<&str> = source.lines().collect();
        for at in (0..lines.len()).filter(|&at| lines[at].contains(&marker)) {
            let mut place = format!("  {path}:{}\n", at + 1);
            for line in lines[at..].iter().take(1 + SHOWN) {
                let _ = writeln!(place, "    {line}");
            }
            places.push(place);
        }
    }
    places
}
