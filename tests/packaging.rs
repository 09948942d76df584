//! What is installed beside the program: man pages and completions say what the help says, and the scripts that install
//! take everything away again.

mod common;
#[path = "common/sandbox.rs"]
mod sandbox;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::program;
use sandbox::{Sandbox, Scratch, have, project, run};

const PAGES: [&str; 8] = [
    "eagain.1",
    "eagain-compare.1",
    "eagain-serve.1",
    "eagain-connect.1",
    "eagain-bench.1",
    "eagain-report.1",
    "eagain-lab.1",
    "eagain.toml.5",
];

type Names = BTreeSet<String>;

fn text(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
fn run_quietly(command: &mut Command) {
    let output = run(command);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command:?}");
}

/// The long options in the help of a command.
fn helped(command: &[&str]) -> Names {
    let help = run(Command::new(program()).args(command).arg("--help"));
    let help = String::from_utf8(help.stdout).unwrap();
    let options = help.split("\nOptions:\n").nth(1).expect("a list of options").split("\n\n").next().unwrap();
    let names: Names = options.lines().flat_map(|line| line.split_whitespace().find(is_long)).map(clean).collect();
    assert!(names.contains("--help"), "{help}");
    names
}

fn is_long(word: &&str) -> bool {
    word.starts_with("--")
}

fn clean(word: &str) -> String {
    word.trim_end_matches(',').to_owned()
}

#[track_caller]
fn same(place: &str, there: &Names, help: &Names) {
    let missing: Vec<_> = help.difference(there).collect();
    let foreign: Vec<_> = there.difference(help).collect();
    assert!(missing.is_empty() && foreign.is_empty(), "{place}: missing {missing:?}, not in the help {foreign:?}");
}

// ---- man pages ----------------------------------------------------------------------------------------------------

/// The words that begin an entry of a man page: the line after `.TP` or `.TQ`.
fn entries(page: &str) -> Vec<String> {
    let page = text(&format!("docs/man/{page}")).replace("\\-", "-");
    let lines: Vec<&str> = page.lines().collect();
    lines.windows(2).filter(|pair| [".TP", ".TQ"].contains(&pair[0])).map(|pair| pair[1].to_owned()).collect()
}

#[test]
fn each_page_lists_the_options_of_the_help_and_no_others() {
    for (page, command) in [
        ("eagain.1", &[][..]),
        ("eagain-serve.1", &["serve"]),
        ("eagain-connect.1", &["connect"]),
        ("eagain-bench.1", &["bench"]),
        ("eagain-report.1", &["report"]),
        ("eagain-compare.1", &["compare"]),
        ("eagain-lab.1", &["lab"]),
    ] {
        let options: Names =
            entries(page).iter().flat_map(|entry| entry.split_whitespace().find(is_long)).map(clean).collect();
        same(page, &options, &helped(command));
    }
}

#[test]
fn each_key_of_a_file_is_in_its_page_and_no_other() {
    let keys = entries("eagain.toml.5").iter().map(|entry| format!("--{}", entry.split(' ').nth(1).unwrap())).collect();
    let mut help = helped(&["serve"]);
    for option in ["--config", "--check", "--help"] {
        assert!(help.remove(option));
    }
    same("eagain.toml.5", &keys, &help);
}

#[test]
fn groff_formats_the_pages_without_a_warning() {
    formats("groff", &["-man", "-ww", "-z", "-Tutf8"]);
}

#[test]
fn mandoc_has_no_warning_for_the_pages() {
    formats("mandoc", &["-Tlint", "-Wwarning"]);
}

#[track_caller]
fn formats(tool: &str, arguments: &[&str]) {
    if have(&[tool]) {
        for page in PAGES {
            run_quietly(Command::new(tool).args(arguments).arg(project("docs/man").join(page)));
        }
    }
}

#[test]
fn the_pages_are_of_this_version() {
    for page in PAGES {
        let version = format!("\"eagain {}\"", env!("CARGO_PKG_VERSION"));
        let first = text(&format!("docs/man/{page}")).lines().next().unwrap().to_owned();
        assert!(first.starts_with(".TH ") && first.ends_with(&version), "{page}: {first}");
    }
}

#[test]
fn the_file_in_the_page_is_right() {
    let page = text("docs/man/eagain.toml.5").replace("\\-", "-");
    let example = page.split(".EX\n").nth(1).unwrap().split(".EE").next().unwrap();
    let file = Scratch::new("example");
    fs::write(file.0.join("eagain.toml"), example).unwrap();
    run(Command::new(program()).args(["serve", "--check", "--config"]).arg(file.0.join("eagain.toml")));
}

// ---- completions --------------------------------------------------------------------------------------------------

