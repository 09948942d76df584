//! The project as the rules see it: its text files, and their code without comments, literals and test modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
    /// Every file and directory, for links.
    pub(crate) paths: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn of_the_project() -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let ignored = fs::read_to_string(root.join(".gitignore")).expect(".gitignore");
        let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_start_matches('/')).collect();
        let mut tree = Tree { files: Vec::new(), paths: BTreeSet::new() };
        tree.walk(root, root, &ignored);
        assert!(tree.file("src/lib.rs").is_some(), "the project is not at {}", root.display());
        tree
    }

    pub(crate) fn of_one(path: &str, text: &str) -> Tree {
        Tree { files: vec![File::new(path, text)], paths: BTreeSet::from([path.to_owned()]) }
    }

    fn walk(&mut self, root: &Path, directory: &Path, ignored: &[&str]) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
        entries.sort();
        for entry in entries {
            let path = entry.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned();
            // Not tracked: git's own, what git ignores, and what cargo built elsewhere. The mark alone is not enough:
            // cargo leaves it only in a directory that it made itself.
            // Nor what fuzzers have found: it is no text of ours.
            let built = ignored.contains(&path.as_str()) || entry.join("CACHEDIR.TAG").exists();
            if [".git", "tests/fuzz/corpus"].contains(&path.as_str()) || built || entry.is_symlink() {
                continue;
            }
            self.paths.insert(path.clone());
            if entry.is_dir() {
                self.walk(root, &entry, ignored);
            } else if let Ok(text) = fs::read_to_string(&entry) {
                self.files.push(File::new(&path, &text));
            }
        }
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    pub(crate) fn library(&self) -> impl Iterator<Item = &File> {
        self.rust().filter(|file| file.path.starts_with("src/") && !file.path.starts_with("src/bin/"))
    }

    pub(crate) fn markdown(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".md"))
    }
}

pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and literals blanked: what is left is code, at the same lines.
    pub(crate) code: String,
    /// `code` without the test modules.
    pub(crate) shipped: String,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> File {
        let rust = path.ends_with(".rs");
        let code = if rust { blank_comments_and_literals(text) } else { String::new() };
        let tests = path.ends_with("/tests.rs") || path.contains("/tests/");
        let shipped = if tests { String::new() } else { blank_test_modules(&code) };
        File { path: path.to_owned(), text: text.to_owned(), code, shipped }
    }

    pub(crate) fn under(&self, directories: &[&str]) -> bool {
        directories.iter().any(|directory| self.path.starts_with(directory))
    }

    pub(crate) fn each_line(&self, text: &str, mut see: impl FnMut(usize, &str)) {
        for (at, line) in text.lines().enumerate() {
            see(at + 1, line);
        }
    }

    /// `src/sys/epoll.rs` → `sys`
    pub(crate) fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// Whether the comments above a line, or above the statement that it continues, say SAFETY.
    pub(crate) fn has_safety_comment(&self, line: usize) -> bool {
        let texts: Vec<&str> = self.text.lines().take(line).collect();
        let codes: Vec<&str> = self.code.lines().take(line).map(str::trim).collect();
        let says = |at: usize| texts[at].contains("SAFETY:") || texts[at].contains("# Safety");
        let ends_another = |at: usize| codes[at].ends_with([';', '{', '}', ',']) && !codes[at].starts_with('#');
        says(line - 1) || (0..line - 1).rev().take_while(|&at| !ends_another(at)).any(says)
    }

    /// The first name of each path that starts at the root of the crate, with its line.
    pub(crate) fn crate_names(&self, is_module: impl Fn(&str) -> bool) -> Vec<(usize, String)> {
        let depth = self.path.trim_start_matches("src/").trim_end_matches("/mod.rs").split('/').count();
        let supers = "super::".repeat(depth);
        let mut names = Vec::new();
        for root in ["crate::", &supers] {
            for (at, _) in self.shipped.match_indices(root) {
                let before = &self.shipped[..at];
                if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let line = before.matches('\n').count() + 1;
                let after = first_names(&self.shipped[at + root.len()..]);
                // `super::` in an inline module is this file, not the crate: only a module's name tells.
                names.extend(after.into_iter().filter(|n| root == "crate::" || is_module(n)).map(|n| (line, n)));
            }
        }
        names
    }

    /// Lines of Markdown outside code blocks, inline code blanked.
    fn prose_lines(&self) -> Vec<(usize, String)> {
        let mut fenced = false;
        let mut lines = Vec::new();
        for (at, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if !fenced {
                let prose: Vec<&str> = line.split('`').step_by(2).collect();
                lines.push((at + 1, prose.join("``")));
            }
        }
        lines
    }

    pub(crate) fn fenced_lines(&self) -> Vec<(usize, &str)> {
        let mut fenced = false;
        let mut lines = Vec::new();
        for (at, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                lines.push((at + 1, line));
            }
        }
        lines
    }

    /// The targets of `[text](target)`.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let targets = |(line, prose): (usize, String)| {
            let ends = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            ends.map(|(target, _)| (line, target.to_owned())).collect::<Vec<_>>()
        };
        self.prose_lines().into_iter().flat_map(targets).collect()
    }

    /// The anchors that mdBook and GitHub give to headings.
    pub(crate) fn headings(&self) -> BTreeSet<String> {
        let headings = self.text.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let text = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                text.chars().filter(|&c| c.is_alphanumeric() || c == '-' || c == '_').collect()
            })
            .collect()
    }
}

