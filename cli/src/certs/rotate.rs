//! `outrider certs rotate`: marks the authority's Secret; the control plane does the rest, in steps
//! that break no connection.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{authorities, time};
use crate::REFUSED;
use crate::args::RotateArgs;
use crate::kubernetes::access::{Cluster, ClusterError};
use crate::kubernetes::names::{CA_SECRET, ROTATE, SYSTEM, TRUST_BUNDLE, TRUST_BUNDLE_KEY};
use crate::output;

/// How often the bundle is looked at.
const POLL: Duration = Duration::from_secs(2);

pub(super) async fn run(args: &RotateArgs) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let before = serials(&cluster).await?;
    ask(&cluster, &Timestamp::now().to_string()).await?;
    output::line(
        "asked for a new authority: it is trusted first, then it signs, then the old one is forgotten",
    );
    let Some(limit) = args.wait else {
        output::line("see it with: outrider certs -A");
        return Ok(ExitCode::SUCCESS);
    };
    let deadline = Instant::now() + limit;
    let mut said = Step::Asked;
    loop {
        let now = Step::of(&before, &serials(&cluster).await?);
        if now != said {
            output::line(now.said());
            said = now;
        }
        if now == Step::Done {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= deadline {
            output::note(format_args!(
                "not done within {}: {}; the old authority is trusted as long as certificates of it are valid",
                time::span(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)),
                now.said()
            ));
            return Ok(ExitCode::from(REFUSED));
        }
        sleep(POLL).await;
    }
}

async fn ask(cluster: &Cluster, value: &str) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let mark = json!({"metadata": {"annotations": {ROTATE: value}}});
    // The answer is the metadata alone: the key has no business here.
    let (params, patch) = (PatchParams::default(), Patch::Merge(&mark));
    let marked = secrets.patch_metadata(CA_SECRET, &params, &patch).await;
    match marked.map_err(|error| cluster.failed(error)) {
        Err(ClusterError::NotFound(missing)) => bail!(
            "not found: {missing}: if the authority is kept elsewhere (--ca-secret), renew it there, and the \
             mesh follows; with cert-manager: cmctl renew -n {SYSTEM} NAME-OF-ITS-CERTIFICATE"
        ),
        marked => Ok(marked.map(drop)?),
    }
}

/// The authorities that are trusted now.
async fn serials(cluster: &Cluster) -> Result<BTreeSet<String>, ClusterError> {
    let bundles: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let bundle = bundles.get(TRUST_BUNDLE).await;
    let bundle = bundle.map_err(|error| cluster.failed(error))?;
    let text = bundle.data.unwrap_or_default().remove(TRUST_BUNDLE_KEY);
    let now = time::unix(SystemTime::now());
    let read = authorities::read(text.unwrap_or_default().as_bytes(), now);
    let read = read.map_err(|error| ClusterError::Unexpected {
        server: format!("the ConfigMap {SYSTEM}/{TRUST_BUNDLE}"),
        cause: error,
    })?;
    Ok(read.into_iter().map(|authority| authority.serial).collect())
}

/// How far a rotation is, as the trust bundle shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Asked,
    /// Old and new are trusted.
    Both,
    /// None of the old ones is trusted.
    Done,
}

impl Step {
    fn of(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Self {
        let new = now.difference(before).count() > 0;
        let old = now.intersection(before).count() > 0;
        match (old, new) {
            (_, false) => Self::Asked,
            (true, true) => Self::Both,
            (false, true) => Self::Done,
        }
    }

    fn said(self) -> &'static str {
        match self {
            Self::Asked => {
                "the control plane has not made it yet (it does not where the authority is kept elsewhere, by --ca-secret)"
            }
            Self::Both => "the new authority is trusted beside the old one",
            Self::Done => "the new authority is the only one that is trusted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_shows_how_far_it_is() {
        let of = |before: &[&str], now: &[&str]| {
            let set = |serials: &[&str]| serials.iter().map(|one| (*one).to_owned()).collect();
            Step::of(&set(before), &set(now))
        };
        assert_eq!(of(&["1"], &["1"]), Step::Asked);
        assert_eq!(of(&["1"], &["1", "2"]), Step::Both);
        assert_eq!(of(&["1"], &["2"]), Step::Done);
    }
}
