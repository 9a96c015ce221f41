//! Lists them, from a cluster or from a mesh on this machine.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::Serialize;

use super::authorities::{self, Authority};
use super::time;
use crate::args::CertsListArgs;
use crate::fetch;
use crate::kubernetes::access::{Cluster, ClusterError};
use crate::kubernetes::many::ask_each;
use crate::kubernetes::names::{SYSTEM, TRUST_BUNDLE, TRUST_BUNDLE_KEY};
use crate::kubernetes::pods::{self, Scope};
use crate::kubernetes::sidecars::{self, Known};
use crate::mesh::plan::{Options, Placement, Plan, WorkloadPlan};
use crate::output::{self, Format, Table};
use crate::{REFUSED, policy, stat};

/// How long a sidecar on this machine may take.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// The certificate of one sidecar.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    workload: String,
    identity: String,
    /// Seconds since 1970.
    not_before: i64,
    /// Seconds since 1970.
    not_after: i64,
    seconds_left: i64,
    /// How many certificates this sidecar has had.
    generation: u64,
}

/// Everything that is printed.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    certificates: Vec<Row>,
    authorities: Vec<Authority>,
    /// What could not be had: of whom, and why.
    missing: Vec<String>,
}

pub(super) async fn run(args: &CertsListArgs) -> anyhow::Result<ExitCode> {
    let listing = match &args.directory {
        Some(directory) => match of_directory(directory, args).await {
            Ok(listing) => listing,
            Err(problems) => {
                problems.iter().for_each(output::note);
                return Ok(ExitCode::from(REFUSED));
            }
        },
        None => of_cluster(args).await?,
    };
    listing.print(args.output);
    Ok(match listing.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(REFUSED),
    })
}

async fn of_cluster(args: &CertsListArgs) -> Result<Listing, ClusterError> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let scope = Scope::of(&args.scope, &cluster);
    let sidecars = pods::sidecars(&cluster, &scope).await?;
    let mut listing = Listing::default();
    if sidecars.is_empty() {
        listing.missing.push(stat::no_sidecar(&scope));
    }
    let cluster = &cluster;
    let answers = ask_each("sidecars", sidecars, |sidecar| async move {
        let answer = sidecars::ask(cluster, &sidecar).await;
        (sidecar.name(), answer.map(|(known, _)| known))
    })
    .await;
    let now = time::unix(SystemTime::now());
    for (name, answer) in answers {
        listing.add(name, answer, now);
    }
    let bundles: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), SYSTEM);
    match bundles.get(TRUST_BUNDLE).await {
        Ok(bundle) => {
            let text = bundle.data.unwrap_or_default().remove(TRUST_BUNDLE_KEY);
            listing.trust(text.unwrap_or_default().as_bytes(), now);
        }
        Err(error) => {
            let error = cluster.failed(error);
            listing.missing.push(format!("the authorities: {error}"));
        }
    }
    listing.sort();
    Ok(listing)
}

async fn of_directory(directory: &Path, args: &CertsListArgs) -> Result<Listing, Vec<String>> {
    let mesh = policy::load(directory)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let options = Options {
        placement: Placement::Either,
        state_dir: args.state_dir.clone(),
        ..Options::default()
    };
    let plan = Plan::of(&mesh, directory, options);
    let answers = join_all(plan.workloads.iter().map(ask)).await;
    let now = time::unix(SystemTime::now());
    let mut listing = Listing::default();
    for (name, answer) in answers {
        listing.add(name, answer, now);
    }
    let authority = plan.state_dir.join("ca.crt");
    match tokio::fs::read(&authority).await {
        Ok(text) => listing.trust(&text, now),
        Err(error) => {
            let file = authority.display();
            listing
                .missing
                .push(format!("the authority: {file}: {error}"));
        }
    }
    listing.sort();
    Ok(listing)
}

