//! `docs/reference/kinds.md` says what the types say: the page is made here, of the doc comments.
//!
//! Where this fails, the types have changed: `UPDATE_REFERENCE=1 cargo test -p outrider-api --test
//! reference` writes the page anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use outrider_api::kinds::traffic::HealthCheck;
use outrider_api::kinds::{
    AuthorizationPolicySpec, MeshConfigSpec, RateLimitPolicySpec, Traffic, TrafficPolicySpec,
    WorkloadSpec,
};
use outrider_api::model::traffic as model;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/kinds.md");
/// What is written by hand: what a mesh makes of the Gateway API's kinds.
const GATEWAY: &str = include_str!("reference/gateway.md");
const HEAD: &str = include_str!("reference/head.md");

/// A field of `spec`, with the way to it.
struct Row {
    field: String,
    kind: String,
    default: String,
    meaning: String,
}

#[test]
fn the_page_says_what_the_types_say() {
    let page = page();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(Path::new(PAGE)).unwrap();
    let differs = page.lines().zip(written.lines()).find(|(a, b)| a != b);
    assert!(
        page == written,
        "docs/reference/kinds.md has drifted, first here: {differs:#?}; \
         UPDATE_REFERENCE=1 writes it anew"
    );
}

#[test]
fn every_field_has_a_meaning() {
    let all = [
        rows::<MeshConfigSpec>(),
        rows::<WorkloadSpec>(),
        rows::<AuthorizationPolicySpec>(),
        rows::<TrafficPolicySpec>(),
        rows::<RateLimitPolicySpec>(),
    ];
    let mut rows = all.iter().flatten();
    let mute = rows.find(|row| split_default(row).1.is_empty());
    assert!(mute.is_none(), "{} has no doc comment", mute.unwrap().field);
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let defaults = traffic_defaults();
    let mut mesh = rows::<MeshConfigSpec>();
    // Below it are TrafficPolicy's own fields.
    mesh.retain(|row| !row.field.starts_with("traffic."));
    table(&mut page, "MeshConfig", &mesh);
    table(&mut page, "Workload", &rows::<WorkloadSpec>());
    table(
        &mut page,
        "AuthorizationPolicy",
        &rows::<AuthorizationPolicySpec>(),
    );
    let mut traffic = rows::<TrafficPolicySpec>();
    for row in &mut traffic {
        if let Some(default) = defaults.get(&row.field) {
            row.default = default.clone();
        }
    }
    table(&mut page, "TrafficPolicy", &traffic);
    table(&mut page, "RateLimitPolicy", &rows::<RateLimitPolicySpec>());
    page.push('\n');
    page.push_str(GATEWAY);
    page
}

fn table(page: &mut String, kind: &str, rows: &[Row]) {
    write!(
        page,
        "\n## {kind}\n\n| field of `spec` | type | default | |\n|---|---|---|---|\n"
    )
    .unwrap();
    for row in rows {
        let (default, meaning) = split_default(row);
        writeln!(
            page,
            "| `{}` | {} | {default} | {meaning} |",
            row.field, row.kind
        )
        .unwrap();
    }
}

/// "Default 1s." at the end of a doc comment is the default.
fn split_default(row: &Row) -> (String, String) {
    let written = ["Default: ", "Default "].into_iter().find_map(|word| {
        let (before, after) = row.meaning.split_once(word)?;
        let (default, rest) = after.split_once(['.', ';'])?;
        let is_end = |rest: &str| rest.is_empty() || rest.starts_with(' ');
        // A dot within the default (127.0.0.1) does not end it.
        let (default, rest) = if is_end(rest) {
            (default, rest)
        } else {
            (after.strip_suffix('.')?, "")
        };
        Some((default.to_owned(), format!("{before}{}", rest.trim_start())))
    });
    match written {
        Some((default, meaning)) => (default, meaning.trim().to_owned()),
        None => (row.default.clone(), row.meaning.clone()),
    }
}

