//! A restart under a real systemd, and who notices it.

mod common;
#[path = "common/sandbox.rs"]
mod sandbox;

use common::program;
use sandbox::{PRELUDE, Report, Sandbox, project};

/// Runs a script in a sandbox with the program, its units, and the clients of `restart.py`.
#[track_caller]
fn in_sandbox(script: &str) -> Option<Report> {
    let mut sandbox = Sandbox::with_units(&program(), &["python3"])?;
    sandbox.copy(project("tests/common/restart.py"), "/srv/restart.py");
    Some(sandbox.run(&format!("{PRELUDE}{script}")))
}

/// Restarts a unit five times under ten thousand clients with a part of a frame each, and eight who are busy.
#[track_caller]
fn nobody_notices(units: &str, service: &str, drop_in: &str) {
    let script = format!(
        r#"
        drop_in {service} <<'CONF'
{drop_in}
CONF
        start {units}
        connect 7004
        python3 /srv/restart.py {service} 10000 5 || fail "the clients ended with $?"
        lines
        "#
    );
    let Some(report) = in_sandbox(&script) else { return };
    assert_eq!(report.value("lost"), "0");
    assert_eq!(report.value("refused"), "0");
    assert_eq!(report.value("failed"), "");
    assert_eq!(report.value("idle"), "0");
    assert_eq!(report.0.matches("connections go on that the process before this one had").count(), 5, "{}", report.0);
    report.lacks("closed");
    println!("{service}: {} round trips, the longest {} s", report.value("rounds"), report.value("worst"));
}

#[test]
fn a_restart_with_sockets_of_the_manager_costs_no_client_anything() {
    nobody_notices("eagain.socket eagain-frames.socket", "eagain.service", "");
}

#[test]
fn a_restart_with_sockets_of_its_own_costs_no_client_anything() {
    let edge = "[Service]\nExecStart=\nExecStart=/usr/bin/eagain serve --edge-triggered";
    nobody_notices("eagain-bind.service", "eagain-bind.service", edge);
}

#[test]
fn what_a_client_has_not_taken_yet_comes_after_the_restart() {
    let Some(report) = in_sandbox(
        r#"
        start eagain-bind.service
        cat >/srv/slow.py <<'PY'
import socket, subprocess
size = 900_000
message = size.to_bytes(4, "big") + bytes(i * 7 % 251 for i in range(size))
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
client.connect(("127.0.0.1", 7004))
client.settimeout(60)
client.sendall(message)
for _ in range(3):
    subprocess.run(["systemctl", "restart", "eagain-bind.service"], check=True)
answer = b""
while len(answer) < len(message):
    piece = client.recv(65536)
    assert piece, f"the end after {len(answer)} bytes"
    answer += piece
print("same=" + str(answer == message))
PY
        python3 /srv/slow.py || fail "the client ended with $?"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("same"), "True");
}

#[test]
fn a_stop_drains_and_a_restart_does_not() {
    let Some(report) = in_sandbox(
        r#"
        drop_in eagain-bind.service <<'CONF'
[Service]
ExecStart=
ExecStart=/usr/bin/eagain serve --delay 127.0.0.1:7008 --delay-ms 700
CONF
        start eagain-bind.service
        connect 7008
        echo late >&5
        systemctl restart eagain-bind.service || fail restart
        read -t 60 -r line <&5
        echo "restarted=$line"
        echo later >&5
        systemctl stop eagain-bind.service || fail stop
        echo "stopped=$(cat <&5)"
        lines
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("restarted"), "late");
    assert_eq!(report.value("stopped"), "later");
    report.has("5 SIGTERM: handing the connections to the next process\n");
    report.has("5 1 connections are handed to the next process\n");
    report.has("5 SIGTERM: draining, for 5s at the most\n");
}

#[test]
fn without_a_store_a_restart_drains() {
    let Some(report) = in_sandbox(
        r#"
        drop_in eagain-bind.service <<'CONF'
[Service]
FileDescriptorStoreMax=0
CONF
        start eagain-bind.service
        connect 7007
        echo last >&5
        systemctl restart eagain-bind.service || fail restart
        echo "got=$(cat <&5)"
        connect 7007
        echo "again=$(ask hello)"
        lines
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("got"), "last");
    assert_eq!(report.value("again"), "hello");
    report.has("5 SIGTERM: draining, for 5s at the most\n");
}

#[test]
fn whoever_connects_after_a_crash_is_served_by_the_next_process() {
    let Some(report) = in_sandbox(
        r#"
        drop_in eagain-bind.service <<'CONF'
[Service]
RestartSec=5
CONF
        start eagain-bind.service
        connect 7007
        systemctl kill -s KILL eagain-bind.service
        eventually is eagain-bind.service SubState auto-restart
        # At once, or it is refused: the manager has kept the listener.
        open 7007 || fail "refused"
        echo "echo=$(ask hello)"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("echo"), "hello");
}

#[test]
fn a_restart_with_other_listeners_closes_those_that_nobody_asks_for() {
    let Some(report) = in_sandbox(
        r#"
        start eagain-bind.service
        connect 7007
        drop_in eagain-bind.service <<'CONF'
[Service]
ExecStart=
ExecStart=/usr/bin/eagain serve --frames 7004 --discard 7009
CONF
        systemctl restart eagain-bind.service || fail restart
        # An echo is not served any more.
        echo "echo=$(cat <&5)"
        open 7007 && fail "somebody listens"
        open 7009 || fail "nobody listens"
        open 7004 || fail "nobody listens"
        printf '\0\0\0\2hi' >&5
        echo "frames=$(head -c 6 <&5 | od -An -tx1)"
        lines
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("echo"), "");
    assert_eq!(report.value("frames"), " 00 00 00 02 68 69");
    report.has("4 1 connections of the process before this one are closed");
}

#[test]
fn a_reload_by_the_manager_opens_listeners_and_a_bad_file_changes_nothing() {
    let Some(report) = in_sandbox(
        r#"
        echo 'echo = "7007"' >/etc/eagain.toml
        drop_in eagain-bind.service <<'CONF'
[Service]
ExecStart=
ExecStart=/usr/bin/eagain serve --config /etc/eagain.toml
CONF
        start eagain-bind.service
        connect 7007
        printf 'echo = ["7007", "7008"]\n' >/etc/eagain.toml
        systemctl reload eagain-bind.service || fail reload
        exec 6<&5 7>&5
        connect 7008
        echo "new=$(ask hello)"
        echo "what = 1" >/etc/eagain.toml
        systemctl reload eagain-bind.service
        told() { lines | grep -q '^3 not reloaded'; }
        eventually told
        echo "again=$(ask hello)"
        exec 5<&6 5>&7
        echo old >&7 && read -t 60 -r line <&6
        echo "old=$line"
        # A restart keeps what the reload has opened.
        echo 'echo = ["7007", "7008"]' >/etc/eagain.toml
        systemctl restart eagain-bind.service || fail restart
        echo older >&7 && read -t 60 -r line <&6
        echo "older=$line"
        lines
        "#,
    ) else {
        return;
    };
    for (name, value) in [("new", "hello"), ("again", "hello"), ("old", "old"), ("older", "older")] {
        assert_eq!(report.value(name), value);
    }
    report.has("5 reloaded: listeners, limits, timeouts, addresses and log level are those of the file now\n");
    report.has("3 not reloaded, nothing is changed: /etc/eagain.toml:1: unknown key 'what'");
}
