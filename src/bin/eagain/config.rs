//! `--config FILE`: TOML whose keys are the options of `eagain serve`, without the dashes in front.
//!
//! A line of the file becomes words of a command line, so an option and its key cannot differ in what they take. An
//! option on the command line replaces its key.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::say;

/// One key of the file.
pub(crate) struct Setting {
    /// Where it is, from 1.
    pub(crate) line: usize,
    /// The option, as `--idle-timeout`.
    pub(crate) option: String,
    /// The command line that says the same.
    pub(crate) words: Vec<String>,
}

/// Reads a file. An error is one line, with the file and the line in it.
pub(crate) fn read(path: &Path) -> Result<Vec<Setting>, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {}", say::reason(&error)))?;
    let table = DeTable::parse(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        format!("{name}:{line}: {}", error.message().replace('\n', ", "))
    })?;
    let mut settings = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(&text, key.span().start);
        let option = format!("--{}", key.get_ref());
        let words =
            words(&option, value.get_ref()).map_err(|why| format!("{name}:{line}: {}: {why}", key.get_ref()))?;
        settings.push(Setting { line, option, words });
    }
    settings.sort_by_key(|setting| setting.line);
    Ok(settings)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// `idle-timeout = 5` → `--idle-timeout 5`; `trace = true` → `--trace`; `echo = ["7", "8"]` → `--echo 7 --echo 8`.
fn words(option: &str, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let with = |text: String| Ok(vec![option.to_owned(), text]);
    match value {
        DeValue::Boolean(true) => Ok(vec![option.to_owned()]),
        DeValue::Boolean(false) => Ok(Vec::new()),
        DeValue::String(text) => with(text.to_string()),
        DeValue::Integer(number) => with(number.to_string()),
        DeValue::Float(number) => with(number.to_string()),
        DeValue::Array(values) => {
            let each: Result<Vec<_>, _> = values.iter().map(|value| words(option, value.get_ref())).collect();
            Ok(each?.concat())
        }
        DeValue::Table(_) | DeValue::Datetime(_) => {
            Err("expected a string, a number, true, false or a list of them".to_owned())
        }
    }
}
