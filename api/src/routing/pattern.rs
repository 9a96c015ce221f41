//! Regular expressions from policy: matched in linear time, bounded in size, anchored at both ends.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

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
