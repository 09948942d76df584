//! What the tests of packaging share: files of the project, commands that must succeed, and a machine that systemd
//! runs, which `scripts/systemd-sandbox` boots, a new one for each fact.
#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
