//! `eagain status`: what a server that runs with `--metrics` is doing, for people.

mod fetch;
mod samples;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use self::samples::Samples;
use crate::cli;
use crate::say;

const INTERVAL: Duration = Duration::from_secs(1);

/// Columns that workers and services have in common.
const COMMON: [(&str, &str); 3] = [
    ("open", "eagain_connections_open"),
    ("accepted", "eagain_connections_accepted_total"),
    ("refused", "eagain_connections_refused_total"),
];
const BYTES: [(&str, &str); 2] = [("received", "eagain_received_bytes_total"), ("sent", "eagain_sent_bytes_total")];

pub(crate) fn run(options: cli::Status) -> ExitCode {
    match show(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

fn show(options: &cli::Status) -> Result<(), String> {
    let redraws = options.watch && !options.json && std::io::stdout().is_terminal();
    let mut before: Option<Samples> = None;
    loop {
        let now = Samples::parse(&fetch::page(&options.address, &options.address_text)?)
            .ok_or_else(|| fetch::stranger(&options.address_text))?;
        let mut text = if options.json {
            json(&now)
        } else {
            let rates = options.watch.then(|| before.unwrap_or_default());
            page(&now, rates.as_ref(), &options.address_text)
        };
        if redraws {
            // To the first line, and what stood below is gone; one write, so that nothing flickers.
            text.insert_str(0, "\x1b[H\x1b[J");
        } else if options.watch && !options.json {
            text.push('\n');
        }
        let mut stdout = std::io::stdout().lock();
        // Whoever read this has gone (`| head`): there is nothing more to do.
        if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() || !options.watch {
            return Ok(());
        }
        drop(stdout);
        before = Some(now);
        std::thread::sleep(INTERVAL);
    }
}

/// Seconds that the server has run.
fn uptime(now: &Samples) -> f64 {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    (clock - now.sum("process_start_time_seconds", &[])).max(0.0)
}

/// `rates`: what was seen before, if bytes are to be those of a second.
fn page(now: &Samples, rates: Option<&Samples>, address: &str) -> String {
    let process = |name| now.sum(name, &[]);
    let mut text = format!(
        "eagain {} at {address}: {} for {}\n{} of {} descriptors, {} resident, {} of CPU\n",
        now.label("eagain_build_info", "version"),
        if process("eagain_draining") > 0.0 { "draining, runs" } else { "serving" },
        age(uptime(now)),
        process("process_open_fds"),
        process("process_max_fds"),
        bytes(process("process_resident_memory_bytes")),
        time(process("process_cpu_seconds_total")),
    );
    let per = if rates.is_some() { "/s" } else { "" };
    for (kind, loops) in [("worker", true), ("service", false)] {
        let mut head = vec![kind.to_owned()];
        head.extend(COMMON.iter().map(|(title, _)| (*title).to_owned()));
        head.extend(BYTES.iter().map(|(title, _)| format!("{title}{per}")));
        if loops {
            head.extend(["events/wait", "EAGAIN", "queued", "mean turn", "longest"].map(str::to_owned));
        }
        let mut rows = vec![head];
        for name in now.values_of(kind) {
            let only = [(kind, name.as_str())];
            let mut row = vec![name.clone()];
            row.extend(COMMON.iter().map(|(_, metric)| now.sum(metric, &only).to_string()));
            row.extend(BYTES.iter().map(|(_, metric)| bytes(moved(now, rates, metric, &only))));
            if loops {
                row.extend(loop_columns(now, rates, &only));
            }
            rows.push(row);
        }
        text.push('\n');
        table(&mut text, &rows);
    }
    text
}

/// How much a counter has grown in a second; without `rates`, since the start.
fn moved(now: &Samples, rates: Option<&Samples>, metric: &str, only: &[(&str, &str)]) -> f64 {
    match rates {
        None => now.sum(metric, only),
        Some(before) => {
            // Nothing was seen before: the mean since the start.
            let seconds = before.taken.map_or_else(|| uptime(now), |taken| taken.elapsed().as_secs_f64());
            grown(now, rates, metric, only) / seconds.max(0.001)
        }
    }
}

fn grown(now: &Samples, rates: Option<&Samples>, metric: &str, only: &[(&str, &str)]) -> f64 {
    (now.sum(metric, only) - rates.map_or(0.0, |before| before.sum(metric, only))).max(0.0)
}

fn loop_columns(now: &Samples, rates: Option<&Samples>, only: &[(&str, &str)]) -> [String; 5] {
    let quotient = |upper, lower| ratio(grown(now, rates, upper, only), grown(now, rates, lower, only));
    let eagain = quotient("eagain_receives_eagain_total", "eagain_receives_total");
    [
        format!("{:.2}", quotient("eagain_epoll_events_total", "eagain_epoll_waits_total")),
        format!("{:.1} %", eagain * 100.0),
        now.sum("eagain_run_queue_length", only).to_string(),
        time(quotient("eagain_loop_turn_seconds_sum", "eagain_loop_turn_seconds_count")),
        time(now.sum("eagain_loop_turn_longest_seconds", only)),
    ]
}

/// 0 if there is nothing to divide by.
fn ratio(upper: f64, lower: f64) -> f64 {
    if lower > 0.0 { upper / lower } else { 0.0 }
}

/// The first column to the left, numbers to the right.
fn table(text: &mut String, rows: &[Vec<String>]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows {
        let _ = write!(text, "{:1$}", row[0], width(0));
        for (column, cell) in row.iter().enumerate().skip(1) {
            let _ = write!(text, "  {cell:>0$}", width(column));
        }
        text.push('\n');
    }
}

fn bytes(count: f64) -> String {
    let mut scaled = count;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 || unit == "TiB" {
            let digits = if unit == "B" { 0 } else { 1 };
            return format!("{scaled:.digits$} {unit}");
        }
        scaled /= 1024.0;
    }
    String::new()
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// One line. Names of workers and services are digits and letters, and need no escapes.
fn json(now: &Samples) -> String {
    let process = |name| now.sum(name, &[]);
    let mut text = format!(
        "{{\"version\":\"{}\",\"draining\":{},\"uptime_seconds\":{:.2},\"open_fds\":{},\"max_fds\":{},\
         \"resident_bytes\":{},\"cpu_seconds\":{}",
        now.label("eagain_build_info", "version"),
        process("eagain_draining") > 0.0,
        uptime(now),
        process("process_open_fds"),
        process("process_max_fds"),
        process("process_resident_memory_bytes"),
        process("process_cpu_seconds_total"),
    );
    const LOOP: [(&str, &str); 9] = [
        ("waits", "eagain_epoll_waits_total"),
        ("events", "eagain_epoll_events_total"),
        ("stale_events", "eagain_epoll_stale_events_total"),
        ("receives", "eagain_receives_total"),
        ("receives_eagain", "eagain_receives_eagain_total"),
        ("accept_pauses", "eagain_accept_pauses_total"),
        ("run_queue", "eagain_run_queue_length"),
        ("turn_seconds", "eagain_loop_turn_seconds_sum"),
        ("longest_turn_seconds", "eagain_loop_turn_longest_seconds"),
    ];
    const CONNECTIONS: [(&str, &str); 3] = [
        ("closed", "eagain_connections_closed_total"),
        ("received_bytes", "eagain_received_bytes_total"),
        ("sent_bytes", "eagain_sent_bytes_total"),
    ];
    for (kind, more) in [("worker", &LOOP[..]), ("service", &[])] {
        let mut objects = Vec::new();
        for name in now.values_of(kind) {
            let mut object = format!("{{\"name\":\"{name}\"");
            for (key, metric) in COMMON.iter().chain(&CONNECTIONS).chain(more) {
                let _ = write!(object, ",\"{key}\":{}", now.sum(metric, &[(kind, &name)]));
            }
            objects.push(object + "}");
        }
        let _ = write!(text, ",\"{kind}s\":[{}]", objects.join(","));
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_for_people() {
        assert_eq!([0.0, 1023.0, 1536.0, 3e9].map(bytes), ["0 B", "1023 B", "1.5 KiB", "2.8 GiB"]);
        assert_eq!([0.0, 0.000_012_34, 0.0123, 90.0].map(time), ["0.0 µs", "12.3 µs", "12.3 ms", "90.0 s"]);
        assert_eq!([9.9, 125.0, 3700.0, 180_000.0].map(age), ["9 s", "2 min 5 s", "1 h 1 min", "2 d 2 h"]);
    }
}
