//! The daemon under a real systemd, which `scripts/systemd-sandbox` boots, a new one for each fact; and what the
//! service and its manager say to each other without one.

mod common;
#[path = "common/sandbox.rs"]
mod sandbox;

use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{ANY, DEADLINE, Server, program, wait_until};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use sandbox::{PRELUDE, Report, Sandbox};

/// Runs a script in a sandbox with the program and its units.
#[track_caller]
fn in_sandbox(tools: &[&str], script: &str) -> Option<Report> {
    Some(Sandbox::with_units(&program(), tools)?.run(&format!("{PRELUDE}{script}")))
}

// ---- the units ----------------------------------------------------------------------------------------------------

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Some(report) = in_sandbox(
        &["systemd-analyze"],
        r#"
        cd /usr/lib/systemd/system
        echo "complaints=$(systemd-analyze verify eagain.socket eagain-frames.socket eagain{,-bind}.service 2>&1)"
        echo "version=$(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')"
        for unit in eagain eagain-bind; do
            report=$(systemd-analyze security --no-pager $unit.service)
            echo "$unit=$(sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p' <<<"$report")"
        done
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("complaints"), "");
    if report.value("version") != "252" {
        println!(
            "not tested: the exposure, which each version of systemd measures in its own way; the bars are of 252"
        );
        return;
    }
    for (unit, bar) in [("eagain", 0.4), ("eagain-bind", 1.2)] {
        let exposure: f64 = report.value(unit).parse().unwrap();
        assert!(exposure <= bar, "{unit}.service: exposure {exposure}, more than {bar}");
    }
}

#[test]
fn the_first_client_starts_the_service() {
    let Some(report) = in_sandbox(
        &[],
        r#"
        start eagain.socket eagain-frames.socket
        echo "before=$(systemctl is-active eagain.service)"
        connect 7007
        echo "echo=$(ask hello)"
        connect 7004
        printf '\0\0\0\2hi' >&5
        echo "frames=$(head -c 6 <&5 | od -An -tx1)"
        # The client may be answered before the manager has read READY.
        eventually is eagain.service SubState running
        lines
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("before"), "inactive");
    assert_eq!(report.value("echo"), "hello");
    assert_eq!(report.value("frames").trim(), "00 00 00 02 68 69");
    report.has("listening echo 127.0.0.1:7007\n");
    report.has("listening frames 127.0.0.1:7004\n");
}

#[test]
fn the_service_that_binds_has_the_default_ports() {
    let Some(report) = in_sandbox(
        &[],
        r#"
        start eagain-bind.service
        # No waiting: the start is over when it accepts.
        open 7007 || fail "connect"
        echo "echo=$(ask hello)"
        open 7004 || fail "connect"
        systemctl stop eagain-bind.service
        echo "result=$(systemctl show -P Result eagain-bind.service)"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("echo"), "hello");
    assert_eq!(report.value("result"), "success");
}

// ---- sockets ------------------------------------------------------------------------------------------------------

#[test]
fn sockets_of_several_kinds_and_names_are_served_beside_those_of_the_command_line() {
    let Some(report) = in_sandbox(
        &["nc"],
        r#"
        drop_in eagain.socket <<'UNIT'
[Socket]
ListenStream=[::1]:7007
ListenStream=/run/test/echo
ListenStream=@test
UNIT
        drop_in eagain-frames.socket <<'UNIT'
[Socket]
FileDescriptorName=discard
UNIT
        drop_in eagain.service <<'UNIT'
[Service]
ExecStart=
ExecStart=/usr/bin/eagain serve --log unix:@more
UNIT
        start eagain.socket eagain-frames.socket
        start eagain.service
        echo "unix=$(nc -N -U /run/test/echo <<<hello)"
        echo "v6=$(nc -N ::1 7007 <<<hello)"
        echo "discard=$(nc -N 127.0.0.1 7004 <<<hello)"
        systemctl stop eagain.service 2>/dev/null
        [[ -S /run/test/echo ]] && echo "name=kept"
        lines | grep listening
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("unix"), "hello");
    assert_eq!(report.value("v6"), "hello");
    assert_eq!(report.value("discard"), "");
    assert_eq!(report.value("name"), "kept");
    for listener in ["echo 127.0.0.1:7007", "echo [::1]:7007", "echo unix:/run/test/echo", "echo unix:@test"] {
        report.has(&format!("listening {listener}\n"));
    }
    report.has("listening discard 127.0.0.1:7004\n");
    report.has("listening log unix:@more\n");
    // Something was asked for, so the default ports are not added.
    report.lacks("listening frames");
}

