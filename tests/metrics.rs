//! `serve --metrics` and `status`: the text format, sums that add up, HTTP from hostile clients, and the drain.
//!
//! The format is checked by a parser of its own that takes nothing but what the specification says
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), and by `promtool` where there is one.

mod common;
#[path = "metrics/exposition.rs"]
mod exposition;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    ANY, Server, Setup, connect, connect_unix, exchange, expect, expect_to_end, frame, half_close, in_every_setup,
    not_tested, pattern, program, rst, send, wait_until,
};
use exposition::Scrape;
use nix::sys::signal::Signal;

in_every_setup!(
    numbers_add_up_after_traffic,
    numbers_add_up_in_every_look_at_running_traffic,
    while_it_drains_the_server_is_alive_and_not_ready,
    a_client_of_the_metrics_does_not_hold_up_the_drain,
    what_is_no_request_is_refused_and_hurts_nobody,
    pipelined_requests_are_answered_in_order,
    a_request_may_come_byte_by_byte,
    a_client_that_does_not_read_is_not_answered_for_ever,
    a_head_has_at_most_8_kib,
);

// ---- a client -----------------------------------------------------------------------------------------------------

struct Answer {
    status: u16,
    fields: BTreeMap<String, String>,
    body: String,
}

/// Receives one answer; `has_body` is false for one to HEAD.
#[track_caller]
fn receive(mut stream: impl Read, has_body: bool) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| {
            panic!("an answer ends in its head: {error}, \"{}\"", head.escape_ascii());
        });
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head in ASCII");
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").expect("a status line");
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let fields: BTreeMap<_, _> = lines.map(|line| field(line).expect("NAME: VALUE")).collect();
    let length = if has_body { fields["content-length"].parse().unwrap() } else { 0 };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the whole body");
    Answer { status: status[..3].parse().unwrap(), fields, body: String::from_utf8(body).unwrap() }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: eagain\r\n\r\n")
}

#[track_caller]
fn get(address: &str, path: &str) -> Answer {
    let stream = connect(address);
    send(&stream, request(path).as_bytes());
    receive(&stream, true)
}

#[track_caller]
fn scrape(server: &Server) -> Scrape {
    Scrape::parse(&get(server.addr("metrics"), "/metrics").body)
}

/// For every worker and service: accepted = open + closed + refused.
#[track_caller]
fn assert_sums(scrape: &Scrape) {
    let series = scrape.labels_of("eagain_connections_open");
    assert!(!series.is_empty());
    for labels in series {
        let only: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let sum = |name| scrape.sum(name, &only);
        assert_eq!(
            sum("eagain_connections_accepted_total"),
            sum("eagain_connections_open")
                + sum("eagain_connections_closed_total")
                + sum("eagain_connections_refused_total"),
            "{labels:?}"
        );
    }
}

// ---- numbers ------------------------------------------------------------------------------------------------------

fn numbers_add_up_after_traffic(setup: Setup) {
    let server = setup.serve(&["--metrics", ANY, "--echo", ANY, "--frames", ANY, "--max-frame", "10"]);
    let bytes = pattern(300_000, 1);
    let stays: Vec<TcpStream> = (0..5).map(|_| connect(server.addr("echo"))).collect();
    stays.iter().for_each(|stream| exchange(stream, &bytes));
    let leaves: Vec<TcpStream> = (0..7).map(|_| connect(server.addr("echo"))).collect();
    for stream in &leaves {
        exchange(stream, b"hello");
        half_close(stream);
        expect_to_end(stream, b"");
    }
    let broken = connect(server.addr("echo"));
    exchange(&broken, b"hello");
    rst(broken);
    let too_long = connect(server.addr("frames"));
    send(&too_long, &frame(b"a payload of more than ten bytes")[..4]);
    expect_to_end(&too_long, b"");
    drop(too_long);

    wait_until("every end is counted", || {
        scrape(&server).sum("eagain_connections_closed_total", &[("service", "echo")]) == 8.0
            && scrape(&server).sum("eagain_connections_closed_total", &[("service", "frames")]) == 1.0
    });
    let scrape = scrape(&server);
    assert_sums(&scrape);
    let echo = |name| scrape.sum(name, &[("service", "echo")]);
    assert_eq!(echo("eagain_connections_accepted_total"), 13.0);
    assert_eq!(echo("eagain_connections_open"), 5.0);
    assert_eq!(echo("eagain_connections_refused_total"), 0.0);
    let moved = (5 * bytes.len() + 8 * 5) as f64;
    assert_eq!((echo("eagain_received_bytes_total"), echo("eagain_sent_bytes_total")), (moved, moved));
    let ended =
        |service, reason| scrape.sum("eagain_connections_closed_total", &[("service", service), ("reason", reason)]);
    assert_eq!((ended("echo", "finished"), ended("echo", "broken")), (7.0, 1.0));
    assert_eq!(ended("frames", "finished") + ended("frames", "broken"), 1.0);
    assert_eq!(scrape.sum("eagain_received_bytes_total", &[("service", "frames")]), 4.0);
    assert_loops(&scrape, setup.workers);
    drop(stays);
}

