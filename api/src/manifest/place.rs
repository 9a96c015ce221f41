//! Where something is written, and what is wrong with it.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::tree::Node;

/// A place in a file, displayed as `FILE:LINE:COLUMN`, or all of it, displayed as `FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Location {
    #[serde(serialize_with = "displayed")]
    pub file: Arc<Path>,
    /// From 1 on; 0: all of it.
    pub line: u32,
    /// In characters, from 1 on; 0: all of it.
    pub column: u32,
}

impl Location {
    /// No place in the file: the file itself, which may be a folder, or not be there.
    pub fn whole(file: Arc<Path>) -> Self {
        Self {
            file,
            line: 0,
            column: 0,
        }
    }
}

fn displayed<S: serde::Serializer>(file: &Arc<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&file.display())
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.line {
            0 => write!(f, "{file}"),
            line => write!(f, "{file}:{line}:{}", self.column),
        }
    }
}

/// What follows from a [`Problem`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing of what was written is applied.
    #[default]
    Error,
    /// It is applied, and this part of it does less than it says.
    Warning,
}

/// What kind of thing is wrong, for whoever does not refuse everything alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// What was written has no meaning.
    #[default]
    Invalid,
    /// It is about an object that does not exist.
    TargetNotFound,
    /// It is good, and nothing follows from it as things are.
    NoEffect,
    /// Another object says the same thing, and comes first.
    Conflicted,
}

/// Something that is wrong with what a user wrote. Displays as `FILE:LINE:COLUMN: FIELD: MESSAGE`, a
/// warning with `warning: ` before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Problem {
    #[serde(flatten)]
    pub location: Location,
    /// For instance `spec.rules[0].sources`. Empty: the file or the document.
    pub field: String,
    /// What is wrong, and what was expected.
    pub message: String,
    pub severity: Severity,
    #[serde(skip)]
    pub cause: Cause,
}

impl Problem {
    /// An error.
    pub fn new(location: Location, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            location,
            field: field.into(),
            message: message.into(),
            severity: Severity::Error,
            cause: Cause::Invalid,
        }
    }

    /// The same for another cause.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// The same as a warning.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_warning() {
            f.write_str("warning: ")?;
        }
        write!(f, "{}: ", self.location)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// An object, and the place of each of its fields. Cheap to clone.
#[derive(Debug)]
pub struct Located<T> {
    value: Arc<T>,
    source: Arc<Source>,
}

#[derive(Debug)]
struct Source {
    file: Arc<Path>,
    root: Node,
}

impl<T> Located<T> {
    pub(super) fn new(value: T, file: Arc<Path>, root: Node) -> Self {
        Self {
            value: Arc::new(value),
            source: Arc::new(Source { file, root }),
        }
    }

    /// Another object in the same place.
    #[must_use]
    pub fn with(&self, value: T) -> Self {
        Self {
            value: Arc::new(value),
            source: Arc::clone(&self.source),
        }
    }

    /// The same, of which only the file is known: a place in a text that nobody has written helps
    /// nobody, and takes more memory than the object.
    #[must_use]
    pub(super) fn without_places(&self) -> Self {
        let source = Source {
            file: Arc::clone(&self.source.file),
            root: Node::start(),
        };
        Self {
            value: Arc::clone(&self.value),
            source: Arc::new(source),
        }
    }

    /// Whether it is the very same, which is quickly seen: not read again meanwhile.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
    }

    /// Where `field` is written, for instance `spec.targetRefs[0].name`; if it is not there, the
    /// innermost of the fields around it that is. Empty: the object.
    #[must_use]
    pub fn location(&self, field: &str) -> Location {
        let node = self.source.root.find(field);
        Location {
            file: self.source.file.clone(),
            line: node.line,
            column: node.column,
        }
    }

    /// A problem with `field`.
    pub fn problem(&self, field: impl Into<String>, message: impl Into<String>) -> Problem {
        let field = field.into();
        Problem::new(self.location(&field), field, message)
    }
}

impl<T> Clone for Located<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            source: Arc::clone(&self.source),
        }
    }
}

/// What is said, wherever.
impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.value == other.value
    }
}

impl<T> Deref for Located<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
