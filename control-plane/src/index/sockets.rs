//! What listens where. Workloads that share a machine share its ports, and a sidecar that cannot
//! listen is found out when it starts, which is late.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use outrider_api::kinds;
use outrider_api::manifest::{Located, Problem};

use super::WorkloadName;
use super::objects::Objects;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
pub(super) fn check(objects: &Objects<'_>, problems: &mut Vec<Problem>) {
    let mut taken: HashMap<(Host, u16), Vec<Socket<'_>>> = HashMap::new();
    for (name, workload) in &objects.workloads {
        for socket in sockets(name, workload) {
            let key = (host(workload), socket.port);
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

fn host(workload: &kinds::Workload) -> Host {
    let address = workload.spec.address.unwrap_or(LOOPBACK);
    if address.is_loopback() {
        Host::This
    } else {
        Host::At(address)
    }
}

fn sockets<'o>(name: &'o WorkloadName, workload: &Located<kinds::Workload>) -> Vec<Socket<'o>> {
    let spec = &workload.spec;
    let socket = |field: String, address, port, app| Socket {
        workload: name,
        address,
        port,
        field,
        app,
    };
    let sidecar = |field: &str, address, port| socket(field.to_owned(), address, port, false);
    let mut sockets: Vec<Socket<'o>> = Vec::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{index}].port");
        sockets.push(socket(
            field,
            Some(spec.app_address.unwrap_or(LOOPBACK)),
            port.port,
            true,
        ));
    }
    sockets.push(sidecar(
        "spec.meshPort",
        Some(spec.address.unwrap_or(LOOPBACK)),
        spec.mesh_port,
    ));
    sockets.push(sidecar("spec.adminPort", Some(LOOPBACK), spec.admin_port));
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
