//! Nodes to kinds, through serde; an error knows the node and the path to it.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::path::Path as FilePath;
use std::slice::Iter;
use std::sync::Arc;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};

use super::place::{Location, Problem};
use super::suggest;
use super::tree::{Entry, Node, Value};

/// The longest message about a value, characters.
const LONGEST_MESSAGE: usize = 500;

/// `root` as a `T`, but for the fields `except`, which the caller has read.
pub(super) fn decode<T: DeserializeOwned>(root: &Node, except: &[&str]) -> Result<T, DecodeError> {
    let decoder = Decoder {
        node: root,
        path: Path::Root,
        except,
    };
    T::deserialize(decoder).map_err(|error| error.or_at(root.line, root.column, Path::Root))
}

#[derive(Debug)]
pub(super) struct DecodeError {
    message: String,
    /// Of the object that is wrong: the field that is missing.
    missing: Option<&'static str>,
    at: Option<At>,
}

#[derive(Debug)]
struct At {
    line: u32,
    column: u32,
    field: String,
}

impl DecodeError {
    /// The innermost place is known first, and stays.
    fn or_at(mut self, line: u32, column: u32, path: Path<'_>) -> Self {
        if self.at.is_none() {
            let field = match self.missing {
                Some(field) => Path::Key(&path, field).to_string(),
                None => path.to_string(),
            };
            self.at = Some(At {
                line,
                column,
                field,
            });
        }
        self
    }

    pub(super) fn into_problem(self, file: &Arc<FilePath>, root: &Node) -> Problem {
        let (line, column, field) = match self.at {
            Some(at) => (at.line, at.column, at.field),
            None => (root.line, root.column, String::new()),
        };
        Problem::new(
            Location {
                file: file.clone(),
                line,
                column,
            },
            field,
            self.message,
        )
    }
}

impl std::error::Error for DecodeError {}

impl Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What is said about a value quotes it: of a huge one its beginning and the end of the message.
fn shortened(message: String) -> String {
    let length = message.chars().count();
    if length <= LONGEST_MESSAGE {
        return message;
    }
    let half = LONGEST_MESSAGE / 2;
    let head = message.chars().take(half);
    let tail = message.chars().skip(length - half);
    head.chain(['…']).chain(tail).collect()
}

impl Error for DecodeError {
    fn custom<T: Display>(message: T) -> Self {
        Self {
            message: shortened(message.to_string()),
            missing: None,
            at: None,
        }
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let known: Vec<&str> = known
            .iter()
            .copied()
            .filter(|field| !field.starts_with('_'))
            .collect();
        Self::custom(format!(
            "unknown field {field:?}, {}",
            suggest::expected(field, &known)
        ))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::custom(format!(
            "is {variant:?}, {}",
            suggest::expected(variant, known)
        ))
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(field),
            ..Self::custom("is missing")
        }
    }
}

/// The way from the root. Displays as `spec.rules[0].name`.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Index(outer, index) => write!(f, "{outer}[{index}]"),
            Self::Key(outer, key) if key.contains(['.', '[']) => write!(f, "{outer}[\"{key}\"]"),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(outer, key) => write!(f, "{outer}.{key}"),
        }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'de, 'p> {
    node: &'de Node,
    path: Path<'p>,
    /// Fields that are not shown.
    except: &'p [&'p str],
}

