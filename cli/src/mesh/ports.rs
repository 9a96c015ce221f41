//! The ports that a mesh will bind: checked before anything starts, so that a port in use is one
//! clear line instead of a child that dies later.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use thiserror::Error;

/// A port that some part of the mesh binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortUse {
    /// Where it will listen.
    pub address: SocketAddr,
    /// "Workload shop/order-1", or "control plane".
    pub owner: String,
    /// What to change: "spec.meshPort", "--control-plane-port".
    pub field: String,
}

/// Why a port cannot be bound.
#[derive(Debug, Error)]
pub enum PortProblem {
    /// Some other process listens there.
    #[error(
        "port {} on {} is in use by another program; {} needs it: stop that program, or change {}",
        .0.address.port(), .0.address.ip(), .0.owner, .0.field
    )]
    InUse(PortUse),
    /// Two parts of this mesh want it.
    #[error(
        "port {} on {} is wanted twice: by {} ({}) and by {} ({}); change one of them",
        .0.address.port(), .0.address.ip(), .0.owner, .0.field, .1.owner, .1.field
    )]
    Twice(Box<PortUse>, Box<PortUse>),
    /// Anything else, such as a port below 1024.
    #[error("cannot listen on {} for {} ({}): {cause}", .used.address, .used.owner, .used.field)]
    Other {
        /// Which one.
        used: PortUse,
        /// The system's words.
        cause: io::Error,
    },
}

/// Checks that every one of `uses` can be bound now. Reports all that cannot.
pub fn check(uses: &[PortUse]) -> Result<(), Vec<PortProblem>> {
    let mut problems = Vec::new();
    let mut seen: HashMap<SocketAddr, &PortUse> = HashMap::new();
    for used in uses {
        if let Some(earlier) = seen.insert(used.address, used) {
            problems.push(PortProblem::Twice(
                Box::new(earlier.clone()),
                Box::new(used.clone()),
            ));
            continue;
        }
        match TcpListener::bind(used.address) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                problems.push(PortProblem::InUse(used.clone()));
            }
            Err(cause) => problems.push(PortProblem::Other {
                used: used.clone(),
                cause,
            }),
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Whether an address belongs to this machine.
pub fn is_local(address: IpAddr) -> bool {
    !matches!(
        TcpListener::bind((address, 0)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable
    )
}

/// `count` ports on loopback that nobody listens on, all different.
pub fn free(count: usize) -> io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(port: u16, field: &str) -> PortUse {
        PortUse {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            owner: "Workload shop/order-1".to_owned(),
            field: field.to_owned(),
        }
    }

    #[test]
    fn a_port_in_use_is_one_clear_line() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let problems = check(&[used(port, "spec.meshPort")]).unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            format!(
                "port {port} on 127.0.0.1 is in use by another program; Workload shop/order-1 needs it: \
                 stop that program, or change spec.meshPort"
            )
        );
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_port_wanted_twice_names_both() {
        let port = free(1).unwrap()[0];
        let problems =
            check(&[used(port, "spec.meshPort"), used(port, "spec.adminPort")]).unwrap_err();
        let text = problems[0].to_string();
        assert!(
            text.contains("spec.meshPort") && text.contains("spec.adminPort"),
            "{text}"
        );
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free(20).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn loopback_is_local_and_documentation_addresses_are_not() {
        assert!(is_local(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(!is_local(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
    }
}