/// What must hold between the numbers of a loop, whatever it did.
#[track_caller]
fn assert_loops(scrape: &Scrape, workers: u32) {
    for worker in 0..workers {
        let worker = worker.to_string();
        let sum = |name| scrape.sum(name, &[("worker", &worker)]);
        assert!(sum("eagain_receives_eagain_total") <= sum("eagain_receives_total"));
        assert_eq!(sum("eagain_loop_turn_seconds_count"), sum("eagain_epoll_waits_total"), "a turn for each wait");
        assert!(sum("eagain_loop_turn_longest_seconds") <= sum("eagain_loop_turn_seconds_sum"));
    }
    assert!(scrape.sum("eagain_receives_total", &[]) > 0.0 && scrape.sum("eagain_epoll_events_total", &[]) > 0.0);
    assert_eq!(scrape.sum("eagain_accept_pauses_total", &[]), 0.0);
    assert!(scrape.sum("process_open_fds", &[]) < scrape.sum("process_max_fds", &[]));
}

fn numbers_add_up_in_every_look_at_running_traffic(setup: Setup) {
    let server = setup.serve(&["--metrics", ANY, "--echo", ANY, "--discard", ANY]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let stream = connect(server.addr("echo"));
                    exchange(&stream, b"hello");
                    send(connect(server.addr("discard")), b"hello");
                }
            });
        }
        let mut before = scrape(&server);
        for _ in 0..100 {
            let now = scrape(&server);
            assert_sums(&now);
            now.assert_no_counter_went_back_since(&before);
            before = now;
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_listener_that_rests_is_counted_and_the_sum_still_holds() {
    let mut server = Setup { edge_triggered: false, workers: 1, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    let watch = connect(server.addr("metrics"));
    let look = || {
        send(&watch, request("/metrics").as_bytes());
        Scrape::parse(&receive(&watch, true).body)
    };
    look();
    let limit = format!("--nofile={}", server.fd_count() + 2);
    let limited = Command::new("prlimit").args([&format!("--pid={}", server.pid()), &limit]).status();
    if !limited.is_ok_and(|status| status.success()) {
        return not_tested("metrics without descriptors (prlimit of util-linux)");
    }
    let clients: Vec<TcpStream> = (0..5).map(|_| connect(server.addr("echo"))).collect();
    wait_until("the listener rests", || look().sum("eagain_accept_pauses_total", &[]) >= 1.0);
    let scrape = look();
    assert_sums(&scrape);
    assert!(scrape.sum("eagain_connections_open", &[("service", "echo")]) < 5.0);
    drop(clients);
    wait_until("all are served in the end", || {
        look().sum("eagain_connections_closed_total", &[("service", "echo")]) == 5.0
    });
    server.assert_running();
}

// ---- the drain ----------------------------------------------------------------------------------------------------

fn while_it_drains_the_server_is_alive_and_not_ready(setup: Setup) {
    let slow = ["--delay", ANY, "--delay-ms", "3600000", "--drain-timeout", "3600"];
    let mut server = setup.serve(&[&["--metrics", ANY, "--echo", ANY], &slow[..]].concat());
    let metrics = server.addr("metrics").to_owned();
    assert_eq!((get(&metrics, "/readyz").status, get(&metrics, "/healthz").status), (200, 200));
    let older = connect(&metrics);
    // An answer that is due in an hour: the drain waits for it.
    let waits = connect(server.addr("delay"));
    send(&waits, b"x");
    wait_until("the byte has come", || {
        scrape(&server).sum("eagain_received_bytes_total", &[("service", "delay")]) == 1.0
    });
    server.signal(Signal::SIGTERM);
    wait_until("the server drains", || get(&metrics, "/readyz").status == 503);
    assert_eq!(get(&metrics, "/healthz").status, 200);
    send(&older, request("/readyz").as_bytes());
    assert_eq!(receive(&older, true).body, "draining\n");
    wait_until("the other listeners are closed", || TcpStream::connect(server.addr("echo")).is_err());
    let scrape = scrape(&server);
    assert_eq!(
        (scrape.sum("eagain_draining", &[]), scrape.sum("eagain_connections_open", &[("service", "delay")])),
        (1.0, 1.0)
    );
    assert_sums(&scrape);
    rst(waits);
    assert!(server.wait_for_exit().success());
    assert!(TcpStream::connect(&metrics).is_err());
}

fn a_client_of_the_metrics_does_not_hold_up_the_drain(setup: Setup) {
    let mut server = setup.serve(&["--metrics", ANY, "--echo", ANY, "--drain-timeout", "3600"]);
    let idle = connect(server.addr("metrics"));
    let begun = connect(server.addr("metrics"));
    send(&begun, b"GET /me");
    assert_eq!(get(server.addr("metrics"), "/readyz").status, 200);
    assert!(server.terminate().success());
    drop((idle, begun));
}

// ---- HTTP ---------------------------------------------------------------------------------------------------------

fn what_is_no_request_is_refused_and_hurts_nobody(setup: Setup) {
    let mut server = setup.serve(&["--metrics", ANY, "--echo", ANY]);
    let fields = (0..65).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    let cases: &[(&[u8], u16)] = &[
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\0\0\0\x05hello", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET /met\0rics HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /metrics HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (&[b"GET / HTTP/1.1\r\n", fields.as_bytes(), b"\r\n"].concat(), 431),
    ];
    for (bytes, status) in cases {
        let stream = connect(server.addr("metrics"));
        send(&stream, bytes);
        let answer = receive(&stream, true);
        assert_eq!(answer.status, *status, "{}", bytes.escape_ascii());
        assert_eq!(answer.fields["connection"], "close");
        expect_to_end(&stream, b"");
    }
    // Half a head and then nothing, a reset, an end.
    let begun = connect(server.addr("metrics"));
    send(&begun, b"GET /metrics HT");
    let reset = connect(server.addr("metrics"));
    send(&reset, b"GET /metrics HT");
    rst(reset);
    let ended = connect(server.addr("metrics"));
    send(&ended, b"GET /metrics HT");
    half_close(&ended);
    expect_to_end(&ended, b"");
    assert_eq!(get(server.addr("metrics"), "/healthz").status, 200);
    exchange(&connect(server.addr("echo")), b"hello");
    server.assert_running();
}

fn pipelined_requests_are_answered_in_order(setup: Setup) {
    let server = setup.serve(&["--metrics", ANY, "--echo", ANY]);
    let stream = connect(server.addr("metrics"));
    let paths = ["/healthz", "/nothing", "/readyz", "/metrics"];
    let rounds = 50;
    let requests: String = (0..rounds).flat_map(|_| paths).map(request).collect();
    thread::scope(|scope| {
        scope.spawn(|| send(&stream, requests.as_bytes()));
        for _ in 0..rounds {
            let answers = paths.map(|_| receive(&stream, true));
            assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 404, 200, 200]);
            assert_eq!((answers[0].body.as_str(), answers[2].body.as_str()), ("alive\n", "serving\n"));
            Scrape::parse(&answers[3].body);
        }
    });
    // What was asked before the end is answered, even if the end has come with it.
    send(&stream, [request("/healthz"), request("/readyz")].concat().as_bytes());
    half_close(&stream);
    assert_eq!((receive(&stream, true).body, receive(&stream, true).body), ("alive\n".into(), "serving\n".into()));
    expect_to_end(&stream, b"");
}

