//! `eagain bench` and `eagain report` through the program: bad servers are caught, stops are seen, figures are right.

mod common;

#[path = "bench/bad_servers.rs"]
mod bad_servers;
#[path = "bench/strangers.rs"]
mod strangers;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use common::{ANY, Server, program};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What `eagain bench ARGS` says and how it ends.
struct Told {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Told {
    fn new(output: Output) -> Told {
        Told {
            code: output.status.code().expect("it exits"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// The document on stdout.
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("{why}: {}{}", self.stdout, self.stderr))
    }
}

fn eagain(args: &[&str]) -> Told {
    let mut command = Command::new(program());
    Told::new(command.args(args).stdin(Stdio::null()).output().expect("the program starts"))
}

fn bench(args: &[&str]) -> Told {
    eagain(&[&["bench"], args].concat())
}

/// A measurement of messages, short and without noise: its document.
#[track_caller]
fn measured(address: &str, args: &[&str]) -> Value {
    let told = bench(&[&[address, "--json", "-"], args].concat());
    assert_eq!(told.code, 0, "{}", told.stderr);
    told.json()
}

fn number(document: &Value, path: &str) -> f64 {
    document.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {document:#}"))
}

/// A file of a test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("eagain-bench-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_else(|why| panic!("{}: {why}", self.path()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

// ---- what is measured ---------------------------------------------------------------------------------------------

#[test]
fn each_message_of_each_connection_is_counted_once() {
    let server = Server::start(&["--echo", ANY, "--frames", ANY]);
    for (service, size, depth) in [("echo", "64", "1"), ("frames", "1", "7"), ("echo", "100000", "3")] {
        let args = ["--service", service, "--messages", "25", "--connections", "4", "--size", size, "--depth", depth];
        let told = measured(server.addr(service), &args);
        assert_eq!(number(&told, "/messages"), 100.0);
        assert_eq!(number(&told, "/latency_us/count"), 100.0);
        assert_eq!(number(&told, "/errors/total"), 0.0);
        let means = told["connection_means_us"].as_array().expect("means");
        assert_eq!(means.len(), 4);
        let mean = means.iter().filter_map(Value::as_f64).sum::<f64>() / 4.0;
        assert!((mean / number(&told, "/latency_us/mean") - 1.0).abs() < 0.01, "{told:#}");
    }
}

#[test]
fn a_number_of_messages_gives_the_mean_of_each_connection_and_one_histogram() {
    let server = Server::start(&["--frames", ANY]);
    let args = [server.addr("frames"), "--service", "frames", "--connections", "100", "--messages", "10"];
    let told = bench(&args);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let means = told.stdout.split("\nmean of each connection\n").nth(1).expect("means");
    let (means, histogram) = means.split_once("\nall 1,000 messages\n").expect("a histogram");
    let units = means.split_whitespace().filter(|word| ["ns", "µs", "ms", "s"].contains(word)).count();
    assert_eq!(units, 100, "{means}");
    let bars: Vec<_> = histogram.lines().take_while(|line| line.starts_with("  to ")).collect();
    let number = |line: &&str| line.split_whitespace().nth(3).unwrap().replace(',', "").parse::<u64>().unwrap();
    assert_eq!(bars.iter().map(number).sum::<u64>(), 1000, "{histogram}");
}

#[test]
fn threads_and_idle_connections_share_the_work() {
    let server = Server::start(&["--echo", ANY]);
    let pid = server.pid().to_string();
    let args = ["--messages", "10", "--connections", "7", "--threads", "3", "--idle", "20", "--pid", &pid];
    let told = measured(server.addr("echo"), &args);
    assert_eq!(number(&told, "/messages"), 70.0);
    assert_eq!(told["connection_means_us"].as_array().map(Vec::len), Some(7));
    assert!(number(&told, "/server/cpu_ns_per_message") > 0.0 && number(&told, "/server/rss_bytes") > 0.0);
}

#[test]
fn a_known_delay_is_the_mean_and_no_value_is_below_it() {
    let server = Server::start(&["--delay", ANY, "--delay-ms", "1000"]);
    let args = ["--messages", "3", "--connections", "15"];
    let told = measured(server.addr("delay"), &args);
    assert!(number(&told, "/latency_us/min") >= 1_000_000.0, "{told:#}");
    // How much above it is the machine's affair; that it is the delay and not twice the delay is ours. So long a delay
    // that no machine adds as much to half of the messages.
    assert!(number(&told, "/latency_us/p50") < 2_000_000.0, "{told:#}");
}

#[test]
fn a_server_that_stops_shows_in_an_open_loop_and_is_told_of_in_a_closed_one() {
    let stopped = |rate: &[&str]| {
        let server = Server::start(&["--echo", ANY]);
        server.wait_until_at_rest();
        let rest = server.fd_count();
        let address = server.addr("echo").to_owned();
        let rate: Vec<String> = rate.iter().map(|word| (*word).to_owned()).collect();
        let load = thread::spawn(move || {
            let rate: Vec<&str> = rate.iter().map(String::as_str).collect();
            let args = ["--duration", "3", "--warm-up", "0", "--connections", "8"];
            measured(&address, &[&args[..], &rate].concat())
        });
        // The load has begun when there is something to count.
        common::wait_until("the load is connected", || server.fd_count() >= rest + 8);
        thread::sleep(Duration::from_millis(500));
        server.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_secs(1));
        server.signal(Signal::SIGCONT);
        load.join().expect("measured")
    };
    let open = stopped(&["--rate", "500"]);
    for figure in ["/latency_us/max", "/latency_us/p99", "/latency_us/p90"] {
        assert!(number(&open, figure) > 600_000.0, "{figure}: {open:#}");
    }
    // Every message that was due in the stop waited for its end: a third of them.
    assert!(number(&open, "/latency_us/mean") > 80_000.0, "{open:#}");
    assert!(number(&open, "/service_time_us/p50") < number(&open, "/latency_us/p90"));
    let closed = stopped(&[]);
    assert!(number(&closed, "/latency_us/max") > 900_000.0);
    // Eight answers of all that there were: unless these are hardly any, the percentiles know nothing of the stop.
    assert!(number(&closed, "/latency_us/p99") < 600_000.0 || number(&closed, "/messages") < 2000.0, "{closed:#}");
    assert_eq!(closed["mode"], "closed");
    let kinds: Vec<_> = closed["warnings"].as_array().expect("warnings").iter().map(|one| &one["kind"]).collect();
    // On a machine that stops so often by itself that the percentiles show it, there is nothing to warn of.
    let shows = 10.0 * number(&closed, "/latency_us/p99") >= number(&closed, "/latency_us/max");
    assert!(shows || kinds.iter().any(|kind| *kind == "service_time_read_as_latency"), "{closed:#}");
}

#[test]
fn an_open_loop_keeps_the_rate_that_was_asked_for() {
    let server = Server::start(&["--echo", ANY]);
    let args = ["--rate", "1000", "--messages", "50", "--connections", "10", "--threads", "2"];
    let told = measured(server.addr("echo"), &args);
    assert_eq!(number(&told, "/messages"), 500.0);
    // The last is due after 499 beats; nothing is sent before it is due.
    assert!(number(&told, "/seconds") >= 0.498, "{told:#}");
    assert_eq!(number(&told, "/service_time_us/count"), 500.0);
    assert!(number(&told, "/service_time_us/mean") <= number(&told, "/latency_us/mean"), "{told:#}");
}

#[test]
fn connecting_may_take_longer_than_the_measurement() {
    let server = Server::start(&["--echo", ANY]);
    let args = ["--connections", "1000", "--duration", "0.001", "--warm-up", "0"];
    let told = bench(&[&[server.addr("echo")], &args[..]].concat());
    assert_eq!(told.code, 0, "{}", told.stdout);
    assert!(told.stdout.contains("1000 of 1000"), "{}", told.stdout);
}

#[test]
fn churn_connects_anew_for_each_message() {
    let mut server = Server::start(&["--echo", ANY, "--metrics", ANY]);
    let told = measured(server.addr("echo"), &["--churn", "--messages", "50", "--connections", "4"]);
    assert_eq!((number(&told, "/messages"), &told["mode"]), (200.0, &Value::from("churn")));
    let accepted = || {
        let status = eagain(&["status", "--json", server.addr("metrics")]).json();
        let services = status["services"].as_array().expect("services");
        services.iter().find(|service| service["name"] == "echo").expect("echo")["accepted"].clone()
    };
    // A worker publishes at the end of the turn in which it has answered; the other one is asked.
    common::wait_until("200 are accepted", || accepted() == 200);
    server.wait_until_at_rest();
    assert_eq!(accepted(), 200);
    server.assert_running();
}

#[test]
fn streams_are_measured_in_bytes() {
    let server = Server::start(&["--discard", ANY, "--chargen", ANY]);
    for service in ["discard", "chargen"] {
        // A busy machine has held up a run of a third of a second for the whole of it.
        let args = ["--service", service, "--duration", "2", "--warm-up", "0.1", "--connections", "3"];
        let told = measured(server.addr(service), &args);
        assert!(number(&told, "/bytes_per_second") > 1e6, "{told:#}");
        assert_eq!(told["mode"], "stream");
        assert!(told.get("latency_us").is_none(), "{told:#}");
    }
}

#[test]
fn unix_sockets_are_targets_too() {
    let path = Scratch::new("socket");
    let (file, name) = (format!("unix:{}", path.path()), format!("unix:@eagain-bench-{}", std::process::id()));
    let _server = Server::start(&["--echo", &file, "--frames", &name]);
    for (address, service) in [(&file, "echo"), (&name, "frames")] {
        let told = measured(address, &["--service", service, "--messages", "20", "--connections", "100"]);
        assert_eq!(number(&told, "/messages"), 2000.0);
    }
}

#[test]
fn without_a_target_level_and_edge_are_measured_side_by_side() {
    let picture = Scratch::new("both.svg");
    let told = bench(&["--duration", "2", "--warm-up", "0.1", "--connections", "4", "--svg", picture.path()]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    for words in ["level-triggered", "edge-triggered", "service time", "server: CPU per message", "Closed loop"] {
        assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
    }
    let svg = picture.text();
    assert!(svg.starts_with("<svg ") && svg.contains("prefers-color-scheme:dark") && svg.ends_with("</svg>\n"));
    let told = bench(&["--messages", "5", "--connections", "2", "--json", "-"]).json();
    let names: Vec<_> = told["results"].as_array().expect("two").iter().map(|one| &one["target"]).collect();
    assert_eq!(names, ["level-triggered", "edge-triggered"]);
}

#[test]
fn servers_of_our_own_end_with_an_interrupted_bench() {
    let mut child = Command::new(program())
        .args(["bench", "--duration", "600"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let servers = both_servers(&child);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    let status = common::wait_with_deadline(&mut child).expect("it ends");
    assert_eq!(status.code(), Some(1));
    for server in servers {
        assert!(common::arguments(server).is_empty(), "server {server} lives");
    }
}

/// It has no chance to end them; the kernel does.
#[test]
fn servers_of_our_own_end_with_a_bench_that_is_killed() {
    let mut command = Command::new(program());
    command.args(["bench", "--duration", "600"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let servers = both_servers(&child);
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
    for server in servers {
        common::wait_until("the server is gone", || common::arguments(server).is_empty());
    }
}

/// Of a bench without a target.
fn both_servers(bench: &Child) -> Vec<u32> {
    let serves = |pid: &u32| common::arguments(*pid).contains(&"serve".to_owned());
    let servers = || common::children(bench.id()).into_iter().filter(serves).collect::<Vec<_>>();
    common::wait_until("both servers run", || servers().len() == 2);
    servers()
}

/// Round trips, one after another; prints the least, the median and the mean in microseconds.
const CLIENT: &str = "
import socket, statistics, sys, time
stream = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
times = []
for number in range(10):
    message = bytes([number]) * 64
    start = time.monotonic()
    stream.sendall(message)
    answer = b''
    while len(answer) < 64:
        answer += stream.recv(64)
    times.append((time.monotonic() - start) * 1e6)
    assert answer == message
print(min(times), statistics.median(times), statistics.mean(times))
";

#[test]
fn the_histogram_agrees_with_a_client_in_python() {
    // A server that answers after 200 ms leaves the noise of the machine far below: after 20 ms, one pause of half a
    // second among 30 messages doubled the mean.
    let server = Server::start(&["--delay", ANY, "--delay-ms", "200"]);
    let address = server.addr("delay");
    let port = address.rsplit(':').next().expect("a port");
    let Ok(output) = Command::new("python3").args(["-c", CLIENT, port]).output() else {
        return common::not_tested("another client beside bench: no python3");
    };
    let theirs = String::from_utf8(output.stdout).expect("UTF-8");
    let theirs: Vec<f64> = theirs.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    assert_eq!(theirs.len(), 3, "{}", String::from_utf8_lossy(&output.stderr));
    let ours = measured(address, &["--messages", "10", "--connections", "1"]);
    for (figure, theirs) in ["/latency_us/min", "/latency_us/p50", "/latency_us/mean"].into_iter().zip(theirs) {
        let ratio = number(&ours, figure) / theirs;
        assert!((0.5..2.0).contains(&ratio), "{figure}: {} and {theirs}", number(&ours, figure));
    }
}

// ---- files --------------------------------------------------------------------------------------------------------

/// The keys of an object and, behind a dot, those of the objects in it. What depends on the run is not looked into.
fn keys(value: &Value, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = format!("{prefix}{key}");
        let varies = ["by_cause", "first", "settings"].contains(&key.as_str());
        if !varies {
            keys(value.as_array().and_then(|all| all.first()).unwrap_or(value), &format!("{name}."), found);
        }
        found.push(name);
    }
}

#[test]
fn the_schema_of_the_json_has_these_keys() {
    let server = Server::start(&["--echo", ANY]);
    let pid = server.pid().to_string();
    // What there is none of has no key: a busy machine has let a fifth of a second pass without an answer.
    let args = ["--rate", "1000", "--duration", "2", "--warm-up", "0", "--repeat", "2", "--pid", &pid];
    let told = measured(server.addr("echo"), &args);
    let mut found = Vec::new();
    keys(&told, "", &mut found);
    found.sort();
    let times = ["count", "max", "mean", "min", "p50", "p90", "p99", "p99_9", "p99_99"];
    let used = [
        "cpu_ns",
        "cpu_ns_per_kib",
        "cpu_ns_per_message",
        "cpus",
        "cpus_waited_for",
        "involuntary_switches",
        "rss_bytes",
        "voluntary_switches",
    ];
    let groups: [(&str, &[&str]); 7] = [
        ("latency_us", &times),
        ("service_time_us", &times),
        ("client", &used),
        ("server", &used),
        ("errors", &["by_cause", "first", "messages_lost", "total"]),
        (
            "environment",
            &["cpu", "cpus", "descriptor_limit", "governor", "kernel", "load_average", "settings", "version"],
        ),
        ("runs", &["bytes_per_second", "errors", "intervals", "messages", "messages_per_second", "seconds", "started"]),
    ];
    let plain = [
        "schema",
        "target",
        "service",
        "mode",
        "connections",
        "idle",
        "depth",
        "size",
        "threads",
        "rate",
        "warm_up_seconds",
        "seconds",
        "messages",
        "messages_per_second",
        "bytes",
        "bytes_per_second",
        "repeats",
        "warnings",
    ];
    let mut expected: Vec<String> = plain.iter().map(|key| (*key).to_owned()).collect();
    for (name, inner) in groups {
        expected.push(name.to_owned());
        expected.extend(inner.iter().map(|key| format!("{name}.{key}")));
    }
    let interval = ["bytes", "messages", "p50_us", "p99_us", "seconds", "start"];
    expected.extend(interval.iter().map(|key| format!("runs.intervals.{key}")));
    for figure in [
        "messages_per_second",
        "bytes_per_second",
        "p50_us",
        "p99_us",
        "server_cpu_ns_per_message",
        "client_cpu_ns_per_message",
    ] {
        expected.push(format!("repeats.{figure}"));
        let spread = ["ci95", "max", "mean", "median", "min"];
        expected.extend(spread.iter().map(|key| format!("repeats.{figure}.{key}")));
    }
    expected.sort();
    let found: Vec<_> = found.into_iter().filter(|key| !key.starts_with("warnings.")).collect();
    assert_eq!(found, expected);
    assert_eq!(number(&told, "/schema"), 1.0);
    for warning in told["warnings"].as_array().expect("a list") {
        for key in ["kind", "observation", "cause", "remedy"] {
            assert!(warning[key].is_string(), "{warning:#}");
        }
    }
}

#[test]
fn the_log_opens_with_the_library_of_the_format_and_has_every_message() {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    let server = Server::start(&["--echo", ANY]);
    let log = Scratch::new("one.hlog");
    let args = ["--messages", "40", "--connections", "3", "--hdr", log.path()];
    let told = measured(server.addr("echo"), &args);
    let text = log.text();
    assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
    let mut values = 0;
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        if let LogEntry::Interval(interval) = entry.expect("a line of the format") {
            assert!(interval.encoded_histogram().starts_with("HIST"), "compressed, as all its tools write it");
            let bytes = base64::engine::general_purpose::STANDARD.decode(interval.encoded_histogram()).expect("base64");
            let histogram: hdrhistogram::Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).expect("V2");
            values += histogram.len();
            assert!(histogram.max() as f64 / 1e3 <= number(&told, "/latency_us/max"));
        }
    }
    assert_eq!(values, 120);
}

#[test]
fn logs_are_merged_and_a_load_does_not_differ_from_itself() {
    let server = Server::start(&["--echo", ANY]);
    let (one, other) = (Scratch::new("merge-1.hlog"), Scratch::new("merge-2.hlog"));
    for log in [&one, &other] {
        measured(server.addr("echo"), &["--messages", "50", "--connections", "2", "--hdr", log.path()]);
    }
    let told = eagain(&["report", one.path(), other.path()]);
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    assert!(told.stdout.starts_with("2 logs, merged\n"), "{}", told.stdout);
    assert!(told.stdout.lines().any(|line| line.trim_start().starts_with("values ") && line.ends_with(" 200")));

    let runs = Scratch::new("runs.hlog");
    let args = ["--duration", "1", "--warm-up", "0.1", "--repeat", "4", "--connections", "2", "--hdr", runs.path()];
    measured(server.addr("echo"), &args);
    let told = eagain(&["report", "--compare", runs.path(), runs.path()]);
    assert_eq!(told.stdout.matches("no difference").count(), 4, "{}", told.stdout);
    assert!(told.stdout.contains("means of 4 and 4 runs"), "{}", told.stdout);
}

#[test]
fn what_is_no_log_is_refused_in_one_line() {
    let file = Scratch::new("no.hlog");
    std::fs::write(&file.0, "#[comment]\nno log\n").unwrap();
    for (path, why) in [(file.path(), "line 2"), ("/nonexistent/x.hlog", "no such file")] {
        let told = eagain(&["report", path]);
        assert_eq!(told.code, 1);
        assert!(told.stderr.contains(why) && told.stderr.lines().count() == 1, "{}", told.stderr);
    }
    let told = eagain(&["report", "--compare", file.path()]);
    assert_eq!(told.code, 2, "{}", told.stderr);
}

// ---- the command line ---------------------------------------------------------------------------------------------

#[test]
fn without_a_terminal_there_is_no_byte_of_progress() {
    let server = Server::start(&["--echo", ANY]);
    let told = bench(&[server.addr("echo"), "--duration", "0.3", "--warm-up", "0", "--connections", "2"]);
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    assert!(!told.stdout.contains('\x1b') && !told.stdout.contains('\r'), "{:?}", told.stdout);
}

#[test]
fn options_that_contradict_one_another_are_refused_in_one_line() {
    for (args, why) in [
        (&["7", "--messages", "1", "--duration", "1"][..], "--messages and --duration"),
        (&["7", "--service", "discard", "--rate", "5"], "--rate needs a service that answers"),
        (&["7", "--churn", "--depth", "2"], "--churn and --depth"),
        (&["--service", "redis-ping"], "needs ADDRESS"),
        (&["--pid", "1"], "--pid needs ADDRESS"),
        (&["7", "--service", "smtp"], "expected echo, frames, discard, chargen or redis-ping"),
        (&["7", "--rate", "0"], "messages a second from 0.001"),
        (&["7", "--rate", "NaN"], "messages a second from 0.001"),
        (&["7", "--connections", "0"], "from 1 to 1000000"),
        (&["7", "--size", "0"], "bytes from 1"),
        (&["0"], "port 0"),
        (&["7", "--json", "-", "--hdr", "-"], "only one of"),
        (&["7", "--connections", "1000000", "--depth", "100000"], "on their way"),
    ] {
        let told = bench(args);
        assert_eq!(told.code, 2, "{args:?}: {}", told.stderr);
        assert!(told.stderr.contains(why) && told.stderr.lines().count() == 1, "{args:?}: {}", told.stderr);
        assert_eq!(told.stdout, "");
    }
}

#[test]
fn too_few_descriptors_are_told_before_the_work() {
    let mut command = Command::new("prlimit");
    command.args(["--nofile=200:200", &program(), "bench", "127.0.0.1:9", "--idle", "500"]);
    let told = Told::new(command.output().expect("prlimit of util-linux"));
    assert_eq!(told.code, 1);
    let line = "eagain: --connections 64 and --idle 500 need 629 descriptors, and the limit is 200 (RLIMIT_NOFILE)";
    assert!(told.stderr.starts_with(line) && told.stderr.lines().count() == 1, "{}", told.stderr);
}

#[test]
fn ports_that_run_out_are_named_with_the_way_out() {
    // In a network namespace of its own there are four ports, for sixty-four connections from one address.
    let script = "ip link set lo up && echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range || exit
        coproc server { exec \"$0\" serve --echo '[::1]:30000' 2>/dev/null; }
        read -r _ <&\"${server[0]}\"
        \"$0\" bench '[::1]:30000' --messages 3
        echo code $?
        kill \"$server_PID\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "bash", "-c", script, &program()]).stdin(Stdio::null());
    let output = command.output().expect("unshare of util-linux");
    if !output.status.success() && output.stdout.is_empty() {
        return common::not_tested("ports that run out: no network namespace here");
    }
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("failed: 60 no free port: all are in use or in TIME_WAIT"), "{told}");
    assert!(told.contains("net.ipv4.ip_local_port_range") && told.contains("code 1"), "{told}");
    assert!(told.contains("4 of 64"), "{told}");
}

#[test]
fn a_full_listen_queue_is_told_of() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    // Nobody accepts: the queue has room for two (listen(2): one more than it says).
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap().to_string();
    let told = bench(&[&address, "--connections", "20", "--messages", "1", "--timeout", "3", "--json", "-"]);
    assert_eq!(told.code, 1);
    let json = told.json();
    assert_eq!(json["errors"]["by_cause"]["connect_timed_out"], 18, "{json:#}");
    let kinds: Vec<_> = json["warnings"].as_array().expect("warnings").iter().map(|one| &one["kind"]).collect();
    assert!(kinds.iter().any(|kind| *kind == "backlog_clipped"), "{json:#}");
}

#[test]
fn a_process_that_is_not_there_is_named() {
    let server = Server::start(&["--echo", ANY]);
    let told = bench(&[server.addr("echo"), "--pid", "2147483647", "--messages", "1"]);
    assert_eq!(told.code, 1);
    assert_eq!(told.stderr, "eagain: process 2147483647: there is none of that number\n");
}

#[test]
fn a_refusal_is_a_failure_of_every_connection() {
    let nobody = common::FreePort::new();
    let closed = nobody.address().to_string();
    let told = bench(&[&closed, "--messages", "5", "--connections", "3", "--json", "-"]);
    assert_eq!(told.code, 1);
    let json = told.json();
    assert_eq!(json["errors"]["by_cause"]["refused"], 3, "{json:#}");
    assert_eq!(json["messages"], 0);
    assert!(told.stderr.contains("failed: 3 refused: nobody listens there"), "{}", told.stderr);
    let told = bench(&["unix:/nonexistent/socket", "--messages", "5", "--connections", "3"]);
    assert!(told.code == 1 && told.stdout.contains("failed: 3 refused"), "{}", told.stdout);
}

#[test]
fn a_file_that_cannot_be_written_is_a_failure() {
    let server = Server::start(&["--echo", ANY]);
    let told = bench(&[server.addr("echo"), "--messages", "1", "--svg", "/nonexistent/a.svg"]);
    assert_eq!(told.code, 1);
    assert_eq!(told.stderr, "eagain: cannot write /nonexistent/a.svg: no such file or directory\n");
}
