//! Text to objects: YAML files that people wrote, every problem with its place.
//!
//! One mechanism gives all places. [`tree`] reads the text into nodes that know their line;
//! [`decode`] turns nodes into [`crate::kinds`] and, where that fails, knows node and path;
//! [`Located`] keeps the nodes, so that whoever finds a problem later (a target that does not
//! exist) can name the field and gets the place.
//!
//! Bounds, since the text may come from anyone: [`TEXT_MAX`] bytes, 24 levels, 20,000 nodes; no
//! anchors, aliases and merge keys, so that a policy means what stands in its lines. What exceeds
//! them is refused whole.

mod decode;
mod object;
mod place;
pub(crate) mod suggest;
mod tree;

pub use object::Object;
pub use place::{Cause, Located, Location, Problem, Severity};

use std::path::Path;
use std::sync::Arc;

/// The longest file, in bytes: as much as etcd takes for one object.
pub const TEXT_MAX: usize = 1 << 20;

/// Every object in `text`. Empty documents are skipped, a file without any object is a problem.
/// `file` is for the locations; nothing is read from it.
///
/// # Errors
/// One problem for each document that is wrong, or one for the file if it is not YAML.
pub fn parse(file: &Path, text: &str) -> Result<Vec<Object>, Vec<Problem>> {
    let file: Arc<Path> = file.into();
    let start = Location {
        file: file.clone(),
        line: 1,
        column: 1,
    };
    if text.len() > TEXT_MAX {
        let message = format!("is {} bytes long, expected at most {TEXT_MAX}", text.len());
        return Err(vec![Problem::new(start, "", message)]);
    }
    let documents = tree::read(&file, text).map_err(|problem| vec![problem])?;
    if documents.is_empty() {
        let message = "has no object, expected at least one document with apiVersion and kind";
        return Err(vec![Problem::new(start, "", message)]);
    }
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for document in documents {
        match object::read(&file, document) {
            Ok(object) => objects.push(object),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(objects)
    } else {
        Err(problems)
    }
}

/// [`parse`] of bytes that may not be UTF-8.
///
/// # Errors
/// As [`parse`]; besides, at the first byte that is not UTF-8.
pub fn parse_bytes(file: &Path, bytes: &[u8]) -> Result<Vec<Object>, Vec<Problem>> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return parse(file, text),
        Err(error) => error,
    };
    let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
    let valid = String::from_utf8_lossy(valid);
    let line = valid.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = valid
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let location = Location {
        file: file.into(),
        line: count(line),
        column: count(column),
    };
    Err(vec![Problem::new(
        location,
        "",
        "is not UTF-8 from here on",
    )])
}
