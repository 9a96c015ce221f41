//! What listens where. Workloads that share a machine share its ports, and a sidecar that cannot
//! listen is found out when it starts, which is late.

use std::collections::HashMap;
use std::net::IpAddr;

use outrider_api::kinds;
use outrider_api::manifest::{Located, Problem};
use outrider_api::sidecar::{INBOUND_PORT, OUTBOUND_PORT};

use super::WorkloadName;
use super::addresses::Addresses;
use super::assemble::{LOOPBACK, app_address};
use super::objects::Objects;

/// One listening socket.
struct Socket<'o> {
    workload: &'o WorkloadName,
    /// `None`: every address of the machine.
    address: Option<IpAddr>,
    port: u16,
    field: String,
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

/// Which machine a workload is on, as far as its address says: all of loopback is one.
#[derive(PartialEq, Eq, Hash)]
enum Host {
    This,
    At(IpAddr),
}

/// Says which sockets cannot be had together.
pub(super) fn check(objects: &Objects<'_>, addresses: &Addresses, problems: &mut Vec<Problem>) {
    let mut taken: HashMap<(Host, u16), Vec<Socket<'_>>> = HashMap::new();
    for (name, workload) in &objects.workloads {
        // Who has none is a problem already.
        let Some(address) = addresses.first(name) else {
            continue;
        };
        for socket in sockets(name, workload, addresses, address) {
            let key = (host(address), socket.port);
            let others = taken.entry(key).or_default();
            if let Some(other) = others.iter().find(|other| socket.clashes(other)) {
                problems.push(workload.problem(socket.field.clone(), clash(&socket, other)));
            }
            others.push(socket);
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
    let app_address = app_address(name, workload, addresses);
    let socket = |field: String, address, port, app| Socket {
        workload: name,
        address,
        port,
        field,
        app,
    };
    let sidecar = |field: &str, address, port| socket(field.to_owned(), address, port, false);
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
        let field = format!("spec.ports[{index}].port");
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
        let field = format!("spec.outbound.upstreams[{index}].localPort");
        sockets.push(socket(field, Some(LOOPBACK), upstream.local_port, false));
    }
    sockets
}
