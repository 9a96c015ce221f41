//! YAML as a tree of nodes that know their place.

use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach as Breach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error, Options, Spanned};

use super::place::{Location, Problem};

/// How deep lists and objects may nest. The parser takes up to 40 KiB of stack for each level.
const DEPTH_MAX: usize = 24;
/// The most scalars, lists and objects in a file.
const NODES_MAX: usize = 20_000;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// As written: a key may be there twice.
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) value: Node,
}

/// Every document that is not empty.
pub(super) fn read(file: &Arc<Path>, text: &str) -> Result<Vec<Node>, Problem> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        let location = error.location();
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
        let location = Location {
            file: file.clone(),
            line: location.map_or(1, |at| number(at.line())),
            column: location.map_or(1, |at| number(at.column())),
        };
        Problem::new(location, "", message(&error))
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 3,
            // What is written in one place and means something in another.
            max_anchors: 0,
            max_aliases: 0,
        },
        merge_keys: MergeKeyPolicy::Error,
        // Found by `decode`, which knows the path.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    }
}

fn message(error: &Error) -> String {
    let bounds = format!("expected at most {DEPTH_MAX} levels and {NODES_MAX} nodes");
    match error.without_snippet() {
        Error::Budget {
            breach: Breach::Anchors { .. } | Breach::Aliases { .. },
            ..
        }
        | Error::MergeKeyNotAllowed { .. }
        | Error::UnknownAnchor { .. } => {
            "anchors, aliases and merge keys are not accepted, expected the text itself".to_owned()
        }
        Error::Budget { .. } => format!("is too much YAML, {bounds}"),
        Error::ExternalMessage { msg, .. } if msg.starts_with("recursion limit") => {
            format!("is too much YAML, {bounds}")
        }
        Error::ExternalMessage { msg, .. } => format!("is not YAML: {msg}"),
        other => format!("is not YAML: {}", other.render()),
    }
}

impl Node {
    /// Nothing, at the beginning of a file.
    pub(super) fn start() -> Self {
        Self {
            line: 1,
            column: 1,
            value: Value::Null,
        }
    }

    /// The node of a field such as `spec.rules[0].name`, or the innermost one around it.
    pub(super) fn find(&self, field: &str) -> &Self {
        let mut node = self;
        let mut rest = field;
        while let Some((step, tail)) = Step::split(rest) {
            let Some(next) = node.child(&step) else {
                return node;
            };
            (node, rest) = (next, tail);
        }
        node
    }

    fn child(&self, step: &Step<'_>) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Map(entries), Step::Key(key)) => entries
                .iter()
                .find(|entry| entry.key == *key)
                .map(|entry| &entry.value),
            (Value::List(list), Step::Index(index)) => list.get(*index),
            _ => None,
        }
    }
}

/// One step of a field: `name`, `["a.b/c"]` or `[0]`.
enum Step<'f> {
    Key(&'f str),
    Index(usize),
}

impl<'f> Step<'f> {
    fn split(field: &'f str) -> Option<(Self, &'f str)> {
        let field = field.strip_prefix('.').unwrap_or(field);
        if let Some(quoted) = field.strip_prefix("[\"") {
            let (key, rest) = quoted.split_once("\"]")?;
            return Some((Self::Key(key), rest));
        }
        if let Some(bracketed) = field.strip_prefix('[') {
            let (index, rest) = bracketed.split_once(']')?;
            return Some((Self::Index(index.parse().ok()?), rest));
        }
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (key, rest) = field.split_at(end);
        (!key.is_empty()).then_some((Self::Key(key), rest))
    }
}

fn place<T>(spanned: &Spanned<T>) -> (u32, u32) {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let at = spanned.referenced;
    (number(at.line()), number(at.column()))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let (line, column) = place(&spanned);
        Ok(Self {
            line,
            column,
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Signed(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let (line, column) = place(&key);
            let value = access.next_value()?;
            entries.push(Entry {
                key: key.value,
                line,
                column,
                value,
            });
        }
        Ok(Value::Map(entries))
    }
}
