//! The book's chapter on the rules of epoll, a page for each group, from the one list.

use std::fmt::Write as _;
use std::path::Path;

use super::experiment::Group;
use super::rules;
use crate::say;

/// Where the lines of a page are broken.
const COLUMNS: usize = 118;

/// Writes the pages into a directory, which must be there.
pub(crate) fn write(directory: &Path) -> Result<(), String> {
    for group in rules::ALL {
        let path = directory.join(format!("{}.md", group.name));
        let text = page(group);
        std::fs::write(&path, text).map_err(|error| format!("{}: {}", path.display(), say::reason(&error)))?;
    }
    Ok(())
}

fn page(group: &Group) -> String {
    let mut text = format!("# {}\n\n", title(group));
    let _ = writeln!(text, "<!-- written by `eagain lab book docs/epoll`; do not edit -->\n");
    text += &broken(&format!(
        "Try all of these with `eagain lab run {}`. How each is performed stands in \
         [{}.rs](../../src/bin/eagain/lab/rules/{}.rs).",
        group.name, group.name, group.name
    ));
    for one in group.experiments {
        let (major, minor) = one.since;
        let core = if one.core { " (core)" } else { "" };
        let _ = writeln!(text, "\n## `{}`\n", one.id);
        text += &broken(&format!("**{}**{core}", escaped(one.claim)));
        text.push('\n');
        text += &broken(&escaped(one.why));
        text.push('\n');
        text += &broken(&format!("Source: {}. Since Linux {major}.{minor}.", escaped(one.source)));
        if !one.changed.is_empty() {
            text += &broken(&format!("Kernels differ: {}.", escaped(one.changed)));
        }
    }
    text
}

/// With a capital letter.
pub(super) fn title(group: &Group) -> String {
    let mut letters = group.title.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// Signs that Markdown would take for its own.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('_', "\\_").replace('*', "\\*").replace('<', "&lt;").replace('|', "\\|")
}

pub(super) fn broken(text: &str) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if length > 0 && length + 1 + width > COLUMNS {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines += word;
        length += width;
    }
    lines + "\n"
}
