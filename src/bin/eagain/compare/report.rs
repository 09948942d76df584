//! The comparison of the models for people: `compare.md` and its plots, and `compare.json` for programs.

use std::fmt::Write as _;
use std::path::Path;

use super::Failure;
use super::findings::{CPU, Pair, THROUGHPUT};
use super::models::{Cell, Comparison, MODELS};
use crate::bench::{Spread, count};
use crate::chart::{self, Axis, Chart, Scale, Series};
use crate::say;

/// One kind of figure: a table and a plot.
struct Figure {
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    of: fn(&Cell) -> &Spread,
    /// Of the unit.
    scale: f64,
}

const FIGURES: [Figure; 4] = [
    Figure {
        file: "throughput",
        title: "Throughput",
        unit: "messages a second",
        of: |cell| &cell.messages_per_second,
        scale: 1.0,
    },
    Figure {
        file: "cpu",
        title: "CPU time of the server for one message",
        unit: "microseconds",
        of: |cell| &cell.server_cpu_ns_per_message,
        scale: 1e-3,
    },
    Figure {
        file: "p50",
        title: "Time of an answer, median",
        unit: "microseconds",
        of: |cell| &cell.p50_us,
        scale: 1.0,
    },
    Figure {
        file: "p99",
        title: "Time of an answer, 99th percentile",
        unit: "microseconds",
        of: |cell| &cell.p99_us,
        scale: 1.0,
    },
];

/// Writes all files, and shows people the text.
pub(super) fn write(comparison: &Comparison, directory: &Path) -> Result<(), Failure> {
    let put = |name: &str, content: &str| -> Result<(), Failure> {
        let path = directory.join(name);
        Ok(std::fs::write(&path, content).map_err(|error| format!("{}: {}", path.display(), say::reason(&error)))?)
    };
    put("compare.json", &(serde_json::to_string_pretty(comparison)? + "\n"))?;
    for (size, connections) in comparison.loads() {
        for figure in &FIGURES {
            put(&figure.file_name(size, connections), &figure.chart(comparison, size, connections))?;
        }
    }
    let text = comparison.markdown();
    put("compare.md", &text)?;
    say::out(&text);
    say::out(&format!("\nWritten to {}: compare.md, compare.json and the plots.\n", directory.display()));
    Ok(())
}

impl Figure {
    fn file_name(&self, size: usize, connections: usize) -> String {
        format!("{}-{size}-{connections}.svg", self.file)
    }

    fn chart(&self, comparison: &Comparison, size: usize, connections: usize) -> String {
        let series = |model: &str| {
            let value = |idle| Some((self.of)(comparison.cell(model, idle, size, connections)?).median * self.scale);
            let places = comparison.grid.idle.iter().enumerate();
            let points = places.filter_map(|(place, &idle)| Some((place as f64, value(idle)?)));
            Series { name: model.to_owned(), points: points.collect() }
        };
        let names: Vec<String> = comparison.grid.idle.iter().map(|&idle| thousands(idle)).collect();
        let x = Axis {
            label: "idle connections besides".to_owned(),
            scale: Scale::Names,
            form: Box::new(move |place| names.get(place as usize).cloned().unwrap_or_default()),
        };
        let y = Axis {
            label: format!("{}; {connections} active connections, messages of {size} bytes", self.unit),
            scale: Scale::Logarithmic,
            form: Box::new(count),
        };
        let series = MODELS.iter().map(|model| series(model.name)).collect();
        chart::page(self.title, &[Chart { title: self.title.to_owned(), x, y, series }])
    }
}

impl Comparison {
    fn loads(&self) -> Vec<(usize, usize)> {
        let sizes = self.grid.sizes.iter();
        sizes.flat_map(|&size| self.grid.connections.iter().map(move |&connections| (size, connections))).collect()
    }

