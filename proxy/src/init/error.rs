//! Why a namespace is not as it should be: each says where, and what helps.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::netlink::NetlinkError;
use super::plan::{PlanError, Sidecar};

#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(
        "not permitted to {doing}: this needs the capability NET_ADMIN in the namespace (as root, or \
         in Kubernetes securityContext.capabilities.add: [NET_ADMIN] for the container that runs init)"
    )]
    NotPermitted { doing: &'static str },
    #[error(
        "this kernel cannot do it with nftables ({place}: {source}): load the modules nf_tables, \
         nft_redir and nft_fib_inet (nft_tproxy for --mode tproxy), or use --backend iptables"
    )]
    NftablesMissing { place: String, source: NetlinkError },
    #[error("cannot {doing} ({place}): {source}")]
    Netlink {
        doing: &'static str,
        place: String,
        source: NetlinkError,
    },
    #[error(
        "this namespace is intercepted for another sidecar already ({found}), and this one is {wanted}: \
         a namespace has one sidecar. If that one is gone, run init --remove first"
    )]
    OtherSidecar { found: Sidecar, wanted: Sidecar },
    #[error("the rules are not what was written, {place}: expected {expected}, found {found}")]
    Differs {
        place: String,
        expected: String,
        found: String,
    },
    #[error(
        "the rules are in force, but do not work: a connection to {destination} was expected at port \
         {port} with that destination; {found}"
    )]
    Probe {
        destination: SocketAddr,
        port: u16,
        found: String,
    },
    #[error("cannot probe the rules, {doing}: {source}")]
    ProbeSetup {
        doing: &'static str,
        source: io::Error,
    },
    #[error("cannot print: {0}")]
    Print(#[source] io::Error),
}
