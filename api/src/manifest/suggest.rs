//! "Did you mean": the known word that a misspelt one is closest to.

/// The closest of `known`, if it takes at most a third of its letters to get there.
pub(super) fn closest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    // Nothing longer than the longest field; the distance costs the product of the lengths.
    if written.len() > 64 {
        return None;
    }
    let scored = known.iter().map(|word| (distance(written, word), *word));
    let (edits, word) = scored.min_by_key(|(edits, _)| *edits)?;
    (edits <= word.len().div_ceil(3)).then_some(word)
}

/// `expected A, B or C; did you mean "B"?`
pub(crate) fn expected(written: &str, known: &[&str]) -> String {
    let list = match known {
        [] => "nothing here".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    };
    match closest(written, known) {
        Some(word) => format!("expected {list}; did you mean {word:?}?"),
        None => format!("expected {list}"),
    }
}

/// Levenshtein's, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = substituted.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let table = [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("Ab", "aB", 0),
        ];
        for (a, b, edits) in table {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn what_is_close() {
        let known = ["targetRefs", "action", "rules"];
        assert_eq!(closest("rulez", &known), Some("rules"));
        assert_eq!(closest("targetRef", &known), Some("targetRefs"));
        assert_eq!(closest("selector", &known), None);
        assert_eq!(closest(&"r".repeat(1000), &known), None);
        assert_eq!(closest("x", &[]), None);
    }
}
