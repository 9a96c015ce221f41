//! What is asked of the evaluator.

use std::net::IpAddr;

use outrider_certs::spiffe::SpiffeId;

/// One request, or one opaque connection.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// From the peer's certificate, verified; `None`: the peer has none.
    pub peer: Option<&'a SpiffeId>,
    /// The address that the connection came from.
    pub source: IpAddr,
    /// The port of the app that the call is for.
    pub port: u16,
    /// `None`: an opaque connection.
    pub http: Option<HttpCall<'a>>,
}

/// The request as the app will see it: after hop-by-hop headers are gone.
#[derive(Clone, Copy, Debug)]
pub struct HttpCall<'a> {
    pub method: &'a str,
    /// Path and query, as on the wire.
    pub path: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    pub headers: &'a http::HeaderMap,
}
