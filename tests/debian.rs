//! The Debian package: what cargo-deb makes of `[package.metadata.deb]`, what lintian says to it, and what becomes of a
//! machine that systemd runs when dpkg installs, upgrades, removes and purges it.

mod common;
#[path = "common/sandbox.rs"]
mod sandbox;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::program;
use sandbox::{Report, Sandbox, Scratch, have, project, run};

type Names = BTreeSet<String>;

/// Packages the program under test, as `name` in the directory.
#[track_caller]
fn package(to: &Scratch, name: &str, options: &[&str]) -> PathBuf {
    // cargo-deb takes the program from below a target directory; here it is built already, and may be a debug one.
    let target = to.0.join("target");
    fs::create_dir_all(target.join("release")).unwrap();
    fs::copy(program(), target.join("release/eagain")).unwrap();
    let deb = to.0.join(name);
    run(Command::new("cargo-deb")
        .args(["--no-build", "--no-dbgsym", "--strip", "--fast", "--locked", "--offline", "--output"])
        .arg(&deb)
        .args(options)
        .current_dir(project(""))
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("CARGO_BUILD_TARGET"));
    deb
}

/// What packaging needs: cargo-deb, and what it starts.
const PACKAGERS: [&str; 4] = ["cargo-deb", "strip", "dpkg-shlibdeps", "dpkg-deb"];

// ---- the package --------------------------------------------------------------------------------------------------

#[test]
fn it_has_what_scripts_install_installs_and_documentation() {
    if !have(&PACKAGERS) {
        return;
    }
    let to = Scratch::new("contents");
    let list = run(Command::new("dpkg-deb").arg("--contents").arg(package(&to, "eagain.deb", &[]))).stdout;
    let mut packaged = Names::new();
    for line in String::from_utf8(list).unwrap().lines().filter(|line| !line.ends_with('/')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = words[5].trim_start_matches("./");
        let mode = if path == "usr/bin/eagain" { "-rwxr-xr-x" } else { "-rw-r--r--" };
        assert_eq!(words[..2], [mode, "0/0"], "{path}");
        packaged.insert(path.to_owned());
    }
    for name in ["README.md", "docs/operations.md", "changelog.gz", "changelog.Debian.gz", "copyright"] {
        assert!(packaged.contains(&format!("usr/share/doc/eagain/{name}")), "no {name} in {packaged:?}");
    }
    packaged.retain(|path| !path.starts_with("usr/share/doc/") && !path.starts_with("usr/share/lintian/"));

    let root = to.0.join("root");
    run(Command::new(project("scripts/install"))
        .args(["--prefix", "/usr", "--binary", &program(), "--destdir"])
        .arg(&root));
    let list = run(Command::new("find").arg(&root).args(["!", "-type", "d", "-printf", "%P\n"])).stdout;
    let installed: Names = String::from_utf8(list).unwrap().lines().map(as_debian_has_it).collect();
    assert_eq!(packaged, installed);
}

/// Manuals are compressed, and zsh looks for the completions of packages in a directory of their own.
fn as_debian_has_it(path: &str) -> String {
    let path = path.replace("/zsh/site-functions/", "/zsh/vendor-completions/");
    if path.starts_with("usr/share/man/") { format!("{path}.gz") } else { path }
}

#[test]
fn the_changelog_begins_with_this_version() {
    let changelog = fs::read_to_string(project("scripts/debian/changelog")).unwrap();
    let expected = format!("eagain ({}-1) unstable; urgency=", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&expected), "no {expected:?} in the first line:\n{changelog}");
}

#[test]
fn lintian_finds_no_error() {
    if !have(&PACKAGERS) || !have(&["lintian"]) {
        return;
    }
    let to = Scratch::new("lintian");
    let deb = package(&to, "eagain.deb", &[]);
    let said = run(Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).arg(deb)).stdout;
    // Each release of lintian warns of other things: they are shown, and are no failure.
    print!("{}", String::from_utf8_lossy(&said));
}

// ---- dpkg and systemd ---------------------------------------------------------------------------------------------

