//! YAML with several documents: those that get a sidecar are written anew, the others stay byte for
//! byte.

use outrider_control_plane::inject::Settings;
use outrider_control_plane::inject::template::{Refused, Report, inject_object};
use serde_json::Value;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("line {line}: not YAML: {message}")]
    Yaml { line: usize, message: String },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("cannot write YAML: {0}")]
    Write(#[from] serde_saphyr::ser::Error),
}

/// The documents of `text`, with sidecars.
pub(super) fn inject(
    text: &str,
    namespace: &str,
    settings: &Settings,
    report: &mut Report,
) -> Result<String, DocumentError> {
    let mut written = String::with_capacity(text.len());
    for document in split(text) {
        let before = report.injected.len();
        let mut object = document.read()?;
        inject_object(&mut object, namespace, settings, report)?;
        if report.injected.len() == before {
            written.push_str(document.text);
            continue;
        }
        if document.has_separator() {
            written.push_str("---\n");
        }
        written.push_str(&serde_saphyr::to_string(&object)?);
        if !written.ends_with('\n') {
            written.push('\n');
        }
    }
    Ok(written)
}

/// A document, from its `---` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Document<'t> {
    text: &'t str,
    /// Its first line in the file, from 1 on.
    line: usize,
}

/// A line that begins with `---` begins a document, wherever it is: nothing may contain one (YAML 1.2.2,
/// §9.1.2, `c-forbidden`).
fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first) = (0, 1);
    let mut position = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) && position > start {
            documents.push(Document {
                text: &text[start..position],
                line: first,
            });
            (start, first) = (position, index + 1);
        }
        position += line.len();
    }
    documents.push(Document {
        text: &text[start..],
        line: first,
    });
    documents
}

