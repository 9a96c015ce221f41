//! CRDs of others, which clusters may have or not.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Cluster, script};

/// What the mesh reads and writes of the Gateway API.
const GATEWAY_API: [&str; 4] = [
    "gateway.networking.k8s.io_httproutes.yaml",
    "gateway.networking.k8s.io_grpcroutes.yaml",
    "gateway.networking.k8s.io_tcproutes.yaml",
    "gateway.networking.x-k8s.io_xmeshes.yaml",
];

/// The CRDs of the Gateway API, as [`Definitions`] are.
#[derive(Debug)]
pub struct GatewayApi {
    _definitions: Definitions,
}

impl GatewayApi {
    /// Gives them to the cluster, which has none.
    pub fn install(cluster: &'static Cluster) -> Result<Self> {
        let definitions = Definitions::install(cluster, "gateway-api", &GATEWAY_API)?;
        Ok(Self {
            _definitions: definitions,
        })
    }
}

/// There until they are dropped, with every object of their kinds.
#[derive(Debug)]
pub(super) struct Definitions {
    cluster: &'static Cluster,
    whose: &'static str,
    files: String,
}

impl Definitions {
    /// `whose` is what `tests/kubernetes/cluster` calls the folder of the files.
    pub(super) fn install(
        cluster: &'static Cluster,
        whose: &'static str,
        names: &[&str],
    ) -> Result<Self> {
        let folder = script(&[whose])?;
        let path = |name: &&str| Path::new(&folder).join(name).display().to_string();
        let files: Vec<String> = names.iter().map(path).collect();
        let definitions = Self {
            cluster,
            whose,
            files: files.join(","),
        };
        let files = &definitions.files;
        // What `apply` would note of itself is larger than an annotation may be.
        cluster
            .kubectl(&["apply", "--server-side", "--filename", files])
            .with_context(|| format!("the CRDs of {whose}"))?;
        cluster.kubectl(&[
            "wait",
            "--for",
            "condition=Established",
            "--timeout",
            "60s",
            "--filename",
            files,
        ])?;
        Ok(definitions)
    }
}

impl Drop for Definitions {
    fn drop(&mut self) {
        let arguments = ["delete", "--ignore-not-found", "--filename", &self.files];
        if let Err(error) = self.cluster.kubectl(&arguments) {
            eprintln!("the CRDs of {} are still there: {error:#}", self.whose);
        }
    }
}
