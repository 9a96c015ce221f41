//! The CRDs of the Gateway API, which clusters may have or not.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Cluster, script};

/// What the mesh reads and writes of it.
const DEFINITIONS: [&str; 4] = [
    "gateway.networking.k8s.io_httproutes.yaml",
    "gateway.networking.k8s.io_grpcroutes.yaml",
    "gateway.networking.k8s.io_tcproutes.yaml",
    "gateway.networking.x-k8s.io_xmeshes.yaml",
];

/// There until it is dropped, with every object of its kinds.
#[derive(Debug)]
pub struct GatewayApi {
    cluster: &'static Cluster,
    files: String,
}

impl GatewayApi {
    /// Gives them to the cluster, which has none.
    pub fn install(cluster: &'static Cluster) -> Result<Self> {
        let folder = script(&["gateway-api"])?;
        let files = DEFINITIONS.map(|name| Path::new(&folder).join(name).display().to_string());
        let api = Self {
            cluster,
            files: files.join(","),
        };
        // What `apply` would note of itself is larger than an annotation may be.
        cluster
            .kubectl(&["apply", "--server-side", "--filename", &api.files])
            .context("the CRDs of the Gateway API")?;
        cluster.kubectl(&[
            "wait",
            "--for",
            "condition=Established",
            "--timeout",
            "60s",
            "--filename",
            &api.files,
        ])?;
        Ok(api)
    }
}

impl Drop for GatewayApi {
    fn drop(&mut self) {
        let deleted =
            self.cluster
                .kubectl(&["delete", "--ignore-not-found", "--filename", &self.files]);
        if let Err(error) = deleted {
            eprintln!("the CRDs of the Gateway API are still there: {error:#}");
        }
    }
}
