//! The help, and a word for who has mistyped.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, PositionalInfo};

/// `; did you mean X?` for the nearest name, if one is near: the word is its beginning, or at most two letters differ.
pub(crate) fn did_you_mean<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    let distance = |name: &str| match word.len() > 2 && name.starts_with(word) {
        true => 0,
        false => letters_apart(word, name),
    };
    names
        .map(|name| (distance(name), name.len(), name))
        .min()
        .filter(|(distance, ..)| *distance <= 2)
        .map_or(String::new(), |(.., name)| format!("; did you mean {name}?"))
}

/// Levenshtein's distance: letters to insert, delete or replace.
fn letters_apart(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The help of one command, or of the program.
pub(super) fn help(top: &CommandInfoWithArgs, command: Option<&CommandInfoWithArgs>) -> String {
    let (name, info) = command.map_or((String::new(), top), |c| (format!(" {}", c.name), c));
    let argument = |p: &PositionalInfo<'_>| match p.optionality {
        Optionality::Optional => format!(" [{}]", p.name),
        Optionality::Repeating => format!(" {}...", p.name),
        _ => format!(" {}", p.name),
    };
    let arguments: String = info.positionals.iter().map(argument).collect();
    let command_word = if info.commands.is_empty() { "" } else { " COMMAND" };
    let mut text = format!("{}\n\nUsage: eagain{name}{command_word} [OPTIONS]{arguments}\n", info.description);
    let commands: Vec<_> = info.commands.iter().map(|c| (c.name.to_owned(), c.command.description)).collect();
    section(&mut text, "Commands", &commands);
    // argh lists --help first; readers look for it last.
    let (help, own): (Vec<_>, Vec<_>) = info.flags.iter().partition(|f| f.long == "--help");
    let flags: Vec<_> = own.iter().map(|f| (flag_names(f), f.description)).collect();
    let help = help.iter().map(|f| ("-h, --help".to_owned(), f.description));
    section(&mut text, "Options", &flags.into_iter().chain(help).collect::<Vec<_>>());
    for (title, blocks) in [("Notes", info.notes), ("Examples", info.examples)] {
        if !blocks.is_empty() {
            text += &format!("\n{title}:\n");
        }
        for line in blocks.iter().flat_map(|block| block.lines()) {
            text += &format!("  {line}\n");
        }
    }
    text
}

fn section(text: &mut String, title: &str, rows: &[(String, &str)]) {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    if width > 0 {
        *text += &format!("\n{title}:\n");
    }
    for (left, right) in rows {
        *text += &format!("  {left:width$}  {right}\n");
    }
}

fn flag_names(flag: &FlagInfo<'_>) -> String {
    let short = flag.short.map_or(String::new(), |c| format!("-{c}, "));
    match flag.kind {
        FlagInfoKind::Switch => format!("{short}{}", flag.long),
        FlagInfoKind::Option { arg_name } => format!("{short}{} {arg_name}", flag.long),
    }
}
