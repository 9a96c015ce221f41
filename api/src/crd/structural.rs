//! A JSON schema as `schemars` makes it, rewritten as the structural schema that an API server takes
//! (apiextensions.k8s.io/v1): one type at each place, no references, no alternatives of types.
//!
//! A keyword that is not known here is an error, so that nothing that a type says gets lost.

use serde_json::{Map, Value, json};

/// Why a schema cannot be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStructural {
    #[error("at {0}: expected an object, got {1}")]
    NoObject(String, Value),
    #[error("at {0}: the keyword {1:?} has no place in a structural schema")]
    Keyword(String, String),
    #[error("at {0}: expected one type, got {1}")]
    Type(String, Value),
}

/// Of what users write: unknown fields are kept, and null is kept in optional ones, so that the parser
/// can refuse both.
pub(super) fn written(schema: Value) -> Result<Value, NotStructural> {
    Rewrite { written: true }.node("spec", schema)
}

/// Of what the control plane writes.
pub(super) fn reported(schema: Value) -> Result<Value, NotStructural> {
    Rewrite { written: false }.node("status", schema)
}

#[derive(Clone, Copy)]
struct Rewrite {
    written: bool,
}

impl Rewrite {
    fn node(self, path: &str, schema: Value) -> Result<Value, NotStructural> {
        let Value::Object(schema) = schema else {
            return Err(NotStructural::NoObject(path.to_owned(), schema));
        };
        let mut out = Map::new();
        for (keyword, value) in words(given(schema)) {
            match keyword.as_str() {
                // What is for readers of the schema itself.
                "$schema" | "title" | "default" => {}
                "type" => self.one_type(path, value, &mut out)?,
                "enum" => {
                    out.insert(keyword, without_null(value));
                }
                "format" => format(&value, &mut out),
                "properties" => {
                    let properties = self.properties(path, value)?;
                    out.insert(keyword, properties);
                }
                "items" => {
                    let items = self.node(&format!("{path}[]"), value)?;
                    out.insert(keyword, items);
                }
                "additionalProperties" => self.additional(path, value, &mut out)?,
                // Conditions on values, which may stand anywhere; theirs are written by hand.
                "description"
                | "required"
                | "pattern"
                | "minimum"
                | "maximum"
                | "minLength"
                | "maxLength"
                | "minItems"
                | "maxItems"
                | "minProperties"
                | "maxProperties"
                | "oneOf"
                | "not"
                | "x-kubernetes-validations"
                | "x-kubernetes-list-type"
                | "x-kubernetes-list-map-keys" => {
                    out.insert(keyword, value);
                }
                _ => return Err(NotStructural::Keyword(path.to_owned(), keyword)),
            }
        }
        if self.written && out.contains_key("properties") {
            out.insert(
                "x-kubernetes-preserve-unknown-fields".to_owned(),
                json!(true),
            );
            optional(&mut out);
        }
        Ok(Value::Object(out))
    }

    fn one_type(
        self,
        path: &str,
        value: Value,
        out: &mut Map<String, Value>,
    ) -> Result<(), NotStructural> {
        let names: Vec<&str> = match &value {
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let names: Vec<&str> = names.into_iter().filter(|name| *name != "null").collect();
        match names.as_slice() {
            [one] => out.insert("type".to_owned(), json!(one)),
            ["string", "integer"] => {
                out.insert("x-kubernetes-int-or-string".to_owned(), json!(true))
            }
            _ => return Err(NotStructural::Type(path.to_owned(), value)),
        };
        Ok(())
    }

    fn properties(self, path: &str, value: Value) -> Result<Value, NotStructural> {
        let Value::Object(properties) = value else {
            return Err(NotStructural::NoObject(path.to_owned(), value));
        };
        let rewritten = properties.into_iter().map(|(name, schema)| {
            let node = self.node(&format!("{path}.{name}"), schema)?;
            Ok((name, node))
        });
        Ok(Value::Object(rewritten.collect::<Result<_, _>>()?))
    }

    fn additional(
        self,
        path: &str,
        value: Value,
        out: &mut Map<String, Value>,
    ) -> Result<(), NotStructural> {
        match value {
            // No others: whoever parses it says so.
            Value::Bool(false) => {}
            value => {
                let values = self.node(&format!("{path}{{}}"), value)?;
                out.insert("additionalProperties".to_owned(), values);
            }
        }
        Ok(())
    }
}

/// Of an object, lets each property that is not required be null.
fn optional(object: &mut Map<String, Value>) {
    let required = object.get("required").cloned().unwrap_or_default();
    let required = required.as_array().map_or(&[][..], Vec::as_slice);
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        if !required.iter().any(|one| one == name) {
            property["nullable"] = json!(true);
        }
    }
}

