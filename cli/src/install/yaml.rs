//! Objects as YAML documents, in an order that stays the same.

use serde_json::Value;

use super::InstallError;

/// One document for each object.
///
/// # Errors
/// An object cannot be written as YAML.
pub fn documents(objects: &[Value]) -> Result<String, InstallError> {
    let mut text = String::new();
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        let document = serde_saphyr::to_string(object)?;
        text.push_str(document.trim_end());
        text.push('\n');
    }
    Ok(text)
}