fn is_separator(line: &str) -> bool {
    let rest = line.strip_prefix("---");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

impl Document<'_> {
    fn has_separator(&self) -> bool {
        is_separator(self.text)
    }

    /// Comments and directives alone are nothing.
    fn is_empty(&self) -> bool {
        let mut lines = self.text.lines().map(str::trim);
        lines.all(|line| line.is_empty() || line.starts_with(['#', '%']) || line == "---")
    }

    /// As `kubectl` reads it, which knows YAML 1.1: `0644` is octal, and `yes` is true.
    fn read(&self) -> Result<Value, DocumentError> {
        if self.is_empty() {
            return Ok(Value::Null);
        }
        let options = serde_saphyr::options! {
            legacy_octal_numbers: true,
            strict_booleans: false,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(self.text, options).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            DocumentError::Yaml {
                line: self.line + usize::try_from(line).unwrap_or(1).saturating_sub(1),
                message: error.without_snippet().to_string(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use outrider_api::annotations::SidecarKind;
    use outrider_control_plane::inject;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn settings() -> Settings {
        Settings {
            image: "outrider-proxy:1".to_owned(),
            image_pull_policy: None,
            control_plane: Settings::default_control_plane("outrider-system"),
            trust_domain: "shop.example".parse().unwrap(),
            namespace: "outrider-system".to_owned(),
            sidecar: SidecarKind::Native,
        }
    }

    fn run(text: &str) -> Result<String, String> {
        let mut report = Report::default();
        super::inject(text, "shop", &settings(), &mut report).map_err(|error| error.to_string())
    }

    const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: order}  # a comment
spec:
  containers:
  - name: order
    image: order:1
    command: ['sh', \"-c\", yes, 'yes', '0644', \"1e3\", 'null']
    env:
    - {name: MODE, value: \"on\"}
    - name: SCRIPT
      value: |
        #!/bin/sh
        echo \"--- $HOME\"
  volumes:
  - {name: data, secret: {secretName: x, defaultMode: 0644}}
";
    const SERVICE: &str = "apiVersion: v1
kind: Service   # stays
metadata:
    name:   'order'
";

    #[test]
    fn a_pod_is_what_the_webhook_makes_of_it() {
        let written = run(POD).unwrap();
        let after: Value = serde_saphyr::from_str(&written).unwrap();
        let before = Document { text: POD, line: 1 }.read().unwrap();
        let inject::Outcome::Injected { patch, .. } =
            inject::inject(&before, "shop", &settings()).unwrap()
        else {
            panic!("left");
        };
        let mut expected = before;
        inject::apply(&mut expected, &patch).unwrap();
        assert_eq!(after, expected);
    }

    #[test]
    fn yaml_means_what_it_means_to_kubectl() {
        let written = run(POD).unwrap();
        let after: Value = serde_saphyr::from_str(&written).unwrap();
        assert_eq!(after["spec"]["volumes"][0]["secret"]["defaultMode"], 0o644);
        let app = &after["spec"]["containers"][0];
        assert_eq!(
            app["command"],
            json!(["sh", "-c", true, "yes", "0644", "1e3", "null"])
        );
        assert_eq!(app["env"][0]["value"], "on");
        assert_eq!(app["env"][1]["value"], "#!/bin/sh\necho \"--- $HOME\"\n");
        // To readers of YAML 1.1, too.
        for text in ["\"yes\"", "\"0644\"", "\"on\"", "\"null\""] {
            let single = text.replace('"', "'");
            assert!(
                written.contains(text) || written.contains(&single),
                "{text}: {written}"
            );
        }
    }

    #[test]
    fn other_documents_stay_byte_for_byte() {
        let text = format!("# head\n---\n{SERVICE}---\n{POD}--- # tail\n{SERVICE}");
        let written = run(&text).unwrap();
        assert!(
            written.starts_with(&format!("# head\n---\n{SERVICE}---\n")),
            "{written}"
        );
        assert!(
            written.ends_with(&format!("--- # tail\n{SERVICE}")),
            "{written}"
        );
        assert_eq!(written.matches("name: outrider-proxy").count(), 1);
        for text in [
            SERVICE,
            "",
            "\n",
            "# nothing\n",
            "---\n",
            "%YAML 1.2\n---\na: 1\n",
            "a: 1",
            "[1, 2]\n",
        ] {
            assert_eq!(run(text).unwrap(), text);
        }
    }

    #[test]
    fn twice_is_as_good_as_once() {
        let once = run(&format!("---\n{POD}---\n{SERVICE}")).unwrap();
        assert_eq!(run(&once).unwrap(), once);
    }

    #[test]
    fn json_is_yaml() {
        let pod = Document { text: POD, line: 1 }.read().unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [pod]});
        let written = run(&list.to_string()).unwrap();
        let after: Value = serde_saphyr::from_str(&written).unwrap();
        let alone: Value = serde_saphyr::from_str(&run(POD).unwrap()).unwrap();
        assert_eq!(after["items"][0], alone);
    }

    #[test]
    fn what_cannot_be_read_or_done_is_told_with_its_place() {
        let error = run(&format!("{SERVICE}---\na: b: c\n")).unwrap_err();
        assert!(error.starts_with("line 6: not YAML: "), "{error}");
        let wrong = POD.replace(
            "{name: order}",
            "{name: order, annotations: {outrider.mesh/mtls: strict}}",
        );
        let error = run(&wrong).unwrap_err();
        assert!(
            error.starts_with("Pod/order: annotation outrider.mesh/mtls: \"strict\""),
            "{error}"
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            "[ -~\n\t]{0,20}".prop_map(Value::from),
            prop_oneof![
                "yes",
                "off",
                "0o7",
                "0777",
                "1:30",
                "~",
                "2001-01-01",
                "=",
                "<<",
                ".inf",
                "1_0",
                "- a",
                "a: b",
                "#"
            ]
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::btree_map("[a-z./-]{1,8}", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        /// What is written is read back: nothing of a pod changes on the way.
        #[test]
        fn nothing_is_lost_in_yaml(value in value()) {
            let document = json!({"a": value});
            let text = serde_saphyr::to_string(&document).unwrap();
            let read = Document { text: &text, line: 1 }.read().unwrap();
            prop_assert_eq!(read, document, "{}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(---|\n|[a-z:# {}\\[\\]\"'&*|>-]){0,60}") {
            let _ = run(&text);
        }
    }
}
