//! KTAP, as the kernel's own tests print it: for a machine that counts.

use std::fmt::Write as _;

use crate::lab::run::Report;
use crate::lab::verdict::Verdict;

pub(crate) fn write(reports: &[Report]) -> String {
    let mut text = format!("KTAP version 1\n1..{}\n", reports.len());
    for (number, report) in (1..).zip(reports) {
        let (result, directive) = match &report.verdict {
            Verdict::Holds => ("ok", String::new()),
            Verdict::DoesNotHold(_) => ("not ok", String::new()),
            // What could not be tried is a success with a directive; that is how KTAP says it.
            Verdict::NotTested(why) => ("ok", format!(" # SKIP {why}")),
        };
        let _ = writeln!(text, "{result} {number} - {}{directive}", report.id);
        if let Verdict::DoesNotHold(why) = &report.verdict {
            let _ = writeln!(text, "# {why}");
        }
        if let Some(version) = &report.before {
            let _ = writeln!(text, "# as before Linux {version}");
        }
    }
    text
}