fn a_request_may_come_byte_by_byte(setup: Setup) {
    let server = setup.serve(&["--metrics", ANY, "--echo", ANY]);
    let stream = connect(server.addr("metrics"));
    let whole = "\r\nGET /healthz?x=1 HTTP/1.1\r\nHost: eagain\r\nAccept: */*\r\n\r\n".as_bytes();
    for at in 1..whole.len() {
        send(&stream, &whole[..at]);
        server.wait_until_at_rest();
        send(&stream, &whole[at..]);
        assert_eq!(receive(&stream, true).body, "alive\n", "split at {at}");
    }
    for byte in whole {
        send(&stream, &[*byte]);
    }
    assert_eq!(receive(&stream, true).body, "alive\n");
}

fn a_client_that_does_not_read_is_not_answered_for_ever(setup: Setup) {
    let server = setup.serve(&["--metrics", ANY, "--echo", ANY]);
    let stream = connect(server.addr("metrics"));
    // Their answers would be 200 times as long. TCP holds the client back before that: after what the sockets hold.
    let piece = request("/metrics").repeat(1000);
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let refused = (0..2000).any(|_| (&stream).write_all(piece.as_bytes()).is_err());
    assert!(refused, "the server has read {} bytes", 2000 * piece.len());
    assert!(server.rss() < 64 << 20, "{} bytes", server.rss());
    assert_eq!(get(server.addr("metrics"), "/healthz").status, 200);
}

