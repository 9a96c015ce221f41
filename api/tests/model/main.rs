//! Model to wire and back, and what the wire must not say.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod spoiled;
mod traffic;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use outrider_api::authorization::{
    Action, GrpcMatch, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, IpBlock, Method,
    PathMatch, PathMatchKind, Policy, PolicySet, Rule, Source,
};
use outrider_api::model::address::{Address, AddressTarget};
use outrider_api::model::traffic::TrafficSettings;
use outrider_api::model::{
    AppPort, Destination, Endpoint, MeshSettings, Mtls, Outbound, Probe, ProbeHeader, ProbeKind,
    Protocol, ServicePort, UnknownDestinations, Upstream, Workload,
};
use outrider_api::names::ServiceName;
use outrider_api::proto;
use outrider_certs::authority::CertificateAuthority;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::SpiffeId;
use proptest::collection::{btree_set, hash_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,5}(\\.[a-z0-9]{1,5}){0,2}"
}

fn id() -> impl Strategy<Value = SpiffeId> {
    (label(), name()).prop_map(|(namespace, name)| {
        format!("spiffe://shop.example/ns/{namespace}/sa/{name}")
            .parse()
            .unwrap()
    })
}

fn service() -> impl Strategy<Value = ServiceName> {
    (label(), label()).prop_map(|(namespace, name)| ServiceName { namespace, name })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    use Protocol::{Detect, Grpc, Http, Http1, Http2, Tcp, Tls};
    select(&[Detect, Http, Http1, Http2, Grpc, Tcp, Tls][..])
}

fn mtls() -> impl Strategy<Value = Mtls> {
    select(&[Mtls::Strict, Mtls::Permissive][..])
}

fn probe() -> impl Strategy<Value = Probe> {
    let header = ("[a-z]{1,5}", "[!-~é]{0,9}")
        .prop_map(|(name, value)| ProbeHeader::new(&name, value.as_bytes()))
        .prop_filter_map("about the connection", Result::ok);
    let http = (
        "(/[a-z%-]{1,5}){1,3}(\\?[a-z=&]{0,5})?",
        any::<bool>(),
        vec(header, 0..3),
    );
    let kind = prop_oneof![
        http.prop_map(|(path, tls, headers)| ProbeKind::Http { path, tls, headers }),
        Just(ProbeKind::Tcp),
        ".{0,9}".prop_map(|service| ProbeKind::Grpc { service }),
    ];
    (1u16.., kind).prop_map(|(port, kind)| Probe { port, kind })
}