async fn ask(workload: &WorkloadPlan) -> (String, Result<Known, String>) {
    let door = workload.door(workload.admin());
    let answer = match fetch::get_from(&door, "/config", LIMIT).await {
        Ok((status, body)) if status.is_success() => Known::parse(&body),
        Ok((status, _)) => Err(format!("it answers {status}")),
        Err(error) => Err(error.to_string()),
    };
    let label = workload.label.clone();
    let answer = answer.map_err(|reason| format!("{label}: {reason}"));
    (label, answer)
}

impl Listing {
    fn add(&mut self, workload: String, answer: Result<Known, String>, now: i64) {
        let certificate = answer.map(|known| known.certificate);
        match certificate {
            Ok(Some(certificate)) => self.certificates.push(Row {
                workload,
                identity: certificate.id,
                not_before: certificate.not_before,
                not_after: certificate.not_after,
                seconds_left: certificate.not_after.saturating_sub(now),
                generation: certificate.generation,
            }),
            Ok(None) => self
                .missing
                .push(format!("{workload}: it has no certificate yet")),
            Err(reason) => self.missing.push(reason),
        }
    }

    fn trust(&mut self, bundle: &[u8], now: i64) {
        match authorities::read(bundle, now) {
            Ok(authorities) => self.authorities = authorities,
            Err(error) => self.missing.push(format!("the authorities: {error}")),
        }
    }

    fn sort(&mut self) {
        self.certificates.sort();
        self.missing.sort();
    }

    fn is_good(&self) -> bool {
        let lasts = |left: i64| left > 0;
        self.missing.is_empty()
            && self.certificates.iter().all(|row| lasts(row.seconds_left))
            && self.authorities.iter().any(|one| lasts(one.seconds_left))
    }

    fn sidecars(&self) -> Table {
        let mut table = Table::new(["WORKLOAD", "IDENTITY", "EXPIRES", "LEFT", "NUMBER"]);
        for row in &self.certificates {
            table.row([
                row.workload.clone(),
                row.identity.clone(),
                time::moment(row.not_after),
                time::left(row.seconds_left),
                row.generation.to_string(),
            ]);
        }
        table
    }

    fn print(&self, format: Format) {
        if format == Format::Json {
            output::json(self);
            return;
        }
        if !self.certificates.is_empty() {
            output::line(self.sidecars());
            output::line("");
        }
        if !self.authorities.is_empty() {
            let mut table = Table::new(["AUTHORITY", "SERIAL", "EXPIRES", "LEFT"]);
            self.authorities.iter().for_each(|one| table.row(one.row()));
            output::line(table);
        }
        self.missing.iter().for_each(output::note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::sidecars::Certificate;

    fn known(not_after: i64) -> Result<Known, String> {
        Ok(Known {
            seconds_since_control_plane: Some(0),
            certificate: Some(Certificate {
                id: "spiffe://a/ns/b/sa/c".to_owned(),
                not_before: 0,
                not_after,
                generation: 1,
            }),
        })
    }

    fn trusted(seconds_left: i64) -> Authority {
        Authority {
            subject: "CN=outrider".to_owned(),
            serial: "1".to_owned(),
            not_before: 0,
            not_after: 100 + seconds_left,
            seconds_left,
        }
    }

    #[test]
    fn good_is_what_lasts() {
        let mut listing = Listing {
            authorities: vec![trusted(-1), trusted(1)],
            ..Listing::default()
        };
        listing.add("b/c-1".to_owned(), known(160), 100);
        assert_eq!(listing.certificates[0].seconds_left, 60);
        assert!(listing.is_good());
        listing.add("b/c-2".to_owned(), known(100), 100);
        assert!(!listing.is_good());
    }

    #[test]
    fn who_does_not_answer_is_named() {
        let mut listing = Listing {
            authorities: vec![trusted(1)],
            ..Listing::default()
        };
        listing.add(
            "b/c-1".to_owned(),
            Err("b/c-1:15000 answers 503".to_owned()),
            0,
        );
        assert_eq!(listing.missing, ["b/c-1:15000 answers 503"]);
        assert!(!listing.is_good());
    }
}