/// What every script begins with. Failures are told on stderr, with the journal, and end the script.
const PRELUDE: &str = r#"
set -uo pipefail
export DEBIAN_FRONTEND=noninteractive
fail() { { echo "FAILED: $*"; cat /tmp/dpkg.log; journalctl --no-pager -n 40; } >&2; exit 1; }
# Without the triggers of other packages: the index of all manuals takes seconds.
apply() { dpkg --no-triggers --force-unsafe-io "$@" >>/tmp/dpkg.log 2>&1 || fail "dpkg $*"; }
states() { systemctl "$1" "${@:2}" 2>/dev/null | xargs; }
sockets=(eagain.socket eagain-frames.socket)
# The images of containers have one that forbids every start.
rm -f /usr/sbin/policy-rc.d
pid() { systemctl show -P MainPID "$1"; }
open() { exec 5<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null
ask() { local line; open 7007 && echo "$1" >&5 && read -t 60 -r line <&5 && echo "$line"; }
files() { find /etc /usr /opt /srv /var/lib -xdev -path /var/lib/dpkg -prune -o -printf '%p %l\n' | sort; }
"#;

/// What a script of bash prints in a sandbox that has `/srv/old.deb` and `/srv/new.deb`; `None`, and a line that says
/// so, where there can be none.
#[track_caller]
fn in_sandbox(name: &str, script: &str) -> Option<Report> {
    let mut sandbox = Sandbox::with(&PACKAGERS)?;
    let to = Scratch::new(name);
    for (name, version) in [("old.deb", "0.0.1-1"), ("new.deb", "0.0.2-1")] {
        sandbox.copy(package(&to, name, &["--deb-version", version]), format!("/srv/{name}"));
    }
    Some(sandbox.run(&format!("{PRELUDE}{script}")))
}

#[test]
fn it_starts_with_its_installation_and_leaves_nothing_behind() {
    let Some(report) = in_sandbox(
        "life",
        r#"
        files >/tmp/before
        apply --install /srv/old.deb
        echo "installed=$(states is-enabled "${sockets[@]}" eagain-bind.service)"
        echo "started=$(states is-active "${sockets[@]}" eagain.service)"
        echo "echo=$(ask hello)"

        apply --remove eagain
        open 7007 && fail "7007 is open after the removal"
        open 7004 && fail "7004 is open after the removal"
        echo "removed=$(states is-active "${sockets[@]}" eagain.service)"
        echo "processes=$(grep -lx eagain /proc/[0-9]*/comm)"

        # dpkg tells the scripts of this one what it tells them of an upgrade.
        apply --install /srv/old.deb
        echo "again=$(ask again)"

        apply --purge eagain
        echo "purged=$(states is-active "${sockets[@]}" eagain.service)"
        echo "failed=$(systemctl list-units --failed --no-legend)"
        files >/tmp/after
        echo "left=$(diff /tmp/before /tmp/after | xargs)"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("installed"), "enabled enabled disabled");
    assert_eq!(report.value("started"), "active active inactive");
    assert_eq!(report.value("echo"), "hello");
    assert_eq!(report.value("removed"), "inactive inactive inactive");
    assert_eq!(report.value("processes"), "");
    assert_eq!(report.value("again"), "again");
    assert_eq!(report.value("purged"), "inactive inactive inactive");
    assert_eq!(report.value("failed"), "");
    assert_eq!(report.value("left"), "");
}

#[test]
fn an_upgrade_runs_the_new_program_and_refuses_nobody() {
    let Some(report) = in_sandbox(
        "upgrade",
        r#"
        apply --install /srv/old.deb
        ask hello >/dev/null || fail "no echo"
        before=$(pid eagain.service)
        (until [[ -e /tmp/done ]]; do open 7007 || { echo "refused" >/tmp/refused; break; }; done) &
        apply --install /srv/new.deb
        : >/tmp/done
        wait
        echo "version=$(dpkg-query -W -f '${Version} ${db:Status-Status}' eagain)"
        echo "refused=$(cat /tmp/refused 2>/dev/null)"
        echo "states=$(states is-active "${sockets[@]}" eagain.service)"
        [[ $(pid eagain.service) == "$before" ]] && echo "process=the old one" || echo "process=another"
        echo "program=$(readlink "/proc/$(pid eagain.service)/exe")"
        echo "echo=$(ask hello)"
        echo "failed=$(systemctl list-units --failed --no-legend)"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("version"), "0.0.2-1 installed");
    assert_eq!(report.value("refused"), "");
    assert_eq!(report.value("states"), "active active active");
    assert_eq!(report.value("process"), "another");
    // " (deleted)" would be the old one.
    assert_eq!(report.value("program"), "/usr/bin/eagain");
    assert_eq!(report.value("echo"), "hello");
    assert_eq!(report.value("failed"), "");
}

#[test]
fn what_an_administrator_has_chosen_survives_an_upgrade_and_a_removal() {
    let Some(report) = in_sandbox(
        "choice",
        r#"
        files >/tmp/before
        apply --install /srv/old.deb
        systemctl disable --quiet --now "${sockets[@]}"
        apply --install /srv/new.deb
        echo "off=$(states is-enabled "${sockets[@]}" eagain-bind.service)"
        echo "stopped=$(states is-active "${sockets[@]}" eagain.service)"

        systemctl enable --quiet --now eagain-bind.service || fail "eagain-bind.service"
        before=$(pid eagain-bind.service)
        apply --install /srv/old.deb
        echo "bind=$(states is-enabled "${sockets[@]}" eagain-bind.service)"
        echo "running=$(states is-active "${sockets[@]}" eagain-bind.service)"
        [[ $(pid eagain-bind.service) == "$before" ]] && echo "process=the old one" || echo "process=another"

        apply --remove eagain
        apply --install /srv/new.deb
        echo "again=$(states is-enabled "${sockets[@]}" eagain-bind.service)"
        echo "started=$(states is-active "${sockets[@]}" eagain-bind.service)"

        systemctl disable --quiet eagain-bind.service
        systemctl enable --quiet "${sockets[@]}"
        apply --install /srv/old.deb
        echo "by_hand=$(states is-active "${sockets[@]}" eagain-bind.service)"

        # Links that the package did not make itself.
        systemctl enable --quiet eagain-bind.service
        apply --purge eagain
        files >/tmp/after
        echo "left=$(diff /tmp/before /tmp/after | xargs)"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("off"), "disabled disabled disabled");
    assert_eq!(report.value("stopped"), "inactive inactive inactive");
    assert_eq!(report.value("bind"), "disabled disabled enabled");
    assert_eq!(report.value("running"), "inactive inactive active");
    assert_eq!(report.value("process"), "another");
    assert_eq!(report.value("again"), "disabled disabled enabled");
    assert_eq!(report.value("started"), "inactive inactive active");
    assert_eq!(report.value("by_hand"), "inactive inactive active");
    assert_eq!(report.value("left"), "");
}

#[test]
fn where_nothing_may_be_started_it_is_installed_all_the_same() {
    let Some(report) = in_sandbox(
        "quiet",
        r#"
        # As in a chroot, or in an image that is being made: no systemd runs.
        unshare --mount bash -c 'mount -t tmpfs none /run && dpkg --no-triggers --install /srv/old.deb' \
            >/tmp/dpkg.log 2>&1 || fail "without systemd"
        echo "chroot=$(states is-enabled "${sockets[@]}") $(states is-active "${sockets[@]}")"
        unshare --mount bash -c 'mount -t tmpfs none /run && dpkg --no-triggers --purge eagain' \
            >/tmp/dpkg.log 2>&1 || fail "without systemd"

        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        apply --install /srv/old.deb
        echo "policy=$(states is-enabled "${sockets[@]}") $(states is-active "${sockets[@]}")"
        "#,
    ) else {
        return;
    };
    assert_eq!(report.value("chroot"), "enabled enabled inactive inactive");
    assert_eq!(report.value("policy"), "enabled enabled inactive inactive");
}