// ---- reading text -------------------------------------------------------------------------------------------------

pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

pub(crate) fn is_rule_id(id: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    id.starts_with(|c: char| c.is_ascii_lowercase()) && id.split('-').all(part)
}

/// `unsafe fn(…)` and `unsafe extern "C" fn(…)` as a type: nothing is done there.
pub(crate) fn is_function_pointer(code: &str) -> bool {
    code.split("unsafe").skip(1).all(|rest| rest.split_once("fn").is_some_and(|(_, rest)| rest.starts_with('(')))
}

/// `--name` in a line of text; neither `---` nor `a--b`.
pub(crate) fn options(text: &str) -> Vec<String> {
    let starts =
        text.match_indices("--").filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '-'));
    let name =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').collect();
    let names = starts.map(|(at, _)| name(&text[at + 2..]));
    names
        .filter(|name: &String| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(|name| format!("--{name}"))
        .collect()
}

/// `a/b.md` + `../c.md` → `c.md`
pub(crate) fn join(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// `a::b` → a; `{a::{b, c}, d}` → a, d
fn first_names(path: &str) -> Vec<String> {
    let name =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = vec![name(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn blank(text: &[char]) -> impl Iterator<Item = char> {
    text.iter().map(|&c| if c == '\n' { '\n' } else { ' ' })
}

fn blank_comments_and_literals(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < source.len() {
        let length = comment_or_literal(&source[at..]).min(source.len() - at);
        if length == 0 {
            code.push(source[at]);
        }
        code.extend(blank(&source[at..at + length]));
        at += length.max(1);
    }
    code
}

/// The length of the comment or literal that the text starts with, or 0.
fn comment_or_literal(text: &[char]) -> usize {
    let find = |from: usize, end: &[char]| {
        (from..text.len()).find(|&at| text[at..].starts_with(end)).map_or(text.len(), |at| at + end.len())
    };
    match text {
        ['/', '/', ..] => find(2, &['\n']) - 1,
        ['/', '*', ..] => {
            let (mut at, mut depth) = (2, 1);
            while depth > 0 && at < text.len() {
                let (step, change) = match text[at..] {
                    ['/', '*', ..] => (2, 1),
                    ['*', '/', ..] => (2, -1),
                    _ => (1, 0),
                };
                (at, depth) = (at + step, depth + change);
            }
            at
        }
        ['"', ..] => {
            let mut at = 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at + 1
        }
        ['r', rest @ ..] => {
            let hashes = rest.iter().take_while(|&&c| c == '#').count();
            if rest.get(hashes) != Some(&'"') {
                return 0;
            }
            let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            find(hashes + 2, &end)
        }
        ['\'', '\\', _, ..] => find(3, &['\'']),
        // Not a lifetime: those have no quote after one character.
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Blanks each item that stands under `#[cfg(test)]`, up to its closing brace or semicolon.
fn blank_test_modules(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let mut depth = 0;
        let mut end = item.len();
        for (at, c) in item.char_indices() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 && (c == '}' || c == ';') {
                end = at + c.len_utf8();
                break;
            }
        }
        kept.extend(blank(&item[..end].chars().collect::<Vec<_>>()));
        rest = &item[end..];
    }
    kept + rest
}
