//! What the gallery shows: a line for each mistake, or the whole story of one.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use eagain::sys::raw;
use serde_json::json;

use super::Exhibit;
use super::perform::{Fate, Report, Verdict};
use crate::lab::format::text::{Paint, indent};
use crate::lab::kernel;

type Shown<'a> = (&'static Exhibit, &'a Report);

/// Columns where nobody says how many there are.
const USUAL_COLUMNS: usize = 100;
/// Between two lines that are the same, and two that differ.
const SAME: &str = " │ ";
const OTHER: &str = " ≠ ";

/// Grows when a reader of the old form would misunderstand the new one.
const SCHEMA: u32 = 1;

/// Three lines for each: the mistake, and what came of both servers.
pub(super) fn table(shown: &[Shown<'_>], paint: Paint) -> String {
    let mut text = String::new();
    for (exhibit, report) in shown {
        let _ = writeln!(text, "{}\n{}", paint.bold(exhibit.id), indent(exhibit.mistake, 2).trim_end());
        text += &line("broken", &report.broken, Verdict::Broke, paint);
        text += &line("repaired", &report.repaired, Verdict::Held, paint);
        text.push('\n');
    }
    let as_labelled = shown.iter().filter(|(_, report)| report.is_as_labelled()).count();
    let _ = writeln!(
        text,
        "{as_labelled} of {} mistakes broke their server, and the repaired one held, on Linux {}",
        shown.len(),
        kernel::release()
    );
    text + "eagain lab gallery ID            both servers, line beside line\n"
}

/// What came of one server; red if it is not what was to be shown.
fn line(label: &str, fate: &Fate, expected: Verdict, paint: Paint) -> String {
    let word = match fate.verdict {
        Verdict::Held => "held",
        Verdict::Broke => "broke",
        Verdict::NotTested => "not tested",
    };
    let word =
        if fate.verdict == expected { format!("{word:<6}") } else { paint.red(&format!("{:<6}", word.to_uppercase())) };
    let text = indent(&fate.saw, 19);
    format!("  {label:<8} {word}  {}", text.trim_start())
}

/// The whole story of each.
pub(super) fn stories(shown: &[Shown<'_>], paint: Paint) -> String {
    let stories: Vec<String> = shown.iter().map(|(exhibit, report)| story(exhibit, report, paint)).collect();
    stories.join("\n")
}

fn story(exhibit: &Exhibit, report: &Report, paint: Paint) -> String {
    let mut text = format!("{}\n{}\n", paint.bold(exhibit.id), indent(exhibit.mistake, 2));
    let traffic = indent(exhibit.traffic, 11);
    let _ = write!(text, "  Traffic  {}", traffic.trim_start());
    text += &line("Broken", &report.broken, Verdict::Broke, paint);
    text += &line("Repaired", &report.repaired, Verdict::Held, paint);
    let lesson = indent(exhibit.lesson, 11);
    let _ = write!(text, "  Lesson   {}", lesson.trim_start());
    for (at, rule) in exhibit.rules.iter().enumerate() {
        let _ = writeln!(text, "  {:<8} eagain lab run {rule}", if at == 0 { "Rules" } else { "" });
    }
    let _ = writeln!(text, "  Source   {}\n", exhibit.file);
    text + &both(exhibit, columns(), paint)
}

/// Both servers: beside each other where there is room, else one after the other.
fn both(exhibit: &Exhibit, columns: usize, paint: Paint) -> String {
    let (broken, repaired) = (excerpt(exhibit.source, "broken"), excerpt(exhibit.source, "repaired"));
    let narrow = |lines: &[&str]| lines.iter().map(|line| narrower(line)).collect::<Vec<_>>();
    let width = |lines: &[String]| lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let (lines, others) = (narrow(&broken), narrow(&repaired));
    let (left, right) = (width(&lines), width(&others));
    if left + SAME.chars().count() + right > columns {
        return format!("{}\n{}", below(&broken, paint), below(&repaired, paint));
    }
    let mut text = String::new();
    for (ours, theirs) in beside(&lines, &others) {
        let same = ours == theirs;
        let (ours, theirs) = (ours.map_or("", String::as_str), theirs.map_or("", String::as_str));
        let padded = format!("{ours:<left$}");
        let shown = if same {
            format!("{padded}{SAME}{theirs}")
        } else {
            format!("{}{OTHER}{}", paint.red(&padded), paint.green(theirs))
        };
        let _ = writeln!(text, "{}", shown.trim_end());
    }
    text
}

/// Indented half as far: two of these must fit into a line.
fn narrower(line: &str) -> String {
    let code = line.trim_start();
    let indent = (line.len() - code.len()) / 2;
    format!("{:indent$}{code}", "")
}

fn below(lines: &[&str], paint: Paint) -> String {
    let mut text = String::new();
    for line in lines {
        let coloured = match line {
            _ if line.contains("// WRONG") => paint.red(line),
            _ if line.contains("// RIGHT") => paint.green(line),
            _ => (*line).to_owned(),
        };
        let _ = writeln!(text, "{coloured}");
    }
    text
}

/// The lines of a function of the file, from `fn` to the brace that closes it.
fn excerpt<'a>(source: &'a str, function: &str) -> Vec<&'a str> {
    let start = format!("fn {function}(");
    let mut lines: Vec<&str> = source.lines().skip_while(|line| !line.starts_with(&start)).collect();
    let end = lines.iter().position(|line| *line == "}").map_or(0, |at| at + 1);
    lines.truncate(end);
    lines
}

