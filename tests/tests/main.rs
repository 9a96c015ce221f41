//! The end-to-end tests, by topic.

mod authorization;
mod authorization_live;
mod authorization_tcp;
mod bodies;
mod cli;
mod cli_up;
mod common;
mod crowd;
mod desync;
mod disruption;
mod grpc;
mod http1;
mod http1_headers;
mod http2;
mod identity;
mod identity_headers;
mod lifecycle;
mod logs;
mod metrics;
mod opaque;
mod policy_check;
mod routing;
mod smuggling;
mod tokens;
mod websocket;