impl<'de> Decoder<'de, '_> {
    fn expected(&self, expected: impl Display) -> DecodeError {
        let found = match &self.node.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Unsigned(value) => format!("the number {value}"),
            Value::Signed(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "an object".to_owned(),
        };
        DecodeError::custom(format!("is {found}, expected {expected}"))
    }

    /// Not every type refuses the fields that it does not know.
    fn check_fields(
        &self,
        entries: &[Entry],
        known: &'static [&'static str],
    ) -> Result<(), DecodeError> {
        let unknown = entries.iter().find(|entry| {
            let key = entry.key.as_str();
            !known.contains(&key) && !self.except.contains(&key)
        });
        match unknown {
            None => Ok(()),
            Some(Entry {
                key, line, column, ..
            }) => {
                let path = Path::Key(&self.path, key);
                Err(DecodeError::unknown_field(key, known).or_at(*line, *column, path))
            }
        }
    }

    fn visit_list<V: Visitor<'de>>(
        self,
        list: &'de [Node],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(List {
            nodes: list.iter(),
            index: 0,
            path: self.path,
        })
    }

    fn visit_entries<V: Visitor<'de>>(
        self,
        entries: &'de [Entry],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let mut seen = HashMap::with_capacity(entries.len());
        for entry in entries {
            if let Some(line) = seen.insert(entry.key.as_str(), entry.line) {
                let message = format!("duplicate key {:?}, first given in line {line}", entry.key);
                let path = Path::Key(&self.path, &entry.key);
                return Err(DecodeError::custom(message).or_at(entry.line, entry.column, path));
            }
        }
        let Self { path, except, .. } = self;
        visitor.visit_map(Map {
            entries: entries.iter(),
            value: None,
            path,
            except,
        })
    }
}

impl<'de> Deserializer<'de> for Decoder<'de, '_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(list) => self.visit_list(list, visitor),
            Value::Map(entries) => self.visit_entries(entries, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => Err(self.expected("true or false")),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Value::Unsigned(value) => visitor.visit_u64(value),
            Value::Signed(value) => visitor.visit_i64(value),
            _ => Err(self.expected("a whole number")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) => {
                Err(self.expected("text (in quotes)"))
            }
            Value::Null | Value::List(_) | Value::Map(_) => Err(self.expected("text")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::List(list) => self.visit_list(list, visitor),
            _ => Err(self.expected("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Map(entries) => self.visit_entries(entries, visitor),
            _ => Err(self.expected("an object")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Map(entries) => {
                self.check_fields(entries, fields)?;
                self.visit_entries(entries, visitor)
            }
            _ => Err(self.expected(format!("an object with fields of {}", fields.join(", ")))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Text(text) => {
                let text: StrDeserializer<'_, DecodeError> = text.as_str().into_deserializer();
                visitor.visit_enum(text)
            }
            _ => Err(self.expected(variants.join(" or "))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_string(visitor)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

struct List<'de, 'p> {
    nodes: Iter<'de, Node>,
    index: usize,
    path: Path<'p>,
}

impl<'de> SeqAccess<'de> for List<'de, '_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.nodes.next() else {
            return Ok(None);
        };
        let path = Path::Index(&self.path, self.index);
        self.index += 1;
        let element = seed.deserialize(Decoder {
            node,
            path,
            except: &[],
        });
        element
            .map(Some)
            .map_err(|error| error.or_at(node.line, node.column, path))
    }
}

struct Map<'de, 'p> {
    entries: Iter<'de, Entry>,
    value: Option<&'de Entry>,
    path: Path<'p>,
    except: &'p [&'p str],
}

impl<'de> MapAccess<'de> for Map<'de, '_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Self {
            entries, except, ..
        } = self;
        let Some(entry) = entries.find(|entry| !except.contains(&entry.key.as_str())) else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key = seed.deserialize(BorrowedStrDeserializer::new(&entry.key));
        let path = Path::Key(&self.path, &entry.key);
        key.map(Some)
            .map_err(|error: DecodeError| error.or_at(entry.line, entry.column, path))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        let entry = self
            .value
            .take()
            .ok_or_else(|| DecodeError::custom("has no value"))?;
        let Entry {
            key, value: node, ..
        } = entry;
        let path = Path::Key(&self.path, key);
        let value = seed.deserialize(Decoder {
            node,
            path,
            except: &[],
        });
        value.map_err(|error| error.or_at(node.line, node.column, path))
    }
}