/// Lines that both have stand beside each other: the longest common subsequence.
fn beside<'a>(left: &'a [String], right: &'a [String]) -> Vec<(Option<&'a String>, Option<&'a String>)> {
    // common[i][j]: how many lines left[i..] and right[j..] have in common.
    let mut common = vec![vec![0usize; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            let skip = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if left[i] == right[j] { common[i + 1][j + 1] + 1 } else { skip };
        }
    }
    let (mut rows, mut i, mut j) = (Vec::new(), 0, 0);
    while i < left.len() || j < right.len() {
        match (left.get(i), right.get(j)) {
            (Some(ours), Some(theirs)) if ours == theirs => {
                rows.push((Some(ours), Some(theirs)));
                (i, j) = (i + 1, j + 1);
            }
            // Both differ here: in one row, if neither is wanted further down.
            (Some(ours), Some(theirs)) if common[i + 1][j + 1] == common[i][j] => {
                rows.push((Some(ours), Some(theirs)));
                (i, j) = (i + 1, j + 1);
            }
            (Some(ours), _) if j == right.len() || common[i + 1][j] == common[i][j] => {
                rows.push((Some(ours), None));
                i += 1;
            }
            (_, theirs) => {
                rows.push((None, theirs));
                j += 1;
            }
        }
    }
    rows
}

/// How wide what we write to is: `COLUMNS` says so, or the terminal.
fn columns() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|value| value.parse().ok());
    let stdout = std::io::stdout();
    let terminal = || stdout.is_terminal().then(|| raw::terminal_columns(&stdout).ok()).flatten();
    said.or_else(terminal).filter(|&columns| columns > 0).unwrap_or(USUAL_COLUMNS)
}

/// One object, an exhibit a line.
pub(super) fn json(shown: &[Shown<'_>]) -> String {
    let object = |(exhibit, report): &Shown<'_>| {
        json!({
            "id": exhibit.id,
            "mistake": exhibit.mistake,
            "traffic": exhibit.traffic,
            "lesson": exhibit.lesson,
            "rules": exhibit.rules,
            "source": exhibit.file,
            "broken": report.broken,
            "repaired": report.repaired,
        })
        .to_string()
    };
    let lines: Vec<String> = shown.iter().map(object).collect();
    let kernel = serde_json::Value::from(kernel::release());
    format!("{{\"schema\":{SCHEMA},\"kernel\":{kernel},\"exhibits\":[\n{}\n]}}\n", lines.join(",\n"))
}
