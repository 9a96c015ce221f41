//! What a route's filters do with a request before it is sent.

use std::rc::Rc;

use http::header::{LOCATION, ORIGIN};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Response, StatusCode, Uri};
use outrider_api::model::traffic::TrafficSettings;
use outrider_api::model::{Cors, Filter, Redirect, Rewrite};
use outrider_api::routing::RedirectedRequest;

use super::answer::Edits;
use super::routes::Met;
use crate::http::body::ResponseBody;
use crate::refusal::Refusal;
use crate::traffic::faults::{self, Abort};
use crate::worker::Worker;

/// What is left to do with a request.
pub enum Filtered {
    /// It goes on, for this authority.
    On(Authority),
    /// It has its answer.
    Answered(Box<Response<ResponseBody>>),
}

/// Applies the filters of a rule in order. `port` is that of the Service that was called.
pub fn apply(
    met: &Met,
    parts: &mut Parts,
    mut authority: Authority,
    port: u16,
    edits: &mut Edits,
) -> Result<Filtered, Refusal> {
    edits.rule = Some(Rc::clone(&met.rule));
    for filter in &met.rule.model.filters {
        match filter {
            Filter::RequestHeaders(edit) => edit.apply(&mut parts.headers),
            Filter::Cors(cors) => {
                if Cors::is_preflight(parts.method.as_str(), &parts.headers) {
                    return Ok(Filtered::Answered(Box::new(preflight(cors, parts))));
                }
                edits.origin = parts.headers.get(ORIGIN).cloned();
            }
            Filter::Redirect(redirect) => {
                let mut answer = redirected(redirect, parts, &authority, port, met.prefix)?;
                // A browser follows only what it may read.
                edits.apply(answer.headers_mut());
                return Ok(Filtered::Answered(Box::new(answer)));
            }
            Filter::Rewrite(rewrite) => {
                if let Some(host) = rewritten(rewrite, parts, met.prefix)? {
                    authority = host;
                }
            }
            Filter::Unsupported(_) => return Err(Refusal::BackendInvalid),
            Filter::ResponseHeaders(_) | Filter::Mirror(_) => {}
        }
    }
    Ok(Filtered::On(authority))
}

/// Applies the filters of one backend.
pub fn apply_to_share(filters: &[Filter], parts: &mut Parts) -> Result<(), Refusal> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edit) => edit.apply(&mut parts.headers),
            Filter::ResponseHeaders(_) => {}
            Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::Mirror(_)
            | Filter::Cors(_)
            | Filter::Unsupported(_) => return Err(Refusal::BackendInvalid),
        }
    }
    Ok(())
}

fn preflight(cors: &Cors, parts: &Parts) -> Response<ResponseBody> {
    let mut answer = Response::new(ResponseBody::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    *answer.version_mut() = parts.version;
    *answer.headers_mut() = cors.preflight(&parts.headers);
    answer
}

fn redirected(
    redirect: &Redirect,
    parts: &Parts,
    authority: &Authority,
    port: u16,
    prefix: usize,
) -> Result<Response<ResponseBody>, Refusal> {
    let path = parts.uri.path_and_query();
    let location = redirect.location(&RedirectedRequest {
        scheme: "http",
        authority: authority.as_str(),
        port,
        path_and_query: path.map_or("/", PathAndQuery::as_str),
        prefix,
    });
    let location = location.map_err(|error| {
        tracing::info!(%error, "a redirect leads nowhere");
        Refusal::BackendInvalid
    })?;
    let mut answer = Response::new(ResponseBody::empty());
    *answer.status_mut() = redirect.status;
    *answer.version_mut() = parts.version;
    answer.headers_mut().insert(LOCATION, location);
    Ok(answer)
}

/// Gives the request its new path. The new authority, where there is one.
fn rewritten(
    rewrite: &Rewrite,
    parts: &mut Parts,
    prefix: usize,
) -> Result<Option<Authority>, Refusal> {
    let root = PathAndQuery::from_static("/");
    let path = parts.uri.path_and_query().unwrap_or(&root);
    let (authority, path) = rewrite.apply(path, prefix).map_err(|error| {
        tracing::info!(%error, "a rewrite comes to no URI");
        Refusal::BackendInvalid
    })?;
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(path);
    parts.uri = Uri::from_parts(uri).map_err(|_| Refusal::BackendInvalid)?;
    Ok(authority)
}

/// Holds up the share of requests that the policy names, and says which are to be aborted.
pub async fn inject_faults(worker: &Worker, traffic: &TrafficSettings) -> Option<Abort> {
    if traffic.faults.is_empty() {
        return None;
    }
    let drawn = faults::draw(&traffic.faults, |below| worker.random(below));
    if !drawn.delay.is_zero() {
        tokio::time::sleep(drawn.delay).await;
    }
    drawn.abort
}
