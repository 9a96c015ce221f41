//! `outrider install` and `outrider uninstall`: what the mesh is made of on Kubernetes, as typed
//! objects, printed as YAML for `kubectl`.
//!
//! One truth: `manifests/base` and `manifests/ha` are what is made here, and the Helm chart must render
//! the same; tests see to both. Nothing here talks to a cluster, except [`leftovers`], which looks for
//! what only a running mesh can have made.
//!
//! | module | owns |
//! |---|---|
//! | [`args`] | what can be typed |
//! | [`settings`] | what can be chosen, and the names that cannot |
//! | [`rbac`] | what the control plane may do |
//! | [`control_plane`], [`pod`] | its Deployment, Service and what keeps it available |
//! | [`webhooks`] | when the API server asks it |
//! | [`uninstall`], [`leftovers`] | what goes, and in which order |
//! | [`yaml`] | objects as documents |

mod args;
mod control_plane;
mod leftovers;
mod pod;
mod rbac;
pub mod settings;
mod uninstall;
mod webhooks;
pub mod yaml;

use std::process::ExitCode;

use outrider_api::crd::CrdError;
use serde::Serialize;
use serde_json::Value;

pub use args::{Crds, InstallArgs, UninstallArgs};
use settings::Settings;
pub use uninstall::removed;

use crate::output;

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Crd(#[from] CrdError),
    #[error("cannot write an object as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot write an object as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
    #[error(
        "cannot ask the cluster what the mesh has made there: {0}; with --offline, what `outrider \
         install` made is printed, without it"
    )]
    Cluster(Box<dyn std::error::Error + Send + Sync>),
}

/// The objects, by the file of `manifests` that they are in.
#[derive(Debug, Default)]
pub struct Objects {
    pub crds: Vec<Value>,
    pub namespace: Vec<Value>,
    pub rbac: Vec<Value>,
    pub control_plane: Vec<Value>,
    pub webhooks: Vec<Value>,
}

impl Objects {
    /// Everything that the settings ask for.
    ///
    /// # Errors
    /// An object cannot be written as JSON; none of ours is such.
    pub fn new(settings: &Settings) -> Result<Self, InstallError> {
        let mut objects = Self::default();
        for definition in outrider_api::crd::all()? {
            objects.crds.push(value(&definition)?);
        }
        objects.namespace.push(value(&control_plane::namespace())?);
        objects.rbac = rbac::objects(settings)?;
        objects.control_plane = control_plane::objects(settings)?;
        objects.webhooks = webhooks::objects()?;
        Ok(objects)
    }

    /// In the order in which they are applied: what others need comes first.
    pub fn in_order(self, crds: Crds) -> Vec<Value> {
        let (definitions, rest) = match crds {
            Crds::Include => (true, true),
            Crds::None => (false, true),
            Crds::Only => (true, false),
        };
        let definitions = definitions.then_some(self.crds);
        let rest = rest.then_some([self.namespace, self.rbac, self.control_plane, self.webhooks]);
        let rest = rest.into_iter().flatten().flatten();
        definitions.into_iter().flatten().chain(rest).collect()
    }
}

/// `outrider install`: YAML to standard output, what to do with it to standard error.
///
/// # Errors
/// See [`InstallError`].
pub fn run(args: &InstallArgs) -> Result<ExitCode, InstallError> {
    let settings = args.settings();
    let objects = Objects::new(&settings)?.in_order(args.crds);
    output::text(&yaml::documents(&objects)?);
    if !output::is_terminal() {
        return Ok(ExitCode::SUCCESS);
    }
    output::note(format_args!(
        "outrider: {} objects; apply them with: outrider install | kubectl apply -f -",
        objects.len()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `outrider uninstall`: what to delete, in order.
///
/// # Errors
/// See [`InstallError`].
pub async fn run_uninstall(args: &UninstallArgs) -> Result<ExitCode, InstallError> {
    let found = if args.offline {
        leftovers::Found::default()
    } else {
        let found = leftovers::find(&args.cluster).await;
        found.map_err(|error| InstallError::Cluster(Box::new(error)))?
    };
    if let Some(note) = found.note() {
        output::note(format_args!("outrider: {note}"));
    }
    let objects = removed(found.objects)?;
    output::text(&yaml::documents(&objects)?);
    Ok(ExitCode::SUCCESS)
}

fn value(object: &impl Serialize) -> Result<Value, InstallError> {
    let mut value = serde_json::to_value(object)?;
    whole(&mut value);
    Ok(value)
}

/// Bounds of schemas are floating point to Kubernetes: those that are whole are written as people do.
fn whole(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(whole),
        Value::Array(list) => list.iter_mut().for_each(whole),
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            // Up to there, every whole number is one.
            let exact = float.filter(|float| float.fract() == 0.0 && float.abs() < 2e15);
            if let Some(float) = exact {
                #[allow(clippy::cast_possible_truncation)]
                let integer = float as i64;
                *value = integer.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
