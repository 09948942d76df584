//! The rules about README and the book.

use std::collections::BTreeSet;

use crate::tree::{File, Tree, join, options};
use crate::{Findings, check};

/// Options in the docs that belong to other programs.
const OTHER_PROGRAMS_OPTIONS: &[&str] = &[
    "--release",
    "--no-default-features",
    "--example",
    "--lib",
    "--locked",
    "--open",
    "--ulimit",
    "--now",
    "--maintainer",
    "--fuzz-dir",
];

#[test]
fn every_page_is_in_the_book() {
    fn rule(tree: &Tree, found: &mut Findings) {
        let listed: BTreeSet<String> = match tree.file("docs/SUMMARY.md") {
            Some(summary) => summary.links().into_iter().map(|(_, target)| format!("docs/{target}")).collect(),
            None => BTreeSet::new(),
        };
        for file in tree.files.iter().filter(|file| file.path.starts_with("docs/") && file.path.ends_with(".md")) {
            if file.path != "docs/SUMMARY.md" && !listed.contains(&file.path) {
                found.add(file, 1, "this page is not in docs/SUMMARY.md");
            }
        }
    }
    check(rule, &[("docs/lost.md", "# Lost")], &[]);
}

#[test]
fn links_in_the_docs_resolve() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.markdown() {
            for (line, link) in file.links() {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
                let target = if path.is_empty() { file.path.clone() } else { join(&file.path, path) };
                if !tree.paths.contains(&target) {
                    found.add(file, line, format!("the link {link} leads nowhere"));
                } else if let Some(page) = tree.file(&target).filter(|_| !heading.is_empty())
                    && !page.headings().contains(heading)
                {
                    found.add(file, line, format!("{target} has no heading #{heading}"));
                }
            }
        }
    }
    check(
        rule,
        &[("README.md", "see [the book](docs/none.md)"), ("docs/a.md", "# One\n[two](#two)")],
        &[(
            "docs/a.md",
            "# One `--two`, three\n[x](#one---two-three) [y](../docs/a.md) `[no](none)`\n```\n[no](none)\n```",
        )],
    );
}

#[test]
fn readme_opens_with_the_two_commands() {
    fn rule(tree: &Tree, found: &mut Findings) {
        for file in tree.files.iter().filter(|file| file.path == "README.md") {
            let block: Vec<_> = file.fenced_lines().into_iter().map(|(line, text)| (line, text.to_owned())).collect();
            for (at, command) in ["cargo run --release -- serve", "scripts/test"].into_iter().enumerate() {
                if !block.get(at).is_some_and(|(_, text)| text.starts_with(command)) {
                    let line = block.get(at).map_or(1, |(line, _)| *line);
                    found.add(file, line, format!("command {} of README is `{command}`", at + 1));
                }
            }
        }
    }
    let swapped = "```\nscripts/test\ncargo run --release -- serve\n```\n";
    check(rule, &[("README.md", "# eagain"), ("README.md", swapped)], &[]);
}

#[test]
fn options_in_the_docs_exist() {
    fn rule(tree: &Tree, found: &mut Findings) {
        let program = |file: &&File| file.path.starts_with("src/bin/eagain/") || file.under(&["scripts/"]);
        let source: String = tree.files.iter().filter(program).map(|file| file.text.as_str()).collect();
        for file in tree.markdown() {
            file.each_line(&file.text, |line, text| {
                for option in options(text) {
                    // argh derives `--max-frame` from a field `max_frame`, or it is spelt out.
                    let name = &option[2..];
                    let field = format!("{}:", name.replace('-', "_"));
                    let spelt = [option.clone(), format!("\"{name}\"")];
                    let known = spelt.iter().any(|form| source.contains(form.as_str()))
                        || source.match_indices(&field).any(|(at, _)| source[..at].ends_with(char::is_whitespace));
                    if !known && !OTHER_PROGRAMS_OPTIONS.contains(&option.as_str()) {
                        found.add(file, line, format!("the program has no option {option}"));
                    }
                }
            });
        }
    }
    check(
        rule,
        &[("README.md", "eagain serve --does-not-exist=3")],
        &[("README.md", "cargo run --release -- serve --- a--b\n|---|---|")],
    );
}