/// What bash offers after these words.
fn bash_offers(words: &[&str]) -> Names {
    let script =
        r#"source "$0" && COMP_WORDS=(eagain "$@") COMP_CWORD=$# && _eagain && printf '%s\n' "${COMPREPLY[@]}""#;
    let output =
        run(Command::new("bash").args(["-uc", script]).arg(project("scripts/completions/eagain.bash")).args(words));
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(clean).collect()
}

#[test]
fn bash_offers_the_options_of_the_help_and_no_others() {
    for command in ["serve", "connect", "bench", "report", "compare", "lab", "inspect"] {
        same(command, &bash_offers(&[command, "--"]), &helped(&[command]));
        same(command, &bash_offers(&[command, "--frames", "1", "--"]), &helped(&[command]));
    }
    let first: Names = [
        "serve",
        "connect",
        "bench",
        "report",
        "compare",
        "status",
        "lab",
        "inspect",
        "-V",
        "--version",
        "-h",
        "--help",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(bash_offers(&[""]), first);
}

#[test]
fn bash_offers_no_option_where_a_value_is_due() {
    assert_eq!(bash_offers(&["serve", "--echo", ""]), Names::new());
    assert_eq!(bash_offers(&["connect", "--max-frame", ""]), Names::new());
    let here = project("Cargo.toml").display().to_string();
    assert!(bash_offers(&["serve", "--config", &here]).contains(&here));
    // A switch of one command is an option with a value of the other.
    same("connect", &bash_offers(&["connect", "--frames", "--"]), &helped(&["connect"]));
}

#[test]
fn zsh_and_fish_have_the_options_of_the_help_and_no_others() {
    let zsh = text("scripts/completions/_eagain");
    let fish = text("scripts/completions/eagain.fish");
    for command in ["serve", "connect", "bench", "report", "compare", "lab", "inspect"] {
        let list = zsh.split(&format!("    {command}=(\n")).nth(1).expect("a list").split("\n    )\n").next().unwrap();
        let words = list.lines().filter_map(|line| line.find("--").map(|at| &line[at..]));
        let names = words.map(|word| word[..word.find([')', '[']).unwrap()].to_owned()).collect();
        same("_eagain", &names, &helped(&[command]));

        let names = fish
            .lines()
            .filter(|line| line.contains(&format!(" -n $eagain_{command} ")))
            .map(|line| format!("--{}", line.split(" -l ").nth(1).unwrap().split(' ').next().unwrap()))
            .collect();
        same("eagain.fish", &names, &helped(&[command]));
    }
}

#[test]
fn bash_accepts_its_completion() {
    accepts("bash", "eagain.bash");
}

#[test]
fn zsh_accepts_its_completion() {
    accepts("zsh", "_eagain");
}

#[test]
fn fish_accepts_its_completion() {
    accepts("fish", "eagain.fish");
}

#[track_caller]
fn accepts(shell: &str, file: &str) {
    if have(&[shell]) {
        run_quietly(Command::new(shell).arg("-n").arg(project("scripts/completions").join(file)));
    }
}

// ---- install and uninstall ----------------------------------------------------------------------------------------

/// Every file, by its path below the directory.
fn files(directory: &Scratch) -> Names {
    let output = run(Command::new("find").arg(&directory.0).args(["!", "-type", "d", "-printf", "%P\n"]));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn script(name: &str, arguments: &[&str], destdir: &Scratch) -> Command {
    let mut command = Command::new(project("scripts").join(name));
    command.args(arguments).arg("--destdir").arg(&destdir.0);
    if name == "install" {
        command.args(["--binary", &program()]);
    }
    command
}

const BESIDES_UNITS: [&str; 12] = [
    "bin/eagain",
    "share/bash-completion/completions/eagain",
    "share/fish/vendor_completions.d/eagain.fish",
    "share/man/man1/eagain-bench.1",
    "share/man/man1/eagain-compare.1",
    "share/man/man1/eagain-connect.1",
    "share/man/man1/eagain-lab.1",
    "share/man/man1/eagain-report.1",
    "share/man/man1/eagain-serve.1",
    "share/man/man1/eagain.1",
    "share/man/man5/eagain.toml.5",
    "share/zsh/site-functions/_eagain",
];
const UNITS: [&str; 4] = ["eagain-bind.service", "eagain-frames.socket", "eagain.service", "eagain.socket"];

#[test]
fn what_is_installed_is_complete_works_and_is_removed() {
    for prefix in ["/usr", "/usr/local"] {
        let to = Scratch::new(if prefix == "/usr" { "usr" } else { "local" });
        run(&mut script("install", &["--prefix", prefix], &to));
        let below = |path: &str| format!("{}/{path}", &prefix[1..]);
        let units = UNITS.map(|unit| format!("lib/systemd/system/{unit}"));
        let expected = BESIDES_UNITS.into_iter().chain(units.iter().map(String::as_str)).map(below).collect::<Names>();
        assert_eq!(files(&to), expected);
        for file in files(&to) {
            let mode = fs::metadata(to.0.join(&file)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, if file.ends_with("bin/eagain") { 0o755 } else { 0o644 }, "{file}");
        }
        let version = run(Command::new(to.0.join(below("bin/eagain"))).arg("--version"));
        assert_eq!(version.stdout, format!("eagain {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
        for unit in UNITS.iter().filter(|unit| unit.ends_with(".service")) {
            let unit = fs::read_to_string(to.0.join(below(&format!("lib/systemd/system/{unit}")))).unwrap();
            assert!(unit.contains(&format!("\nExecStart={prefix}/bin/eagain serve $EAGAIN_OPTIONS\n")), "{unit}");
        }
        // What is not ours stays.
        let foreign = to.0.join(below("share/man/man1/other.1"));
        fs::write(&foreign, "").unwrap();
        run(&mut script("uninstall", &["--prefix", prefix], &to));
        assert_eq!(files(&to), Names::from([below("share/man/man1/other.1")]));
        // A second time there is nothing to do.
        assert_eq!(run(&mut script("uninstall", &["--prefix", prefix], &to)).stdout, b"");
    }
}

#[test]
fn units_are_left_out_on_request_and_where_systemd_does_not_look() {
    for (name, prefix, more) in [("request", "/usr/local", Some("--no-units")), ("opt", "/opt/eagain", None)] {
        let to = Scratch::new(name);
        let arguments: Vec<&str> = ["--prefix", prefix].into_iter().chain(more).collect();
        let said = run(&mut script("install", &arguments, &to)).stdout;
        assert_eq!(files(&to), BESIDES_UNITS.map(|path| format!("{}/{path}", &prefix[1..])).into());
        let said = String::from_utf8(said).unwrap();
        assert_eq!(
            said.contains("no units: systemd does not read those under /opt/eagain\n"),
            more.is_none(),
            "{said}"
        );
        run(&mut script("uninstall", &["--prefix", prefix], &to));
        assert_eq!(files(&to), Names::new());
    }
}

#[test]
fn without_a_program_it_says_how_to_build_one_and_installs_nothing() {
    let to = Scratch::new("unbuilt");
    let output = script("install", &[], &to).args(["--binary", "/nonexistent/eagain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "scripts/install: there is no program at /nonexistent/eagain; build it first: cargo build --release\n"
    );
    assert_eq!(files(&to), Names::new());
}

#[test]
fn a_prefix_that_would_break_a_unit_is_refused() {
    for prefix in ["relative", "/with space", "/per%cent", "/two\nlines"] {
        let to = Scratch::new("refused");
        let output = script("install", &["--prefix", prefix], &to).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{prefix}");
        assert_eq!(files(&to), Names::new());
    }
}

#[test]
fn systemd_accepts_the_installed_units() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let to = Scratch::new("verify");
    run(&mut script("install", &[], &to));
    // What is systemd's own is not below the root, and no matter of ours; a shell is everywhere.
    std::fs::create_dir_all(to.0.join("bin")).unwrap();
    std::fs::copy("/bin/sh", to.0.join("bin/sh")).unwrap();
    let output = Command::new("systemd-analyze")
        .arg(format!("--root={}", to.0.display()))
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(UNITS)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
}

#[test]
fn uninstall_stops_and_disables_what_it_removes() {
    let Some(mut sandbox) = Sandbox::with(&[]) else {
        return;
    };
    for directory in ["scripts", "scripts/systemd", "scripts/completions", "docs/man"] {
        for entry in fs::read_dir(project(directory)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name().into_string().unwrap();
                sandbox.copy(entry.path(), format!("/srv/eagain/{directory}/{name}"));
            }
        }
    }
    sandbox.copy(program(), "/srv/eagain/target/release/eagain");
    let report = sandbox.run(
        r#"
        set -uo pipefail
        units=(eagain.socket eagain-frames.socket eagain-bind.service)
        files() { find /etc /usr -xdev ! -type d -printf '%p %l\n' | sort; }
        files >/tmp/before
        unset CARGO_TARGET_DIR
        /srv/eagain/scripts/install >/dev/null && systemctl daemon-reload || exit
        systemctl enable --quiet "${units[@]}" && systemctl start "${units[@]::2}" || exit
        exec 5<>/dev/tcp/127.0.0.1/7007 && echo hello >&5 && echo "echo=$(head -n 1 <&5)"
        /srv/eagain/scripts/uninstall >/dev/null
        echo "after=$(systemctl is-active "${units[@]}" eagain.service | xargs)"
        files >/tmp/after
        echo "left=$(diff /tmp/before /tmp/after | xargs)"
        "#,
    );
    assert_eq!(report.value("echo"), "hello");
    assert_eq!(report.value("after"), "inactive inactive inactive inactive");
    assert_eq!(report.value("left"), "");
}
