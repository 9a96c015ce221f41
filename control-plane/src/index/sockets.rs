//! What listens where. Workloads that share a machine share its ports, and a sidecar that cannot
//! listen is found out when it starts, which is late.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use outrider_api::kinds;
use outrider_api::manifest::{Located, Problem};
use outrider_api::sidecar::{INBOUND_PORT, OUTBOUND_PORT};

use super::WorkloadName;
use super::addresses::Addresses;
use super::assemble::LOOPBACK;
use super::objects::Objects;
use super::presence::app_address;

/// One listening socket.
struct Socket<'o> {
    workload: &'o WorkloadName,
    /// `None`: every address of the machine.
    address: Option<IpAddr>,
    port: u16,
    field: Field,
    /// Of the app; two workloads may be two faces of one app.
    app: bool,
}

impl Socket<'_> {
    fn clashes(&self, other: &Self) -> bool {
        let address = match (self.address, other.address) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        let one_app = self.app && other.app && self.workload != other.workload;
        address && !one_app
    }
}

/// Where a socket is written. Most are never named.
#[derive(Clone, Copy)]
enum Field {
    Own(&'static str),
    /// An entry of a list, and its field.
    Listed(&'static str, usize, &'static str),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(field) => f.write_str(field),
            Self::Listed(list, index, field) => write!(f, "{list}[{index}].{field}"),
        }
    }
}

/// Which machine a workload is on, as far as its address says: all of loopback is one.
#[derive(PartialEq, Eq, Hash)]
enum Host {
    This,
    At(IpAddr),
}

/// Says which sockets cannot be had together.
pub(super) fn check(objects: &Objects, addresses: &Addresses, problems: &mut Vec<Problem>) {
    let mut hosts: HashMap<Host, Vec<(&WorkloadName, &Located<kinds::Workload>)>> = HashMap::new();
    for (name, workload) in objects.workloads.iter() {
        // Who has none is a problem already.
        if let Some(address) = addresses.first(name) {
            hosts
                .entry(host(address))
                .or_default()
                .push((name, workload));
        }
    }
    let mut taken: HashMap<u16, Vec<Socket<'_>>> = HashMap::new();
    for workloads in hosts.values() {
        taken.clear();
        for (name, workload) in workloads {
            let address = addresses.first(name).unwrap_or(LOOPBACK);
            for socket in sockets(name, workload, addresses, address) {
                let others = taken.entry(socket.port).or_default();
                if let Some(other) = others.iter().find(|other| socket.clashes(other)) {
                    let field = socket.field.to_string();
                    problems.push(workload.problem(field, clash(&socket, other)));
                }
                others.push(socket);
            }
        }
    }
}

fn clash(socket: &Socket<'_>, other: &Socket<'_>) -> String {
    let port = socket.port;
    let field = &other.field;
    if socket.workload == other.workload {
        format!("port {port} is also {field}, expected another")
    } else {
        format!(
            "port {port} is also {field} of Workload {} on the same machine, expected another",
            other.workload
        )
    }
}

fn host(address: IpAddr) -> Host {
    if address.is_loopback() {
        Host::This
    } else {
        Host::At(address)
    }
}

fn sockets<'o>(
    name: &'o WorkloadName,
    workload: &Located<kinds::Workload>,
    addresses: &Addresses,
    address: IpAddr,
) -> Vec<Socket<'o>> {
    let spec = &workload.spec;
    let app_address = app_address(workload, address);
    let socket = |field: Field, address, port, app| Socket {
        workload: name,
        address,
        port,
        field,
        app,
    };
    let sidecar = |field, address, port| socket(Field::Own(field), address, port, false);
    let mut sockets: Vec<Socket<'o>> = Vec::new();
    // An app that is reached at the workload's own address may be intercepted, and listen on all.
    let may_be_intercepted =
        !app_address.is_loopback() && addresses.of(name).contains(&app_address);
    if may_be_intercepted {
        let field = "the sidecar's own, for connections that it intercepts";
        sockets.push(sidecar(field, None, OUTBOUND_PORT));
        sockets.push(sidecar(field, None, INBOUND_PORT));
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let field = Field::Listed("spec.ports", index, "port");
        sockets.push(socket(field, Some(app_address), port.port, true));
    }
    sockets.push(sidecar("spec.meshPort", Some(address), spec.mesh_port));
    let admin = (!may_be_intercepted).then_some(LOOPBACK);
    sockets.push(sidecar("spec.adminPort", admin, spec.admin_port));
    sockets.push(sidecar("spec.telemetryPort", None, spec.telemetry_port));
    if let Some(port) = spec.outbound.http_port {
        sockets.push(sidecar("spec.outbound.httpPort", Some(LOOPBACK), port));
    }
    for (index, upstream) in spec.outbound.upstreams.iter().enumerate() {
        let field = Field::Listed("spec.outbound.upstreams", index, "localPort");
        sockets.push(socket(field, Some(LOOPBACK), upstream.local_port, false));
    }
    sockets
}