fn a_head_has_at_most_8_kib(setup: Setup) {
    let server = setup.serve(&["--metrics", ANY, "--echo", ANY]);
    let head_of = |length: usize| {
        let start = "GET /healthz HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
    };
    for (length, status) in [(8192, 200), (8193, 431), (100_000, 431)] {
        let stream = connect(server.addr("metrics"));
        send(&stream, head_of(length).as_bytes());
        assert_eq!(receive(&stream, true).status, status, "{length} bytes");
    }
    // A line that never ends, in pieces.
    let stream = connect(server.addr("metrics"));
    send(&stream, b"GET /");
    for _ in 0..8 {
        server.wait_until_at_rest();
        send(&stream, &[b'x'; 1024]);
    }
    assert_eq!(receive(&stream, true).status, 431);
}

#[test]
fn each_path_has_its_answer() {
    let server = Setup { edge_triggered: false, workers: 2, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    let address = server.addr("metrics");
    let page = get(address, "/metrics");
    assert_eq!((page.status, &*page.fields["content-type"]), (200, "text/plain; version=0.0.4; charset=utf-8"));
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/", 404), ("/metrics/", 404), ("/metrics?a=b", 200)] {
        let answer = get(address, path);
        assert_eq!(answer.status, status, "{path}");
        assert!(!answer.fields.contains_key("connection") && answer.fields["date"].ends_with(" GMT"), "{path}");
    }
    let stream = connect(address);
    send(&stream, b"GET http://somewhere/healthz HTTP/1.1\r\nHost: somewhere\r\n\r\n");
    assert_eq!(receive(&stream, true).body, "alive\n");
    send(&stream, b"DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let refused = receive(&stream, true);
    assert_eq!((refused.status, &*refused.fields["allow"]), (405, "GET, HEAD"));
    send(&stream, b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = receive(&stream, false);
    assert_eq!((head.status, &*head.fields["content-length"]), (200, "6"));
    send(&stream, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive, CLOSE\r\n\r\n");
    assert_eq!(receive(&stream, true).fields["connection"], "close");
    expect_to_end(&stream, b"");
}

#[test]
fn old_clients_and_bodies_end_the_connection() {
    let server = Setup { edge_triggered: true, workers: 1, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    for (bytes, status) in [
        (&b"GET /healthz HTTP/1.0\r\n\r\n"[..], 200),
        (b"GET /healthz HTTP/1.1\nHost: a\nConnection: close\n\n", 200),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 21\r\n\r\nGET /healthz HTTP/1.1", 405),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200),
    ] {
        let stream = connect(server.addr("metrics"));
        send(&stream, bytes);
        let answer = receive(&stream, true);
        assert_eq!((answer.status, &*answer.fields["connection"]), (status, "close"), "{}", bytes.escape_ascii());
        expect_to_end(&stream, b"");
    }
}

#[test]
fn a_unix_socket_does_as_well() {
    let name = format!("unix:@eagain-metrics-{}", std::process::id());
    let server = Setup { edge_triggered: true, workers: 2, model: None }.serve(&["--metrics", &name, "--echo", ANY]);
    let stream = connect_unix(server.addr("metrics"));
    send(&stream, request("/healthz").as_bytes());
    assert_eq!(receive(&stream, true).body, "alive\n");
    let shown = status(&[&name]);
    assert!(text(&shown.stdout).contains(&format!(" at {name}: serving for ")), "{shown:?}");
}

#[test]
fn without_the_option_nothing_listens_for_it() {
    let server = Setup { edge_triggered: false, workers: 1, model: None }.serve(&["--echo", ANY]);
    assert!(!server.stdout().contains("metrics"));
    expect(connect_and_ask(server.addr("echo")), request("/metrics").as_bytes());
}

#[track_caller]
fn connect_and_ask(address: &str) -> TcpStream {
    let stream = connect(address);
    send(&stream, request("/metrics").as_bytes());
    stream
}

// ---- other programs -----------------------------------------------------------------------------------------------

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let server = Setup { edge_triggered: false, workers: 2, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else {
        return not_tested("promtool on the metrics (in Debian's package prometheus)");
    };
    promtool.stdin.take().unwrap().write_all(get(server.addr("metrics"), "/metrics").body.as_bytes()).unwrap();
    let outcome = promtool.wait_with_output().unwrap();
    assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:?}");
}

#[test]
fn curl_is_content() {
    let server = Setup { edge_triggered: true, workers: 1, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    let url = format!("http://{}", server.addr("metrics"));
    // Two requests on one connection: -v tells of the second one "Re-using existing connection".
    let curl = Command::new("curl")
        .args(["-sSv", "--max-time", "60"])
        .args([&format!("{url}/healthz"), &format!("{url}/metrics")])
        .output();
    let Ok(outcome) = curl else { return not_tested("curl as a client of the metrics") };
    assert!(outcome.status.success(), "{outcome:?}");
    assert!(text(&outcome.stderr).contains("Re-using existing connection"), "{}", text(&outcome.stderr));
    Scrape::parse(text(&outcome.stdout).strip_prefix("alive\n").expect("the first answer"));
}

// ---- eagain status ------------------------------------------------------------------------------------------------

#[track_caller]
fn status(args: &[&str]) -> Output {
    Command::new(program()).arg("status").args(args).stdin(Stdio::null()).output().expect("eagain status")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn status_shows_workers_and_services() {
    let server = Setup { edge_triggered: false, workers: 2, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    let client = connect(server.addr("echo"));
    exchange(&client, &[b'x'; 2048]);
    wait_until("the bytes are counted", || {
        scrape(&server).sum("eagain_sent_bytes_total", &[("service", "echo")]) == 2048.0
    });
    let outcome = status(&[server.addr("metrics")]);
    assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:?}");
    let page = text(&outcome.stdout);
    let row = |name: &str| {
        let line = page.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no row {name} in\n{page}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("echo")[1..], ["1", "1", "0", "2.0", "KiB", "2.0", "KiB"]);
    row("metrics");
    row("1");
    // The columns stand below their titles.
    let tables: Vec<&str> = page.split("\n\n").skip(1).collect();
    assert_eq!(tables.len(), 2);
    for table in tables {
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{page}");
    }
}

#[test]
fn status_as_json_is_one_object_a_line() {
    let server = Setup { edge_triggered: false, workers: 2, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    exchange(&connect(server.addr("echo")), b"hello");
    let outcome = status(&["--json", server.addr("metrics")]);
    let line = text(&outcome.stdout);
    assert_eq!(line.lines().count(), 1);
    assert!(line.contains("\"draining\":false") && line.contains("{\"name\":\"echo\",\"open\":"), "{line}");
    let mut python =
        match Command::new("python3").args(["-m", "json.tool"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn() {
            Ok(python) => python,
            Err(_) => return not_tested("the JSON of eagain status, by Python"),
        };
    python.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    assert!(python.wait().unwrap().success(), "{line}");
}

#[test]
fn watched_through_a_pipe_status_repeats_its_page_until_the_reader_goes() {
    let server = Setup { edge_triggered: false, workers: 1, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    let mut watch = Command::new(program());
    watch.args(["status", "--watch", server.addr("metrics")]).stdout(Stdio::piped());
    let mut child = watch.spawn().expect("eagain status");
    let mut reader = child.stdout.take().unwrap();
    let mut seen = String::new();
    while seen.matches("eagain ").count() < 2 {
        let mut piece = [0; 4096];
        let count = reader.read(&mut piece).unwrap();
        assert!(count > 0, "it has ended after {seen}");
        seen.push_str(text(&piece[..count]));
    }
    assert!(!seen.contains('\x1b') && seen.contains("received/s"), "{seen}");
    drop(reader);
    assert!(common::wait_with_deadline(&mut child).expect("it goes on without a reader").success());
}

#[test]
fn status_says_in_one_line_what_is_wrong() {
    let server = Setup { edge_triggered: false, workers: 1, model: None }.serve(&["--metrics", ANY, "--echo", ANY]);
    let nobody = common::FreePort::new();
    let closed = nobody.address().to_string();
    for (address, why) in [
        (closed.as_str(), "connection refused; is the server running with --metrics"),
        ("unix:@nobody-listens-here", "connection refused; is the server running with --metrics"),
        ("unix:/nowhere/at/all", "no such file or directory; is the server running"),
        (server.addr("echo"), "does not answer as eagain's --metrics does"),
    ] {
        let outcome = status(&[address]);
        let line = text(&outcome.stderr);
        assert_eq!((outcome.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.starts_with("eagain: ") && line.contains(why), "{line}");
    }
}

#[test]
fn status_asks_the_address_that_the_guide_gives_to_metrics() {
    let guide = include_str!("../docs/operations.md");
    let default = text(&status(&["--help"]).stdout).to_owned();
    let (_, default) = default.split_once("listens [").expect("a default in the help");
    let default = default.split_once(']').unwrap().0;
    assert!(guide.contains(&format!("serve --metrics {default}")), "{default}");
}
