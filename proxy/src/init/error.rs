//! Why a namespace is not as it should be: each says where, and what helps.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::netlink::NetlinkError;
use super::plan::{PlanError, Sidecar};

/// Each says all of it: what it came from is in its own words, not behind it.
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
        "this kernel cannot do it with nftables ({place}: {error}): load the modules nf_tables, \
         nft_redir and nft_fib_inet (nft_tproxy for --mode tproxy), or use --backend iptables"
    )]
    NftablesMissing { place: String, error: NetlinkError },
    #[error("cannot {doing} ({place}): {error}")]
    Netlink {
        doing: &'static str,
        place: String,
        error: NetlinkError,
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
    #[error("cannot probe the rules: listening on port {port}: {error}")]
    ProbeSetup { port: u16, error: io::Error },
    #[error(
        "lo is down, and intercepted connections arrive there: bring it up first (ip link set lo up)"
    )]
    LoopbackDown,
    #[error(
        "iptables-restore is not here (nor iptables-legacy-restore): install iptables, or use a kernel \
         with nftables"
    )]
    IptablesMissing,
    #[error("{program} failed, {found}")]
    Iptables { program: String, found: String },
    #[error("cannot print: {0}")]
    Print(io::Error),
}
