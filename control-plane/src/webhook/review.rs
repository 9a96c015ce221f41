//! What the API server asks and is answered: AdmissionReview of `admission.k8s.io/v1`. Bytes in, bytes
//! out; whoever sends them may be anybody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// What the API server shows of one warning, characters.
const WARNING_MAX: usize = 256;
/// What it takes of all of them.
const WARNINGS_MAX: usize = 12;
/// Longer messages help nobody.
const MESSAGE_MAX: usize = 4096;
/// The request cannot be carried out as it is written (RFC 9110 §15.5.21).
const UNPROCESSABLE: u16 = 422;

/// Why a review cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error("the body is no AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{api_version} {kind} is not understood, expected {API_VERSION} {KIND}")]
    Version { api_version: String, kind: String },
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// What is to be done, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub uid: String,
    pub kind: Kind,
    /// Empty where the server is to make a name.
    #[serde(default, deserialize_with = "or_empty")]
    pub name: String,
    /// Empty of objects that are in none.
    #[serde(default, deserialize_with = "or_empty")]
    pub namespace: String,
    pub operation: Operation,
    #[serde(default)]
    pub object: Value,
    #[serde(default)]
    pub old_object: Value,
    #[serde(default)]
    pub dry_run: Option<bool>,
}

fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Not looked into before the version is known.
    #[serde(default)]
    request: Value,
}

impl Request {
    /// Reads a body.
    ///
    /// # Errors
    /// It is no review that is understood.
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let asked: Asked = serde_json::from_slice(body)?;
        if asked.api_version != API_VERSION || asked.kind != KIND {
            return Err(ReviewError::Version {
                api_version: asked.api_version.chars().take(64).collect(),
                kind: asked.kind.chars().take(64).collect(),
            });
        }
        if asked.request.is_null() {
            return Err(ReviewError::NoRequest);
        }
        Ok(serde_json::from_value(asked.request)?)
    }
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Why the object is refused; `None`: it is not.
    pub refusal: Option<String>,
    pub patch: Option<Patch>,
    pub warnings: Vec<String>,
}

impl Answer {
    pub fn allowed() -> Self {
        Self::default()
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            refusal: Some(message.into()),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn warning(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }

    /// The body that answers the request `uid`.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn write(self, uid: &str) -> Result<Vec<u8>, serde_json::Error> {
        let patch = match self.patch {
            Some(patch) => Some(STANDARD.encode(serde_json::to_vec(&patch)?)),
            None => None,
        };
        let warnings = self.warnings.iter().take(WARNINGS_MAX);
        let response = Response {
            uid,
            allowed: self.refusal.is_none(),
            status: self.refusal.map(|message| Status {
                code: UNPROCESSABLE,
                message: printable(&message, MESSAGE_MAX),
                reason: "Invalid",
            }),
            patch_type: patch.as_ref().map(|_| "JSONPatch"),
            patch,
            warnings: warnings.map(|it| printable(it, WARNING_MAX)).collect(),
        };
        serde_json::to_vec(&Written {
            api_version: API_VERSION,
            kind: KIND,
            response,
        })
    }
}

/// On one line, and no longer than `most` characters.
fn printable(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().map(clean).take(most).collect();
    if text.chars().nth(most).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'w> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'w>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'w> {
    uid: &'w str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    message: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review() -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u-1",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": "shop",
                "operation": "CREATE",
                "userInfo": {"username": "somebody"},
                "object": {"spec": {}},
                "oldObject": null,
                "dryRun": false,
                "options": {"kind": "CreateOptions"},
            },
        })
    }

    fn read(review: &Value) -> Result<Request, String> {
        Request::read(review.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    fn written(answer: Answer) -> Value {
        serde_json::from_slice(&answer.write("u-1").unwrap()).unwrap()
    }

    #[test]
    fn a_review_is_read() {
        let request = read(&review()).unwrap();
        assert_eq!(
            (request.uid.as_str(), request.namespace.as_str()),
            ("u-1", "shop")
        );
        assert_eq!(request.operation, Operation::Create);
        assert_eq!((request.name.as_str(), request.dry_run), ("", Some(false)));
    }

    #[test]
    fn only_the_version_that_is_understood_is_read() {
        for (field, value) in [
            ("apiVersion", json!("admission.k8s.io/v1beta1")),
            ("apiVersion", json!("")),
            ("kind", json!("Pod")),
        ] {
            let mut review = review();
            review[field] = value;
            let error = read(&review).unwrap_err();
            assert!(
                error.contains("expected admission.k8s.io/v1 AdmissionReview"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_review_is_refused() {
        let mut no_request = review();
        no_request["request"] = Value::Null;
        assert_eq!(
            read(&no_request).unwrap_err(),
            "the AdmissionReview has no request"
        );
        for field in ["uid", "kind", "operation"] {
            let mut review = review();
            review["request"].as_object_mut().unwrap().remove(field);
            assert!(read(&review).unwrap_err().contains(field), "{field}");
        }
        let deep = "[".repeat(100_000);
        for body in ["", "null", "[]", "{}", "{", "\u{feff}{}", &deep] {
            assert!(Request::read(body.as_bytes()).is_err());
        }
        assert!(Request::read(b"\xff\xfe{}").is_err());
    }

    #[test]
    fn what_is_allowed_says_no_more() {
        let expected = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": "u-1", "allowed": true},
        });
        assert_eq!(written(Answer::allowed()), expected);
    }

    #[test]
    fn a_patch_is_base64_of_json() {
        let patch: Patch =
            serde_json::from_value(json!([{"op": "add", "path": "/a", "value": 1}])).unwrap();
        let answer = Answer {
            patch: Some(patch.clone()),
            ..Answer::allowed()
        };
        let response = &written(answer)["response"];
        assert_eq!(response["patchType"], "JSONPatch");
        let bytes = STANDARD
            .decode(response["patch"].as_str().unwrap())
            .unwrap();
        assert_eq!(serde_json::from_slice::<Patch>(&bytes).unwrap(), patch);
    }

    #[test]
    fn a_refusal_says_why_on_one_line() {
        let answer = Answer::refused("spec.rules\nis wrong").warning("x".repeat(300));
        let response = &written(answer)["response"];
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["message"], "spec.rules is wrong");
        assert_eq!(response["status"]["code"], 422);
        let warning = response["warnings"][0].as_str().unwrap();
        assert_eq!(warning.chars().count(), WARNING_MAX);
        assert!(warning.ends_with('…'));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = Request::read(&body);
        }
    }
}
