//! Where figures come from: the sidecars that a directory describes on this machine, or those of a
//! cluster.

use std::path::{Path, PathBuf};

use crate::args::{ClusterArgs, ScopeArgs};
use crate::kubernetes::access::{Cluster, ClusterError};
use crate::kubernetes::pods::Scope;
use crate::kubernetes::sidecars;
use crate::mesh::plan::{Options, Placement, Plan};
use crate::policy;
use crate::telemetry::edges::Scrape;
use crate::telemetry::services::{self, Budgets};
use crate::telemetry::{self, Target};

/// See the module.
pub(super) enum Source {
    Directory {
        directory: PathBuf,
        targets: Vec<Target>,
        budgets: Budgets,
    },
    Cluster {
        cluster: Cluster,
        scope: Scope,
        /// Nobody reads the policy of the whole cluster for one column.
        budgets: Budgets,
    },
}

/// What all of them exposed at one moment.
pub(super) struct Scraped {
    pub(super) scrape: Scrape,
    /// Who did not answer, and why where that is known.
    pub(super) silent: Vec<(String, Option<String>)>,
}

impl Source {
    /// The problems of the directory, where it has some.
    pub(super) fn directory(directory: &Path) -> Result<Self, Vec<String>> {
        let mesh = policy::load(directory).map_err(|problems| {
            let problems = problems.iter();
            problems.map(ToString::to_string).collect::<Vec<_>>()
        })?;
        let options = Options {
            placement: Placement::Either,
            ..Options::default()
        };
        let plan = Plan::of(&mesh, directory, options);
        Ok(Self::Directory {
            directory: directory.to_owned(),
            targets: plan.workloads.iter().map(Target::of).collect(),
            budgets: services::budgets(&mesh),
        })
    }

    pub(super) async fn cluster(
        scope: &ScopeArgs,
        cluster: &ClusterArgs,
    ) -> Result<Self, ClusterError> {
        let cluster = Cluster::connect(cluster).await?;
        Ok(Self::Cluster {
            scope: Scope::of(scope, &cluster),
            cluster,
            budgets: Budgets::new(),
        })
    }

    /// Asks every sidecar that there is now.
    pub(super) async fn scrape(&self) -> Result<Scraped, ClusterError> {
        match self {
            Self::Directory { targets, .. } => {
                let scrape = telemetry::scrape(targets).await;
                let silent = targets.iter().map(|target| &target.workload);
                let silent = silent.filter(|name| !scrape.contains_key(*name));
                Ok(Scraped {
                    silent: silent.map(|name| (name.clone(), None)).collect(),
                    scrape,
                })
            }
            Self::Cluster { cluster, scope, .. } => {
                let (scrape, silent) = sidecars::scrape(cluster, scope).await?;
                let silent = silent.into_iter();
                Ok(Scraped {
                    silent: silent.map(|(name, why)| (name, Some(why))).collect(),
                    scrape,
                })
            }
        }
    }

    pub(super) fn budgets(&self) -> &Budgets {
        match self {
            Self::Directory { budgets, .. } | Self::Cluster { budgets, .. } => budgets,
        }
    }

    /// What is said when nobody answers.
    pub(super) fn nobody(&self, silent: &[(String, Option<String>)]) -> String {
        match (self, silent.first()) {
            (
                Self::Directory {
                    directory, targets, ..
                },
                _,
            ) => no_mesh(directory, targets),
            (Self::Cluster { .. }, Some((first, why))) => format!(
                "none of the {} sidecars answers; {}",
                silent.len(),
                why.as_deref().unwrap_or(first)
            ),
            (Self::Cluster { scope, .. }, None) => no_sidecar(scope),
        }
    }
}

/// There is none in this part of the cluster.
pub(crate) fn no_sidecar(scope: &Scope) -> String {
    match scope {
        Scope::Namespace(namespace) => format!(
            "no pod with a sidecar runs in the namespace {namespace}; -n names another, -A takes all"
        ),
        Scope::All => {
            "no pod with a sidecar runs in this cluster; `outrider check` says more".to_owned()
        }
    }
}

fn no_mesh(directory: &Path, targets: &[Target]) -> String {
    let directory = directory.display();
    match targets {
        [] => format!("{directory} describes no sidecar on this machine"),
        [first, ..] => format!(
            "no mesh runs from {directory}: none of its {} sidecars answers ({} at http://{}/metrics …); \
             start it with: outrider up {directory}",
            targets.len(),
            first.workload,
            first.address
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn target(workload: &str) -> Target {
        Target {
            workload: workload.to_owned(),
            identity: format!("spiffe://shop.example/ns/shop/sa/{workload}"),
            address: (Ipv4Addr::LOCALHOST, 18120).into(),
        }
    }

    #[test]
    fn a_mesh_that_does_not_run_is_one_clear_line() {
        let said = no_mesh(Path::new("mesh"), &[target("order-1"), target("user-1")]);
        assert_eq!(
            said,
            "no mesh runs from mesh: none of its 2 sidecars answers (order-1 at http://127.0.0.1:18120/metrics …); \
             start it with: outrider up mesh"
        );
        assert!(no_mesh(Path::new("mesh"), &[]).contains("no sidecar"));
    }

    #[test]
    fn a_namespace_without_sidecars_is_one_clear_line() {
        assert_eq!(
            no_sidecar(&Scope::Namespace("shop".to_owned())),
            "no pod with a sidecar runs in the namespace shop; -n names another, -A takes all"
        );
    }
}
