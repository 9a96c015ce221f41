//! What a cluster holds, read once and by the same watches: for whoever asks what the control plane
//! makes of it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use outrider_api::manifest::{Object, Problem};
use tokio::sync::watch;
use tokio::time::timeout;

use super::degrade::degrade;
use super::kinds::Kind;
use super::{Context, Source};
use crate::admin::Readiness;
use crate::index::Mesh;
use crate::metrics::Metrics;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server refuses, or is not there.
    #[error("{kind}: {error}")]
    Client {
        /// What was asked for.
        kind: &'static str,
        /// What it answered.
        error: kube::Error,
    },
    /// Two metrics share a name: a mistake of this crate.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// It takes too long.
    #[error("not all of the cluster was read within {0:?}; {1}")]
    Timeout(Duration, String),
    /// There are objects from which no mesh can be made.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
}

/// A mesh as the control plane in `namespace` would serve it, and the objects that it is made of.
#[derive(Debug)]
pub struct Reading {
    /// All that could be read.
    pub objects: Vec<Object>,
    /// With what refuses in place of what is bad.
    pub mesh: Mesh,
}

/// Reads all of it within `limit`.
///
/// # Errors
/// See [`ReadError`].
pub async fn read(client: Client, namespace: &str, limit: Duration) -> Result<Reading, ReadError> {
    // A watch would try for ever what is forbidden.
    for kind in Kind::ALL {
        may_list(&client, kind).await?;
    }
    let context = Context {
        client,
        namespace: namespace.to_owned(),
        metrics: Metrics::new()?,
        // What the control plane was told by its command line, this program was not.
        trust_domain: None,
    };
    let (readiness, ready) = watch::channel(Readiness::Ready);
    let (mut source, view) = Source::new(context, readiness);
    if timeout(limit, source.next()).await.is_err() {
        let missing = match &*ready.borrow() {
            Readiness::Ready => String::new(),
            Readiness::NotReady(reason) => reason.clone(),
        };
        return Err(ReadError::Timeout(limit, missing));
    }
    let held = view.held.borrow().clone();
    let Some(held) = held else {
        return Err(ReadError::Timeout(limit, String::new()));
    };
    let mesh = degrade(&held, None).mesh;
    Ok(Reading {
        objects: held.entries.objects().cloned().collect(),
        mesh: mesh.map_err(ReadError::Problems)?,
    })
}

async fn may_list(client: &Client, kind: Kind) -> Result<(), ReadError> {
    let own = |resource: ApiResource| vec![resource];
    let resources = match kind {
        Kind::Pod => own(ApiResource::erase::<Pod>(&())),
        Kind::Service => own(ApiResource::erase::<Service>(&())),
        Kind::EndpointSlice => own(ApiResource::erase::<EndpointSlice>(&())),
        Kind::Namespace => own(ApiResource::erase::<Namespace>(&())),
        Kind::Node => own(ApiResource::erase::<Node>(&())),
        Kind::MeshConfig
        | Kind::AuthorizationPolicy
        | Kind::TrafficPolicy
        | Kind::RateLimitPolicy
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TcpRoute => kind.resources(),
    };
    for resource in resources {
        let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let one = ListParams::default().limit(1);
        match objects.list_metadata(&one).await {
            Ok(_) => return Ok(()),
            Err(error) if super::is_not_found(&error) && kind.may_be_absent() => {}
            Err(error) => {
                let kind = kind.name();
                return Err(ReadError::Client { kind, error });
            }
        }
    }
    Ok(())
}