/// The schema of a value that is there: `Option` makes it `anyOf` it and null.
fn given(mut schema: Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Array(any)) = schema.get("anyOf") else {
        return schema;
    };
    let mut there = any.iter().filter(|one| one["type"] != "null");
    let (Some(Value::Object(inner)), None) = (there.next(), there.next()) else {
        return schema;
    };
    let inner = inner.clone();
    schema.remove("anyOf");
    for (keyword, value) in inner {
        // What a field says of itself is more than what its type does.
        schema.entry(keyword).or_insert(value);
    }
    schema
}

/// An enum whose words have a meaning is `oneOf` them: its words, and their meaning in the description.
fn words(mut schema: Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Array(one_of)) = schema.get("oneOf") else {
        return schema;
    };
    let mut all = Vec::new();
    let mut description = text(schema.get("description"));
    for one in one_of {
        let plain = one["enum"].as_array().into_iter().flatten();
        let own: Vec<Value> = plain.chain(one.get("const")).cloned().collect();
        if own.is_empty() {
            // Conditions, not words.
            return schema;
        }
        let meaning = text(one.get("description"));
        if !meaning.is_empty() {
            let words: Vec<&str> = own.iter().filter_map(Value::as_str).collect();
            description.push_str(&format!("\n{}: {meaning}", words.join(", ")));
        }
        all.extend(own);
    }
    schema.remove("oneOf");
    schema.insert("type".to_owned(), json!("string"));
    schema.insert("enum".to_owned(), Value::Array(all));
    schema.insert("description".to_owned(), json!(description.trim_start()));
    schema
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Array(words) => words.into_iter().filter(|word| !word.is_null()).collect(),
        value => value,
    }
}

/// The formats of the API server's own; what ours say to readers is in the pattern and in the rules.
fn format(value: &Value, out: &mut Map<String, Value>) {
    match value.as_str() {
        Some("date-time" | "int64" | "int32") => {
            out.insert("format".to_owned(), value.clone());
        }
        Some("uint32") => {
            out.entry("maximum").or_insert(json!(u32::MAX));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_the_schema_of_an_option() {
        let schema = json!({
            "description": "of the field",
            "anyOf": [{"type": "string", "enum": ["A"], "description": "of the type"}, {"type": "null"}],
        });
        let expected = json!({"description": "of the field", "type": "string", "enum": ["A"]});
        assert_eq!(written(schema), Ok(expected));
    }

    #[test]
    fn words_with_a_meaning_are_an_enum() {
        let schema = json!({
            "description": "Which.",
            "oneOf": [{"const": "A", "type": "string", "description": "One."}, {"enum": ["B", "C"]}],
        });
        let expected = json!({
            "type": "string",
            "description": "Which.\nA: One.",
            "enum": ["A", "B", "C"],
        });
        assert_eq!(written(schema), Ok(expected));
    }

    #[test]
    fn unknown_fields_and_null_are_kept_in_what_users_write() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["a"],
            "properties": {"a": {"type": "string"}, "b": {"type": ["integer", "null"], "format": "uint32"}},
        });
        let b = json!({"type": "integer", "maximum": u32::MAX});
        let expected = json!({
            "type": "object",
            "required": ["a"],
            "properties": {"a": {"type": "string"}, "b": b},
        });
        assert_eq!(reported(schema.clone()), Ok(expected.clone()));
        let mut kept = expected;
        kept["x-kubernetes-preserve-unknown-fields"] = json!(true);
        kept["properties"]["b"]["nullable"] = json!(true);
        assert_eq!(written(schema), Ok(kept));
    }

    #[test]
    fn what_a_structural_schema_cannot_say_is_an_error() {
        let table = [
            (
                json!({"type": "object", "patternProperties": {}}),
                "patternProperties",
            ),
            (json!({"$ref": "#/$defs/A"}), "$ref"),
            (
                json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
                "anyOf",
            ),
        ];
        for (schema, keyword) in table {
            let error = NotStructural::Keyword("spec".to_owned(), keyword.to_owned());
            assert_eq!(written(schema), Err(error));
        }
        let two = json!({"type": ["boolean", "integer"]});
        assert_eq!(
            written(two.clone()),
            Err(NotStructural::Type("spec".to_owned(), two["type"].clone()))
        );
    }
}
