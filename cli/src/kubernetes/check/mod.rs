//! `outrider check`: whether a cluster can have a mesh (`--pre`), and whether all is well with the one
//! that it has. Each finding comes with what to do about it. Changes nothing.
//!
//! - [`server`], [`permissions`]: before installing.
//! - [`installed`]: CRDs, the Deployment, the Lease.
//! - [`replicas`]: what the control plane's pods say of themselves.
//! - [`certificates`], [`webhooks`]: who is trusted, and whether admission works.
//! - [`pods`]: who has no sidecar, and whose is not as it should be.
//! - [`handshake`]: the certificate that the webhook shows.
//! - [`clock`]: what a wrong clock means.

mod certificates;
mod clock;
mod finding;
mod handshake;
mod installed;
mod permissions;
mod pods;
mod replicas;
mod server;
mod webhooks;

use std::process::ExitCode;

use self::finding::{Finding, Report};
use self::server::Server;
use super::access::{Cluster, ClusterError};
use super::pods::Scope;
use crate::args::CheckClusterArgs;

pub(crate) async fn run(args: CheckClusterArgs) -> anyhow::Result<ExitCode> {
    let findings = match look(&args).await {
        Ok(findings) => findings,
        // Nothing can be asked: that is a finding, too, for whoever reads JSON.
        Err(error) => vec![Finding::error(
            "api-server",
            &error,
            "mend the way to the cluster, then check again",
        )],
    };
    let report = Report::of(findings);
    report.print(args.output);
    Ok(report.exit())
}

async fn look(args: &CheckClusterArgs) -> Result<Vec<Finding>, ClusterError> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let Server {
        minor,
        skew,
        mut findings,
    } = server::look(&cluster).await?;
    findings.push(server::sidecars(minor));
    findings.extend(server::gateway_api(&cluster).await);
    if args.pre {
        findings.extend(permissions::look(&cluster).await);
        findings.push(installed::none_yet(&cluster).await);
        return Ok(findings);
    }
    let control_plane = installed::look(&cluster).await;
    findings.extend(control_plane.findings);
    let Some(expected) = control_plane.version else {
        // Without a control plane everything else would only say so again.
        return Ok(findings);
    };
    let authorities = certificates::authorities(&cluster).await;
    findings.extend(authorities.findings);
    findings.extend(webhooks::look(&cluster, &authorities.certificates).await);
    let replicas = replicas::look(&cluster, skew).await;
    findings.extend(replicas.findings);
    let scope = match &args.namespace {
        Some(namespace) => Scope::Namespace(namespace.clone()),
        None => Scope::All,
    };
    findings.extend(pods::look(&cluster, &scope, &replicas.fleet, &expected, args.proxy).await);
    Ok(findings)
}