    fn cell(&self, model: &str, idle: usize, size: usize, connections: usize) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.model == model && (cell.idle, cell.size, cell.connections) == (idle, size, connections))
    }

    fn markdown(&self) -> String {
        let mut text = self.head();
        for (size, connections) in self.loads() {
            let _ = writeln!(text, "\n## {connections} active connections, messages of {size} bytes");
            for figure in &FIGURES {
                self.table(&mut text, figure, size, connections);
            }
            self.verdicts(&mut text, size, connections);
        }
        self.calls(&mut text);
        self.memory(&mut text);
        self.same_twice(&mut text);
        self.missing(&mut text);
        text
    }

    fn head(&self) -> String {
        let (environment, grid) = (&self.environment, &self.grid);
        format!(
            "# Server models compared\n\n\
             `eagain compare{}` of eagain {}: the same services and the same connection code under six ways to wait.\n\
             {}, {} processors, Linux {}. Echo over the loopback; the client on the same machine. Each figure is the\n\
             median of {} runs of {} seconds, one server process each. All have one thread that serves but `threads`,\n\
             which has one for each connection and may use every processor.\n",
            if self.quick { " --quick" } else { "" },
            environment.version,
            environment.cpu,
            environment.cpus,
            environment.kernel,
            grid.repetitions,
            grid.seconds,
        )
    }

    fn table(&self, text: &mut String, figure: &Figure, size: usize, connections: usize) {
        let _ = writeln!(text, "\n### {}, {}\n", figure.title, figure.unit);
        let _ = writeln!(text, "![{}]({})\n", figure.title, figure.file_name(size, connections));
        self.heading(text, "model");
        for model in &MODELS {
            let values = self.grid.idle.iter().map(|&idle| match self.cell(model.name, idle, size, connections) {
                Some(cell) if cell.errors > 0 => format!("{} errors", cell.errors),
                Some(cell) => value((figure.of)(cell).median * figure.scale),
                None => "-".to_owned(),
            });
            let _ = writeln!(text, "| {} | {} |", model.name, values.collect::<Vec<_>>().join(" | "));
        }
    }

    fn heading(&self, text: &mut String, first: &str) {
        let idle: Vec<String> = self.grid.idle.iter().map(|&idle| format!("{} idle", thousands(idle))).collect();
        let _ = writeln!(text, "| {first} | {} |\n|---|{}", idle.join(" | "), "---:|".repeat(idle.len()));
    }

    /// Who needs less CPU, pair by pair; and in words, who crosses whom.
    fn verdicts(&self, text: &mut String, size: usize, connections: usize) {
        let here = |pair: &&Pair| (pair.size, pair.connections) == (size, connections);
        let pairs: Vec<&Pair> = self.findings.pairs.iter().filter(here).filter(|pair| !pair.at.is_empty()).collect();
        let _ = writeln!(text, "\n### Who needs less CPU\n");
        self.heading(text, "of these two");
        for pair in pairs.iter().filter(|pair| pair.figure == CPU) {
            let verdicts = self.grid.idle.iter().map(|&idle| pair.verdict(idle));
            let verdicts: Vec<String> = verdicts.collect();
            let _ = writeln!(text, "| {}, {} | {} |", pair.models[0], pair.models[1], verdicts.join(" | "));
        }
        for (figure, name) in [(CPU, "CPU time"), (THROUGHPUT, "throughput")] {
            let here = || pairs.iter().filter(|pair| pair.figure == figure);
            let _ = writeln!(text, "\nIn {name}:\n");
            for pair in here().filter(|pair| pair.at.iter().any(|at| at.better.is_some())) {
                let _ = writeln!(text, "- {}", pair.sentence());
            }
            let alike = here().filter(|pair| pair.at.iter().all(|at| at.better.is_none()));
            let alike: Vec<String> = alike.map(|pair| pair.models.join(" and ")).collect();
            if !alike.is_empty() {
                let _ = writeln!(text, "- no difference anywhere: {}.", alike.join("; "));
            }
        }
    }

    fn calls(&self, text: &mut String) {
        let _ = writeln!(text, "\n## System calls for one message\n");
        if let Some(why) = &self.system_calls_not_measured {
            let _ = writeln!(text, "Not measured: {why}.");
            return;
        }
        let _ = writeln!(text, "Counted by strace, with one connection and one message at a time.\n");
        let _ = writeln!(text, "| model | calls | which |\n|---|---:|---|");
        for calls in &self.system_calls {
            let which: Vec<String> = calls.by_name.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
            let _ = writeln!(text, "| {} | {:.2} | {} |", calls.model, calls.per_message, which.join(", "));
        }
    }

    fn memory(&self, text: &mut String) {
        let _ = writeln!(text, "\n## Memory of an idle connection\n");
        let _ = writeln!(
            text,
            "Of the server process (VmRSS). What the kernel keeps for a socket, and for a thread, is not in it. With \
             completion a receive waits on each, and owns its buffer.\n"
        );
        let _ = writeln!(text, "| model | bytes | measured with |\n|---|---:|---:|");
        for memory in &self.memory {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} idle |",
                memory.model,
                memory.bytes_per_connection.max(0.0),
                thousands(memory.idle)
            );
        }
    }

    /// What this machine can tell, by what it tells of one model and itself.
    fn same_twice(&self, text: &mut String) {
        let findings = &self.findings;
        let _ = writeln!(text, "\n## The same model twice\n");
        let differs: Vec<_> = findings.same_model_twice.iter().filter(|twice| twice.differs).collect();
        let model = findings.same_model_twice.first().map_or("-", |twice| twice.model);
        if differs.is_empty() {
            let _ =
                writeln!(text, "{model} against {model}: no difference in any of the figures above, as it must be.");
        } else {
            let _ = writeln!(
                text,
                "{model} against {model} seems to differ at {} of {} places: this machine was not quiet enough to tell \
                 small differences.",
                differs.len(),
                findings.same_model_twice.len()
            );
        }
        let percent = |figure: &str| findings.thresholds.get(figure).copied().unwrap_or_default() * 100.0;
        let _ = writeln!(
            text,
            "No difference is where the ranges of all runs overlap, or what is less than this model differs from \
             itself: {:.0} % in CPU time, {:.0} % in throughput.",
            percent(CPU),
            percent(THROUGHPUT)
        );
    }

    fn missing(&self, text: &mut String) {
        if !self.not_measured.is_empty() {
            let _ = writeln!(text, "\n## Not measured\n");
        }
        for missing in &self.not_measured {
            let _ = writeln!(text, "- {} with {} idle: {}", missing.model, thousands(missing.idle), missing.why);
        }
    }
}