fn source() -> impl Strategy<Value = Source> {
    let block = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(address, prefix)| {
        let cidr = format!("{}/{prefix}", IpAddr::from(address))
            .parse()
            .unwrap();
        Source::IpBlock(IpBlock::new(cidr, vec![cidr]).unwrap())
    });
    prop_oneof![
        (label(), name()).prop_map(|(namespace, name)| Source::ServiceAccount { namespace, name }),
        label().prop_map(Source::Namespace),
        id().prop_map(Source::Spiffe),
        block,
    ]
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let kind = select(&[PathMatchKind::Exact, PathMatchKind::Prefix][..]);
    let path = (kind, "(/[a-z]{1,4}(%C3%A9)?){1,3}/?")
        .prop_map(|(kind, text)| PathMatch::new(kind, &text).unwrap());
    let host = "(\\*\\.)?[A-Za-z]{1,5}(\\.[a-z]{1,5})?\\.?"
        .prop_map(|text| HostMatch::new(&text).unwrap());
    let bytes = || vec(any::<u8>(), 1..6);
    let value = prop_oneof![
        bytes().prop_map(HeaderValueMatch::Exact),
        bytes().prop_map(HeaderValueMatch::Prefix),
        Just(HeaderValueMatch::Present),
    ];
    let header =
        ("x-[a-z]{1,5}", value).prop_map(|(name, value)| HeaderMatch::new(&name, value).unwrap());
    let method = "[A-Z]{1,8}".prop_map(|text| Method::new(&text).unwrap());
    (
        vec(method, 0..3),
        vec(path, 0..3),
        vec(host, 0..3),
        vec(header, 0..3),
    )
        .prop_map(|(methods, paths, hosts, headers)| HttpMatch {
            methods,
            paths,
            hosts,
            headers,
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    let grpc = (
        "[a-z]{1,5}(\\.[A-Z][a-z]{0,5})?",
        option::of("[A-Z][a-z]{0,5}"),
    )
        .prop_map(|(service, method)| GrpcMatch::new(&service, method.as_deref()).unwrap());
    (
        option::of(label()),
        option::of(vec(source(), 0..3)),
        vec(1u16.., 0..3),
        vec(http_match(), 0..3),
        vec(grpc, 0..3),
    )
        .prop_map(|(name, sources, ports, http, grpc)| Rule {
            name,
            sources,
            ports,
            http,
            grpc,
        })
}

fn policies() -> impl Strategy<Value = PolicySet> {
    let action = select(&[Action::Allow, Action::Deny, Action::Audit][..]);
    let policy = (label(), name(), action, vec(rule(), 0..3)).prop_map(
        |(namespace, name, action, rules)| Policy {
            namespace,
            name,
            action,
            rules,
        },
    );
    (any::<bool>(), vec(policy, 0..4)).prop_map(|(deny, policies)| PolicySet::new(deny, policies))
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn destination() -> impl Strategy<Value = Destination> {
    let ports = btree_set(1u16.., 0..4).prop_flat_map(|ports| {
        let port = |port| {
            (".{0,5}", protocol()).prop_map(move |(name, protocol)| ServicePort {
                port,
                name,
                protocol,
            })
        };
        ports.into_iter().map(port).collect::<Vec<_>>()
    });
    let endpoint = (
        label(),
        name(),
        ".{0,9}",
        id(),
        address(),
        vec((1u16.., 1u16..), 0..3),
        option::of(label()),
    )
        .prop_map(
            |(namespace, workload, app, id, mesh_address, target_ports, zone)| Endpoint {
                namespace,
                workload,
                app,
                id,
                mesh_address,
                target_ports,
                zone,
            },
        );
    (
        service(),
        ports,
        vec(endpoint, 0..4),
        traffic::route_groups(),
        traffic::settings(),
        any::<bool>(),
    )
        .prop_map(
            |(service, ports, endpoints, routes, traffic, any_port)| Destination {
                service,
                ports,
                endpoints,
                routes,
                traffic,
                any_port,
            },
        )
}

fn address_of() -> impl Strategy<Value = Address> {
    let target = prop_oneof![
        service().prop_map(AddressTarget::Service),
        destination().prop_map(|instance| AddressTarget::Instance(Box::new(instance))),
        Just(AddressTarget::Unknown),
    ];
    (any::<IpAddr>(), target).prop_map(|(address, target)| Address { address, target })
}

fn trust() -> TrustBundle {
    static TRUST: OnceLock<TrustBundle> = OnceLock::new();
    let make = || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model-authority");
        std::fs::create_dir_all(&dir).unwrap();
        let domain = "shop.example".parse().unwrap();
        let authority = CertificateAuthority::load_or_create(&dir, &domain, SystemTime::now());
        authority.unwrap().trust_bundle()
    };
    TRUST.get_or_init(make).clone()
}

fn workload() -> impl Strategy<Value = Workload> {
    let trust = trust();
    let ports = btree_set(1u16.., 0..4).prop_flat_map(|ports| {
        let port = |port| {
            (".{0,5}", protocol(), mtls()).prop_map(move |(name, protocol, mtls)| AppPort {
                name,
                port,
                protocol,
                mtls,
            })
        };
        ports.into_iter().map(port).collect::<Vec<_>>()
    });
    let upstream = (service(), 1u16.., 1u16..).prop_map(|(service, port, local_port)| Upstream {
        service,
        port,
        local_port,
    });
    let outbound =
        (option::of(1u16..), vec(upstream, 0..3)).prop_map(|(http_port, upstreams)| Outbound {
            http_port,
            upstreams,
        });
    let unknown = select(&[UnknownDestinations::Allow, UnknownDestinations::Deny][..]);
    let mesh = (any::<bool>(), any::<u32>(), any::<u32>(), unknown).prop_map(
        |(access_log, drain, detect, unknown_destinations)| MeshSettings {
            trust_domain: "shop.example".parse().unwrap(),
            access_log,
            drain_timeout: Duration::from_millis(drain.into()),
            detect_timeout: Duration::from_millis(detect.into()),
            unknown_destinations,
        },
    );
    let addresses = (address(), hash_set(any::<IpAddr>(), 0..3));
    let names = (label(), name(), id(), ".{0,9}", vec(service(), 0..3));
    (
        names,
        addresses,
        any::<IpAddr>(),
        (ports, mtls(), vec(probe(), 0..3)),
        outbound,
        policies(),
        (
            traffic::inbound_limits(),
            option::of(label()),
            any::<bool>(),
        ),
        mesh,
    )
        .prop_map(
            move |(
                (namespace, name, id, app, services),
                (mesh_address, others),
                app_address,
                (ports, mtls, probes),
                outbound,
                authorization,
                (limits, zone, terminating),
                mesh,
            )| {
                let trust = trust.clone();
                let first = mesh_address.ip();
                let others = others.into_iter().filter(|address| *address != first);
                Workload {
                    namespace,
                    name,
                    id,
                    app,
                    services,
                    mesh_address,
                    addresses: [first].into_iter().chain(others).collect(),
                    app_address,
                    ports,
                    mtls,
                    probes,
                    terminating,
                    outbound,
                    authorization,
                    limits,
                    zone,
                    mesh,
                    trust,
                }
            },
        )
}

proptest! {
    #[test]
    fn a_destination_comes_back(destination in destination()) {
        let wire = proto::Destination::from(&destination);
        prop_assert_eq!(Destination::try_from(wire).unwrap(), destination);
    }

    #[test]
    fn an_address_comes_back(address in address_of()) {
        let wire = proto::Address::from(&address);
        prop_assert_eq!(Address::try_from(wire).unwrap(), address);
    }

    #[test]
    fn a_workload_comes_back(workload in workload()) {
        let wire = proto::Workload::from(&workload);
        prop_assert_eq!(Workload::try_from(wire).unwrap(), workload);
    }
}

/// A workload whose every message is there.
fn wire() -> proto::Workload {
    let rule = proto::Rule {
        sources: Some(proto::Sources {
            sources: vec![namespace("shop")],
        }),
        ports: vec![80],
        http: vec![proto::HttpMatch {
            methods: vec!["GET".into()],
            paths: vec![proto::PathMatch {
                kind: Some(proto::path_match::Kind::Exact("/a".into())),
            }],
            hosts: vec!["billing".into()],
            headers: vec![proto::HeaderMatch {
                name: "x-a".into(),
                kind: Some(proto::header_match::Kind::Present(true)),
            }],
        }],
        grpc: vec![proto::GrpcMatch {
            service: "a.B".into(),
            method: String::new(),
        }],
        ..Default::default()
    };
    let policy = proto::AuthorizationPolicy {
        namespace: "shop".into(),
        name: "billing".into(),
        action: proto::Action::Allow.into(),
        rules: vec![rule],
    };
    proto::Workload {
        namespace: "shop".into(),
        name: "billing-1".into(),
        spiffe_id: "spiffe://shop.example/ns/shop/sa/billing".into(),
        services: vec![proto::ServiceRef {
            namespace: "shop".into(),
            name: "billing".into(),
        }],
        mesh_address: "127.0.0.1:15008".into(),
        addresses: vec!["127.0.0.1".into(), "::1".into()],
        app_address: "127.0.0.1".into(),
        ports: vec![proto::AppPort {
            port: 80,
            mtls: proto::Mtls::Permissive.into(),
            ..Default::default()
        }],
        mtls: proto::Mtls::Strict.into(),
        probes: vec![probe_of("/live?full")],
        terminating: true,
        outbound: Some(proto::Outbound::default()),
        authorization: Some(proto::AuthorizationPolicies {
            default_deny: true,
            policies: vec![policy],
        }),
        limits: Some(spoiled::limits()),
        mesh: Some(proto::MeshSettings {
            trust_domain: "shop.example".into(),
            unknown_destinations: proto::UnknownDestinations::Deny.into(),
            ..Default::default()
        }),
        trust_anchors_der: trust()
            .anchors()
            .iter()
            .map(|der| der.to_vec().into())
            .collect(),
        ..Default::default()
    }
}

fn probe_of(path: &str) -> proto::Probe {
    proto::Probe {
        port: 80,
        kind: Some(proto::probe::Kind::HttpPath(path.into())),
        ..proto::Probe::default()
    }
}

fn probe_with(headers: &[(&str, &str)]) -> proto::Probe {
    let field = |(name, value): &(&str, &str)| proto::HeaderField {
        name: (*name).to_owned(),
        value: value.as_bytes().to_vec().into(),
    };
    proto::Probe {
        headers: headers.iter().map(field).collect(),
        ..probe_of("/")
    }
}

fn namespace(name: &str) -> proto::Source {
    proto::Source {
        kind: Some(proto::source::Kind::Namespace(name.into())),
    }
}

fn policy(wire: &mut proto::Workload) -> &mut proto::AuthorizationPolicy {
    &mut wire.authorization.as_mut().unwrap().policies[0]
}

fn rule_of(wire: &mut proto::Workload) -> &mut proto::Rule {
    &mut policy(wire).rules[0]
}

fn rate(wire: &mut proto::Workload) -> &mut proto::RateLimit {
    &mut wire.limits.as_mut().unwrap().rates[0]
}

type Break = fn(&mut proto::Workload);

#[test]
fn what_is_wrong_is_refused_whole_and_named() {
    assert!(Workload::try_from(wire()).is_ok());
    let in_rule = "authorization.policies[0].rules[0]";
    let table: [(&str, Break); 50] = [
        ("namespace", |w| w.namespace = "Shop".into()),
        ("name", |w| w.name.clear()),
        ("spiffe_id", |w| w.spiffe_id.push('/')),
        ("services[0].name", |w| w.services[0].name = "a.b".into()),
        ("mesh_address", |w| w.mesh_address = "localhost:1".into()),
        ("addresses", |w| w.addresses.clear()),
        ("addresses", |w| w.addresses.reverse()),
        ("addresses", |w| w.addresses.push("::1".into())),
        ("addresses[1]", |w| w.addresses[1] = "[::1]".into()),
        ("app_address", |w| w.app_address.clear()),
        ("mtls", |w| w.mtls = 0),
        ("mtls", |w| w.mtls = 3),
        ("ports[0].mtls", |w| w.ports[0].mtls = 0),
        ("probes[0].kind", |w| w.probes[0].kind = None),
        ("probes[0].port", |w| w.probes[0].port = 0),
        ("probes[0].http_path", |w| w.probes[0] = probe_of("")),
        ("probes[0].http_path", |w| w.probes[0] = probe_of("live")),
        ("probes[0].http_path", |w| w.probes[0] = probe_of("/a b")),
        ("probes[0].http_path", |w| w.probes[0] = probe_of("/a#b")),
        ("probes[0].headers[1]", |w| {
            w.probes[0] = probe_with(&[("host", "a"), ("a b", "c")]);
        }),
        ("probes[0].headers[0]", |w| {
            w.probes[0] = probe_with(&[("connection", "close")]);
        }),
        ("ports[0].port", |w| w.ports[0].port = 0),
        ("ports[0].protocol", |w| w.ports[0].protocol = 99),
        ("ports", |w| w.ports.push(w.ports[0].clone())),
        ("outbound", |w| w.outbound = None),
        ("outbound.http_port", |w| {
            w.outbound.as_mut().unwrap().http_port = 65536
        }),
        ("outbound.upstreams[0].service", |w| {
            w.outbound
                .as_mut()
                .unwrap()
                .upstreams
                .push(Default::default())
        }),
        ("authorization", |w| w.authorization = None),
        ("limits", |w| w.limits = None),
        ("limits.rates[0].requests", |w| rate(w).requests = 0),
        ("limits.rates[0].interval_ms", |w| rate(w).interval_ms = 0),
        ("limits.rates[0].burst", |w| rate(w).burst = 0),
        ("limits.rates[0].ports[0]", |w| rate(w).ports = vec![65536]),
        ("limits.rates[0].sources[0].kind", |w| {
            rate(w).sources = Some(proto::Sources {
                sources: vec![proto::Source { kind: None }],
            })
        }),
        ("limits.concurrency.max_requests", |w| {
            w.limits.as_mut().unwrap().concurrency = Some(proto::Concurrency::default())
        }),
        ("mesh", |w| w.mesh = None),
        ("mesh.trust_domain", |w| {
            w.mesh.as_mut().unwrap().trust_domain.clear()
        }),
        ("mesh.unknown_destinations", |w| {
            w.mesh.as_mut().unwrap().unknown_destinations = 0
        }),
        ("trust_anchors_der", |w| {
            w.trust_anchors_der = vec!["x".into()]
        }),
        ("authorization.policies[0].action", |w| policy(w).action = 0),
        ("authorization.policies[0].action", |w| policy(w).action = 7),
        ("*.ports[0]", |w| rule_of(w).ports[0] = 0),
        ("*.sources[0].kind", |w| {
            rule_of(w).sources.as_mut().unwrap().sources[0].kind = None
        }),
        ("*.sources[0].namespace", |w| {
            rule_of(w).sources.as_mut().unwrap().sources[0] = namespace("*")
        }),
        ("*.http[0].methods[0]", |w| {
            rule_of(w).http[0].methods[0] = "get".into()
        }),
        ("*.http[0].paths[0].kind", |w| {
            rule_of(w).http[0].paths[0].kind = None
        }),
        ("*.http[0].paths[0].prefix", |w| {
            rule_of(w).http[0].paths[0].kind = Some(proto::path_match::Kind::Prefix("a".into()));
        }),
        ("*.http[0].hosts[0]", |w| {
            rule_of(w).http[0].hosts[0] = "*".into()
        }),
        ("*.http[0].headers[0].kind", |w| {
            rule_of(w).http[0].headers[0].kind = None
        }),
        ("*.grpc[0].service", |w| rule_of(w).grpc[0].service.clear()),
    ];
    for (field, spoil) in table {
        let mut wire = wire();
        spoil(&mut wire);
        let error = Workload::try_from(wire).expect_err(field);
        assert_eq!(error.field, field.replace('*', in_rule), "{error}");
    }
}

#[test]
fn ports_of_a_destination_and_its_endpoints() {
    let endpoint = Endpoint {
        namespace: "shop".into(),
        workload: "billing-1".into(),
        app: "billing".into(),
        id: "spiffe://shop.example/ns/shop/sa/billing".parse().unwrap(),
        mesh_address: "127.0.0.1:15008".parse().unwrap(),
        target_ports: vec![(80, 8080)],
        zone: None,
    };
    assert_eq!(
        (endpoint.target_port(80), endpoint.target_port(8080)),
        (Some(8080), None)
    );
    let port = ServicePort {
        port: 80,
        name: "http".into(),
        protocol: Protocol::Http,
    };
    let service = ServiceName::new("shop", "billing").unwrap();
    let destination = Destination {
        service,
        ports: vec![port.clone()],
        endpoints: vec![endpoint],
        routes: Vec::new(),
        traffic: TrafficSettings::default(),
        any_port: false,
    };
    assert_eq!(
        (destination.port(80), destination.port(81)),
        (Some(&port), None)
    );
}
