//! Which pods are to have a sidecar: the namespace says, and the pod may say otherwise.

use outrider_api::annotations::INJECT;

/// What a namespace says by its label [`INJECT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamespaceChoice {
    /// `enabled`: its pods get one, unless they say otherwise.
    Enabled,
    /// Nothing that is known: those of its pods that ask get one.
    Silent,
    /// `disabled`: none gets one.
    Disabled,
}

impl NamespaceChoice {
    /// By the labels of the namespace.
    pub fn of<'l>(labels: impl IntoIterator<Item = (&'l str, &'l str)>) -> Self {
        let label = labels.into_iter().find(|(key, _)| *key == INJECT);
        match label.map(|(_, value)| value) {
            Some("enabled") => Self::Enabled,
            Some("disabled") => Self::Disabled,
            _ => Self::Silent,
        }
    }
}

/// Whether a pod is to have a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    Yes,
    No,
    /// Its label says neither: it is refused.
    Unclear,
}

/// The table of [`docs/reference/annotations.md`], which the selectors of the webhook write down for the
/// API server. `pod` is the value of its label [`INJECT`].
#[must_use]
pub fn wanted(namespace: NamespaceChoice, pod: Option<&str>) -> Wanted {
    match (namespace, pod) {
        (NamespaceChoice::Disabled, _) | (NamespaceChoice::Silent, None) => Wanted::No,
        (NamespaceChoice::Enabled, None) => Wanted::Yes,
        (NamespaceChoice::Enabled | NamespaceChoice::Silent, Some(label)) => match label {
            "true" => Wanted::Yes,
            "false" => Wanted::No,
            _ => Wanted::Unclear,
        },
    }
}
