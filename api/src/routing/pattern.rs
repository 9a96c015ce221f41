//! Regular expressions from policy: matched in linear time, bounded in size, anchored at both ends.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind, Literal};

/// The longest pattern, bytes.
const PATTERN_MAX: usize = 1024;
/// The most that a compiled pattern may take, bytes.
const COMPILED_MAX: usize = 256 * 1024;

/// Fits a whole text. Compares and displays as it was written.
#[derive(Clone)]
pub struct Pattern {
    written: String,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("is a pattern of {0} bytes, expected at most {PATTERN_MAX}")]
    TooLong(usize),
    #[error("is a pattern that takes more than {COMPILED_MAX} bytes, expected a smaller one")]
    TooLarge,
    #[error("is no regular expression (RE2 syntax): {0}")]
    Syntax(String),
}

impl Pattern {
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Texts that are part of every text that fits.
    pub(super) fn literals(&self) -> Vec<String> {
        let mut literals = Vec::new();
        if let Ok(parsed) = regex_syntax::parse(&self.written) {
            collect_literals(&parsed, &mut literals);
        }
        literals.sort_unstable();
        literals.dedup();
        literals
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(written: &str) -> Result<Self, PatternError> {
        if written.len() > PATTERN_MAX {
            return Err(PatternError::TooLong(written.len()));
        }
        // What is no pattern by itself, such as `a)(b`, must not become one inside the anchors.
        build(written)?;
        Ok(Self {
            regex: build(&format!("^(?:{written})$"))?,
            written: written.to_owned(),
        })
    }
}

/// What is left out is only not found: alternatives have no literal in common that this sees.
fn collect_literals(part: &Hir, literals: &mut Vec<String>) {
    match part.kind() {
        HirKind::Literal(Literal(bytes)) => {
            literals.extend(String::from_utf8(bytes.to_vec()));
        }
        HirKind::Capture(capture) => collect_literals(&capture.sub, literals),
        HirKind::Repetition(repeated) if repeated.min > 0 => {
            collect_literals(&repeated.sub, literals);
        }
        HirKind::Concat(parts) => {
            for part in parts {
                collect_literals(part, literals);
            }
        }
        HirKind::Empty
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Repetition(_)
        | HirKind::Alternation(_) => {}
    }
}

fn build(pattern: &str) -> Result<Regex, PatternError> {
    let mut builder = RegexBuilder::new(pattern);
    builder
        .size_limit(COMPILED_MAX)
        .dfa_size_limit(COMPILED_MAX);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        other => {
            // The last line says what; those before draw the place.
            let text = other.to_string();
            let what = text.lines().last().unwrap_or_default();
            PatternError::Syntax(what.trim_start_matches("error: ").to_owned())
        }
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.written)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_the_whole_text_only() {
        let pattern: Pattern = "/a|/b+".parse().expect("a pattern");
        assert!(pattern.is_match("/a") && pattern.is_match("/bbb"));
        assert!(!pattern.is_match("/ab") && !pattern.is_match("x/a"));
    }

    #[test]
    fn literals_are_in_every_text_that_fits() {
        let table: [(&str, &[&str]); 9] = [
            ("/shop/v1/[0-9]+", &["/shop/v1/"]),
            ("/users/[^/]+/orders", &["/orders", "/users/"]),
            ("/(a|b)/(x)+y?", &["/", "x"]),
            ("(?:/a){2}", &["/a"]),
            (r"/a\.b", &["/a.b"]),
            ("/a|/b", &[]),
            ("(?i)/a", &["/"]),
            ("(/a)?.*", &[]),
            ("", &[]),
        ];
        for (written, literals) in table {
            let pattern: Pattern = written.parse().expect("a pattern");
            assert_eq!(pattern.literals(), literals, "{written}");
        }
    }

    #[test]
    fn what_is_too_large_or_no_pattern_is_an_error() {
        let long = "a".repeat(100 * 1024).parse::<Pattern>();
        assert_eq!(long, Err(PatternError::TooLong(100 * 1024)));
        assert_eq!(
            "(a{1000}){1000}".parse::<Pattern>(),
            Err(PatternError::TooLarge)
        );
        for bad in ["a)(b", "(", "(?=a)", r"\1"] {
            assert!(matches!(
                bad.parse::<Pattern>(),
                Err(PatternError::Syntax(_))
            ));
        }
    }
}