/// What holds for a Service of which nobody says anything, by field.
fn traffic_defaults() -> BTreeMap<String, String> {
    let settings = model::TrafficSettings::default();
    let mut traffic = Traffic::from(&settings);
    traffic.health_check = HealthCheck {
        path: None,
        ..HealthCheck::from(&model::HealthCheck::of("/".to_owned()))
    };
    let mut defaults = BTreeMap::new();
    collect("", &serde_json::to_value(traffic).unwrap(), &mut defaults);
    defaults
}

fn collect(path: &str, value: &Value, defaults: &mut BTreeMap<String, String>) {
    let text = match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let path = if path.is_empty() {
                    field.clone()
                } else {
                    format!("{path}.{field}")
                };
                collect(&path, value, defaults);
            }
            return;
        }
        Value::Null => "none".to_owned(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => {
            let texts = list.iter().map(|one| one.to_string().replace('"', ""));
            texts.collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    defaults.insert(path.to_owned(), text);
}

fn rows<T: JsonSchema>() -> Vec<Row> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut rows = Vec::new();
    fields("", schema.as_value(), &mut rows);
    rows
}

fn fields(path: &str, schema: &Value, rows: &mut Vec<Row>) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, property) in properties {
        let field = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let inner = given(property);
        let is_required = required.contains(&name.as_str());
        rows.push(Row {
            kind: kind(inner),
            default: if is_required { "required" } else { "none" }.to_owned(),
            meaning: meaning(property, inner),
            field: field.clone(),
        });
        fields(&field, inner, rows);
        fields(&format!("{field}[]"), given(&inner["items"]), rows);
    }
}

/// The schema of a value that is there: `null` is what is left out.
fn given(schema: &Value) -> &Value {
    let is_null = |schema: &&Value| schema["type"] == "null";
    let any = schema["anyOf"].as_array();
    any.and_then(|any| any.iter().find(|schema| !is_null(schema)))
        .unwrap_or(schema)
}

fn kind(schema: &Value) -> String {
    let words = variants(schema);
    if !words.is_empty() {
        let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let name = match &schema["type"] {
        Value::Array(names) => names[0].as_str(),
        name => name.as_str(),
    };
    match name {
        Some("string") => schema["format"].as_str().unwrap_or("text").to_owned(),
        Some("integer") if is_port(schema) => "port".to_owned(),
        Some("integer") => range("number", schema),
        Some("number") => range("percent", schema),
        Some("boolean") => "bool".to_owned(),
        Some("array") => format!("list of {}", kind(given(&schema["items"]))),
        Some("object") if schema["additionalProperties"].is_object() => "map of text".to_owned(),
        _ => "object".to_owned(),
    }
}

/// The parser of ports is stricter than their type: 0 is none.
fn is_port(schema: &Value) -> bool {
    schema["maximum"] == u64::from(u16::MAX)
}

fn range(name: &str, schema: &Value) -> String {
    match (&schema["minimum"], &schema["maximum"]) {
        (Value::Number(least), Value::Number(most)) => format!("{name}, {least} to {most}"),
        _ => name.to_owned(),
    }
}

/// The words of an enum, with what each means.
fn variants(schema: &Value) -> Vec<(&str, &str)> {
    let plain = schema["enum"].as_array().into_iter().flatten();
    let plain = plain.filter_map(|word| Some((word.as_str()?, "")));
    let described = schema["oneOf"].as_array().into_iter().flatten();
    let described = described.flat_map(|one| {
        let meaning = one["description"].as_str().unwrap_or_default();
        let words = one["enum"].as_array().into_iter().flatten();
        let words = words.chain([&one["const"]]).filter_map(Value::as_str);
        words.map(move |word| (word, meaning))
    });
    plain.chain(described).collect()
}

fn meaning(property: &Value, inner: &Value) -> String {
    let own = property["description"].as_str();
    let text = own.or(inner["description"].as_str()).unwrap_or_default();
    let variants = variants(inner);
    let variants = variants.iter().filter(|(_, meaning)| !meaning.is_empty());
    let variants: String = variants
        .map(|(word, meaning)| format!(" `{word}`: {meaning}"))
        .collect();
    format!("{text}{variants}")
        .replace('\n', " ")
        .replace('|', "\\|")
}