#[test]
fn a_socket_whose_name_is_no_service_is_an_error_that_names_both() {
    let Some(report) = in_sandbox(
        &[],
        r#"
        drop_in eagain.socket <<<$'[Socket]\nFileDescriptorName=web'
        # Empty: systemd takes the name of the unit.
        drop_in eagain-frames.socket <<<$'[Socket]\nFileDescriptorName='
        drop_in eagain.service <<<$'[Service]\nRestart=no'
        start eagain.socket eagain-frames.socket
        systemctl start eagain.service 2>/dev/null && echo "started=yes"
        echo "result=$(systemctl show -P Result eagain.service)"
        lines
        "#,
    ) else {
        return;
    };
    report.lacks("started=");
    assert_eq!(report.value("result"), "exit-code");
    let said = report.0.lines().find(|line| line.starts_with("3 passed ")).expect("an error");
    // systemd passes the sockets of several units in no particular order.
    for part in [
        "127.0.0.1:7007 as 'web'",
        "127.0.0.1:7004 as 'eagain-frames.socket'",
        ": FileDescriptorName= must be one of echo, discard, chargen, frames, log, delay",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

// ---- readiness, status, the end -----------------------------------------------------------------------------------

#[test]
fn it_is_ready_when_every_worker_has_registered_every_listener() {
    // Each epoll_ctl takes 300 ms; a READY that is sent before them finds epolls without listeners.
    let Some(report) = in_sandbox(
        &["strace"],
        r#"
        cat >/run/systemd/system/slow.service <<'UNIT'
[Service]
Type=notify
NotifyAccess=all
ExecStart=strace -D -f -qq -o /dev/null -e trace=epoll_ctl -e inject=epoll_ctl:delay_enter=300000 \
    /usr/bin/eagain serve --workers 3 --echo unix:@a --echo unix:@b
UNIT
        start slow.service
        # Lines "tfd: …" are what an epoll watches: the main thread's 2, a worker's waker and 2 listeners.
        cd "/proc/$(systemctl show -P MainPID slow.service)/fdinfo" || fail "it does not run"
        echo "watched=$(grep -c '^tfd:' * | sed -n 's/.*:\([1-9]\)$/\1/p' | sort | xargs)"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("watched"), "2 3 3 3");
}

#[test]
fn the_status_counts_connections_and_bytes() {
    let Some(report) = in_sandbox(
        &[],
        r#"
        # The status comes twice in this time. A busy machine has held up a server for two seconds.
        drop_in eagain.service <<<$'[Service]\nWatchdogSec=6'
        start eagain.socket
        connect 7007
        echo "echo=$(ask hello)"
        eventually is eagain.service StatusText "1 connections, 1 accepted, 6 bytes received, 6 sent"
        exec 5>&-
        eventually is eagain.service StatusText "0 connections, 1 accepted, 6 bytes received, 6 sent"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("echo"), "hello");
}

#[test]
fn a_stop_answers_what_is_due_and_is_a_success() {
    let Some(report) = in_sandbox(
        &[],
        r#"
        drop_in eagain-bind.service <<'UNIT'
[Service]
ExecStart=
ExecStart=/usr/bin/eagain serve --echo 7007 --delay 7008 --delay-ms 8000 --drain-timeout 20
TimeoutStopSec=60
UNIT
        start eagain-bind.service
        # The answer is due in eight seconds; the stop comes first, and is seen, on a busy machine too.
        open 7008 || fail "connect"
        echo late >&5
        systemctl stop --no-block eagain-bind.service
        draining() {
            is eagain-bind.service SubState stop-sigterm && is eagain-bind.service StatusText "Draining*"
        }
        eventually draining
        echo "answer=$(cat <&5)"
        eventually is eagain-bind.service ActiveState inactive
        echo "result=$(systemctl show -P Result eagain-bind.service)"
        echo "status=$(systemctl show -P ExecMainStatus eagain-bind.service)"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("answer"), "late");
    assert_eq!(report.value("result"), "success");
    assert_eq!(report.value("status"), "0");
}

#[test]
fn lines_have_the_priority_that_they_deserve() {
    let Some(report) = in_sandbox(
        &[],
        r#"
        cat >/run/systemd/system/test.service <<'UNIT'
[Service]
Type=notify
ExecStart=/usr/bin/eagain serve --echo unix:@a --backlog 2000000000
UNIT
        sed 's/--echo.*/--echo 192.0.2.1:7/' /run/systemd/system/test.service >/run/systemd/system/bad.service
        start test.service
        systemctl start bad.service 2>/dev/null && fail "it binds a foreign address"
        systemctl stop test.service
        lines
        "#,
    ) else {
        return;
    };
    report.has("3 192.0.2.1:7 is not an address of this machine");
    report.has("4 the kernel cuts --backlog 2000000000 to ");
    report.has("5 SIGTERM: draining, for 5s at the most\n");
    report.has("6 serving level-triggered");
    // What stdout says has no prefix, and the prefix is not part of any line.
    report.has("6 listening echo unix:@a\n");
    report.lacks("<6>");
}

/// The journal's own priority of each line of JSON is the one that the line says.
#[test]
#[cfg(feature = "cli")]
fn lines_of_json_have_their_priority_in_the_journal() {
    let Some(report) = in_sandbox(
        &[],
        r#"
        cat >/run/systemd/system/test.service <<'UNIT'
[Service]
Type=notify
ExecStart=/usr/bin/eagain serve --echo 7007 --backlog 2000000000 --log-format json --log-level debug
UNIT
        sed 's/--echo 7007/--echo 192.0.2.1:7/' /run/systemd/system/test.service >/run/systemd/system/bad.service
        start test.service
        systemctl start bad.service 2>/dev/null && fail "it binds a foreign address"
        open 7007 || fail "connect"
        ask hello
        exec 5>&-
        systemctl stop test.service
        lines
        "#,
    ) else {
        return;
    };
    let objects = report.0.lines().filter_map(|line| line.split_once(' ').filter(|(_, rest)| rest.starts_with('{')));
    let mut told: Vec<u64> = Vec::new();
    for (priority, text) in objects {
        let object: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(object["priority"].as_u64(), priority.parse().ok(), "{text}");
        told.extend(object["priority"].as_u64());
    }
    for priority in 3..=7 {
        assert!(told.contains(&priority), "no line of priority {priority} in:\n{}", report.0);
    }
    report.lacks("<6>");
}

// ---- the watchdog -------------------------------------------------------------------------------------------------

#[test]
fn a_service_with_one_worker_held_up_is_killed_and_started_again() {
    let Some(report) = in_sandbox(
        &["strace"],
        r#"
        drop_in eagain.service <<'UNIT'
[Service]
ExecStart=
ExecStart=/usr/bin/eagain serve --workers 3
WatchdogSec=6
UNIT
        start eagain.socket eagain.service
        # Fed while all is well, more than once.
        fed() { systemctl show -P WatchdogTimestampMonotonic eagain.service; }
        for round in 1 2; do
            last=$(fed)
            later() { (($(fed) > last)); }
            eventually later
        done
        echo "restarts=$(systemctl show -P NRestarts eagain.service)"
        pid=$(systemctl show -P MainPID eagain.service)
        tid=$(grep -lx 'worker 1' /proc/$pid/task/*/comm | cut -d / -f 5)
        # The others, and the main thread, go on.
        strace -qq -o /dev/null -p "$tid" -e inject=epoll_wait,epoll_pwait:delay_enter=600000000 2>/dev/null &
        tracer=$!
        eventually is eagain.service SubState stop-watchdog
        # A thread that is traced is not gone until its tracer has seen it.
        kill -KILL "$tracer"
        eventually is eagain.service NRestarts 1
        eventually is eagain.service ActiveState active
        connect 7007
        echo "echo=$(ask again)"
        [[ $(systemctl show -P MainPID eagain.service) != "$pid" ]] && echo "process=another"
        journalctl --sync
        journalctl -q -o cat -u eagain.service
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("restarts"), "0");
    assert_eq!(report.value("echo"), "again");
    assert_eq!(report.value("process"), "another");
    report.has("a worker does not turn its loop: the watchdog is not fed\n");
    report.has("eagain.service: Failed with result 'watchdog'.\n");
}

// ---- without systemd ----------------------------------------------------------------------------------------------

/// The next word of a server to a manager that stores nothing.
fn heard(manager: &UnixDatagram) -> String {
    loop {
        let mut message = [0; 4096];
        let count = match manager.recv(&mut message) {
            // A receive with a timeout is not taken up again by the kernel, whatever has woken it (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            received => received.expect("the server says something"),
        };
        let message = String::from_utf8_lossy(&message[..count]);
        if !message.starts_with("FDSTORE=1\n") {
            return message.into_owned();
        }
    }
}

#[test]
fn a_manager_hears_ready_and_stopping() {
    let name = format!("eagain-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || heard(&manager);
    let mut command = Command::new(program());
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let mut server = Server::start_as(command, &["--echo", ANY]);
    assert_eq!(hear(), "READY=1\nSTATUS=0 connections, 0 accepted, 0 bytes received, 0 sent\n");
    assert!(server.terminate().success());
    assert!(hear().starts_with("STOPPING=1\nSTATUS="));
}

#[test]
fn a_manager_hears_when_a_reload_begins_and_when_it_has_ended() {
    let name = format!("eagain-test-reload-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = Command::new(program());
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let server = Server::start_as(command, &["--echo", ANY]);
    assert!(heard(&manager).starts_with("READY=1\n"));
    let clock = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros();
    let before = clock();
    server.signal(Signal::SIGHUP);
    let reloading = heard(&manager);
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("RELOADING comes first");
    assert!((before..=clock()).contains(&time.parse().expect("microseconds")), "{time}");
    assert_eq!(heard(&manager), "READY=1");
    wait_until("it is told", || server.stderr().contains("nothing to reload: there is no --config"));
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let name = format!("eagain-test-watchdog-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let first_two = |pid: Option<&str>| {
        let mut command = Command::new(program());
        command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "200000");
        if let Some(pid) = pid {
            command.env("WATCHDOG_PID", pid);
        }
        let mut server = Server::start_as(command, &["--echo", ANY]);
        let hear = || heard(&manager).lines().next().unwrap().to_owned();
        let first = hear();
        if pid.is_some() {
            server.wait_until_idle();
            server.signal(Signal::SIGTERM);
        }
        let second = hear();
        server.signal(Signal::SIGKILL);
        server.wait_for_exit();
        (first, second)
    };
    assert_eq!(first_two(Some("1")), ("READY=1".to_owned(), "STOPPING=1".to_owned()));
    assert_eq!(first_two(None), ("READY=1".to_owned(), "WATCHDOG=1".to_owned()));
}

#[test]
fn a_promised_descriptor_that_is_not_there_is_named() {
    let said = serve_as_told("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=echo exec \"$0\" serve 3>&-");
    assert_eq!(said, "eagain: descriptor 3, which was passed as 'echo': it is not inherited\n");
    let said = serve_as_told("JOURNAL_STREAM=1:1 LISTEN_PID=$$ LISTEN_FDS=many exec \"$0\" serve");
    assert_eq!(said, "eagain: LISTEN_FDS is \"many\", not a number\n");
    let said = serve_as_told("LISTEN_PID=$$ LISTEN_FDS=2147483645 exec \"$0\" serve");
    assert_eq!(said, "eagain: LISTEN_FDS is 2147483645, more than there can be\n");
}

#[test]
fn a_watchdog_that_nobody_could_feed_is_refused() {
    let said = serve_as_told("WATCHDOG_USEC=0 exec \"$0\" serve");
    assert_eq!(said, "eagain: WATCHDOG_USEC is 0: nobody can be that quick\n");
}

#[test]
fn a_descriptor_that_does_not_listen_is_named() {
    let said = serve_as_told("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve 3</dev/null");
    assert_eq!(
        said,
        "eagain: descriptor 3, which was passed as '': the inherited descriptor is no listening stream socket\n"
    );
}

#[test]
fn sockets_for_another_process_are_not_taken() {
    let mut command = Command::new(program());
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "echo");
    let server = Server::start_as(command, &["--echo", ANY]);
    let mut client = std::net::TcpStream::connect(server.addr("echo")).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

/// The last line that the program says when a shell starts it so; it must fail.
#[track_caller]
fn serve_as_told(script: &str) -> String {
    let output = Command::new("bash").args(["-c", script, &program()]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    format!("{}\n", said.lines().last().unwrap_or_default())
}
