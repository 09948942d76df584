//! What the tests of packaging share: files of the project, commands that must succeed, and a machine that systemd
//! runs, which `scripts/systemd-sandbox` boots, a new one for each fact.
#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const UNITS: [&str; 4] = ["eagain.socket", "eagain-frames.socket", "eagain.service", "eagain-bind.service"];

/// What a script for a sandbox with units begins with. Failures are told on stderr, with the journal, and end the
/// script.
pub(crate) const PRELUDE: &str = r#"
set -uo pipefail
fail() { { echo "FAILED: $*"; journalctl --no-pager -n 60; } >&2; exit 1; }
eventually() { local i; for ((i = 0; i < 1200; i++)); do "$@" && return; sleep 0.05; done; fail "never: $*"; }
is() { [[ $(systemctl show -P "$2" "$1") == $3 ]]; }
start() { systemctl start "$@" || fail "start $*"; }
drop_in() { mkdir -p "/run/systemd/system/$1.d"; cat >"/run/systemd/system/$1.d/test.conf"; systemctl daemon-reload; }
# Descriptor 5 is a client of a port; ask TEXT sends a line and shows the answer.
connect() { eventually open "$1"; }
open() { exec 5<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null
ask() { local line; echo "$1" >&5 && read -t 60 -r line <&5 && echo "$line"; }
# Lines of the program in the journal, each behind its priority.
lines() {
    local p
    journalctl --sync
    for p in 3 4 5 6 7; do journalctl -q -o cat -t eagain -p $p..$p | sed "s/^/$p /"; done
}
"#;

/// A file of the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Whether all of these tools are there; if not, a line says so.
pub(crate) fn have(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
        let found = found.unwrap().success();
        if !found {
            println!("not tested: no {tool}");
        }
        found
    })
}

#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{told}\n--- stderr:\n{said}", output.status);
    output
}

/// A directory of a test's own, gone with it.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("eagain-packaging-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A machine of its own, which has a copy-on-write view of this one's files and nothing of its processes and network.
pub(crate) struct Sandbox(Command);

impl Sandbox {
    /// `None`, and a line that says so, where there can be none, or a tool is missing.
    pub(crate) fn with(tools: &[&str]) -> Option<Self> {
        let sandbox = project("scripts/systemd-sandbox");
        let check = Command::new(&sandbox).arg("--check").output().expect("the sandbox is a script of bash");
        if !check.status.success() {
            println!("not tested: {}", String::from_utf8_lossy(&check.stderr).trim());
            return None;
        }
        have(tools).then(|| Self(Command::new(sandbox)))
    }

    /// As [`with`](Self::with), with the program and its units installed.
    pub(crate) fn with_units(program: &str, tools: &[&str]) -> Option<Self> {
        let mut sandbox = Self::with(tools)?;
        sandbox.copy(program, "/usr/bin/eagain");
        for unit in UNITS {
            sandbox.copy(project("scripts/systemd").join(unit), format!("/usr/lib/systemd/system/{unit}"));
        }
        Some(sandbox)
    }

    /// Puts a copy of a file there. Not below /tmp and /run, which are empty.
    pub(crate) fn copy(&mut self, file: impl AsRef<Path>, path: impl AsRef<Path>) {
        let copy = format!("{}:{}", file.as_ref().display(), path.as_ref().display());
        self.0.arg("--copy").arg(copy);
    }

    /// Runs a script of bash in it, as root. It must succeed; what it says on stderr is shown if not.
    #[track_caller]
    pub(crate) fn run(mut self, script: &str) -> Report {
        let output = run(self.0.args(["--", "bash", "-c", script]));
        Report(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What a script has printed.
pub(crate) struct Report(pub(crate) String);

impl Report {
    /// The value of the line `name=value`.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> &str {
        let value = self.0.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no line {name}=… in:\n{}", self.0))
    }

    #[track_caller]
    pub(crate) fn has(&self, text: &str) {
        assert!(self.0.contains(text), "no {text:?} in:\n{}", self.0);
    }

    #[track_caller]
    pub(crate) fn lacks(&self, text: &str) {
        assert!(!self.0.contains(text), "{text:?} in:\n{}", self.0);
    }
}