impl Pair {
    fn verdict(&self, idle: usize) -> String {
        match self.at.iter().find(|at| at.idle == idle) {
            None => "-".to_owned(),
            Some(at) => match at.better.zip(at.times) {
                None => "no difference".to_owned(),
                Some((better, times)) => format!("{better}, {times:.1}×"),
            },
        }
    }

    /// One line: whether they cross, or differ, or do not.
    fn sentence(&self) -> String {
        let [one, other] = self.models;
        if let Some([before, behind]) = self.cross_between {
            let better = |idle| self.at.iter().find(|at| at.idle == idle).and_then(|at| at.better).unwrap_or("-");
            return format!(
                "**{one} and {other} cross**: {} is better with {} idle, {} with {}.",
                better(before),
                thousands(before),
                better(behind),
                thousands(behind)
            );
        }
        let decided: Vec<_> = self.at.iter().filter(|at| at.better.is_some()).collect();
        let places = |at: &[_]| match at.len() {
            count if count == self.at.len() => "everywhere".to_owned(),
            _ => {
                let idle: Vec<String> = at.iter().map(|at: &&super::findings::At| thousands(at.idle)).collect();
                format!("with {} idle, elsewhere there is no difference", idle.join(", "))
            }
        };
        let better = decided.first().and_then(|at| at.better).unwrap_or("neither");
        format!("{one} and {other}: {better} is better {}.", places(&decided))
    }
}

/// Three digits that mean something.
fn value(number: f64) -> String {
    match number {
        number if number >= 1000.0 => thousands(number.round() as usize),
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}

fn thousands(number: usize) -> String {
    count(number as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_reading() {
        assert_eq!([0, 900, 19_000, 1_234_567].map(thousands), ["0", "900", "19,000", "1,234,567"]);
        assert_eq!([0.123, 12.34, 123.4, 12_345.6].map(value), ["0.12", "12.3", "123", "12,346"]);
    }
}
