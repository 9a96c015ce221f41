//! Configurations of the peers, from the templates in tests/bench/peers.
//!
//! `@WORD@` is a value. What stands between `#each NAME…` and `#end` is repeated for each of those
//! entries, with its own values.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use mesh_tests::programs::root;

/// Values by their word.
pub(crate) type Values = BTreeMap<&'static str, String>;

/// `entries`: the values of each entry, by its name.
pub(crate) fn fill(
    template: &str,
    values: &Values,
    entries: &BTreeMap<&'static str, Values>,
) -> Result<String> {
    let file = root().join("tests/bench/peers").join(template);
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let mut filled = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(names) = line.strip_prefix("#each ") else {
            filled.push_str(&replaced(line, values));
            filled.push('\n');
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "#end").collect();
        for name in names.split_whitespace() {
            let own = entries.get(name);
            let own = own.with_context(|| format!("{template}: no entry {name}"))?;
            for line in &block {
                filled.push_str(&replaced(&replaced(line, own), values));
                filled.push('\n');
            }
        }
    }
    for line in filled.lines() {
        let word = line
            .split('@')
            .nth(1)
            .filter(|word| line.matches('@').count() > 1 && word.chars().all(is_word));
        ensure!(word.is_none(), "{template}: no value for {word:?}");
    }
    Ok(filled)
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_uppercase() || letter == '_'
}

fn replaced(line: &str, values: &Values) -> String {
    values.iter().fold(line.to_owned(), |line, (word, value)| {
        line.replace(&format!("@{word}@"), value)
    })
}
