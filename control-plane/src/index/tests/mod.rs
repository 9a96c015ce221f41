//! Folds: objects in, models or problems out.

use std::path::Path;
use std::time::Duration;

use outrider_api::manifest;
use outrider_api::model::{Protocol, Workload};

use super::*;

mod addresses;
mod inbound;
mod members;
mod memo;
mod routes;
mod traffic;
mod wire;

const SHOP: &str = "
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: shop.example, defaultDeny: true, certificateLifetime: 1h}
---
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop}
spec:
  selector: {app: billing}
  ports:
  - {name: http, port: 80, targetPort: web, appProtocol: http}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: billing-db, namespace: shop}
spec: {selector: {app: billing, tier: db}, ports: [{port: 5432, targetPort: 5433}]}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: billing-1, namespace: shop, labels: {app: billing}}
spec:
  serviceAccount: billing
  address: 127.0.0.1
  meshPort: 19001
  adminPort: 19002
  telemetryPort: 19003
  ports: [{name: web, port: 8080}]
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: billing-2, namespace: shop, labels: {app: billing, tier: db}}
spec:
  serviceAccount: billing
  address: 10.0.0.2
  ports: [{name: web, port: 8081}, {name: pg, port: 5433, appProtocol: postgres}]
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: order-1, namespace: shop}
spec:
  serviceAccount: order
  address: 127.0.0.1
  outbound:
    httpPort: 18101
    upstreams: [{service: billing, port: 80, localPort: 18102}]
  command: [shop, order]
";

const ALLOW: &str = "
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec:
  targetRefs: [TARGET]
  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: order}}]}]
";

fn fold(text: &str) -> Result<Mesh, Vec<String>> {
    let objects = manifest::parse(Path::new("mesh.yaml"), text).expect("the text is well-formed");
    build(&objects, None).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn problems(text: &str) -> Vec<String> {
    fold(text).expect_err("expected problems")
}

/// The line, counted from 1, where `needle` is first.
fn line(text: &str, needle: &str) -> usize {
    let before = text.split(needle).next().unwrap_or_default();
    before.matches('\n').count() + 1
}

fn workload<'m>(mesh: &'m Mesh, name: &str) -> &'m Workload {
    mesh.workload("shop", name).expect("the workload exists")
}

fn service(name: &str) -> ServiceName {
    ServiceName::new("shop", name).unwrap()
}

fn allowing(target: &str) -> String {
    format!("{SHOP}{}", ALLOW.replace("TARGET", target))
}

#[test]
fn settings_hold_for_the_whole_mesh() {
    let mesh = fold(SHOP).unwrap();
    assert_eq!(mesh.settings().trust_domain.as_ref(), "shop.example");
    assert_eq!(
        mesh.settings().certificate_lifetime,
        Duration::from_secs(3600)
    );
    assert!(workload(&mesh, "order-1").authorization.default_deny());
    let id = &workload(&mesh, "order-1").id;
    assert_eq!(id.as_str(), "spiffe://shop.example/ns/shop/sa/order");
    assert!(mesh.has_identity(id));
    let other = "spiffe://shop.example/ns/shop/sa/other".parse().unwrap();
    assert!(!mesh.has_identity(&other));
    assert_eq!(
        mesh.spec("shop", "order-1").unwrap().command,
        ["shop", "order"]
    );
}

#[test]
fn without_a_mesh_config_there_are_defaults() {
    let mesh = fold("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}").unwrap();
    assert_eq!(mesh.settings().trust_domain.as_ref(), DEFAULT_TRUST_DOMAIN);
    assert!(!mesh.settings().default_deny);
}

#[test]
fn a_service_selects_by_labels_and_leads_to_ports_by_name() {
    let mesh = fold(SHOP).unwrap();
    let billing = mesh.destination(&service("billing")).unwrap();
    assert_eq!(billing.ports.len(), 1, "UDP is not carried");
    assert_eq!(billing.ports[0].protocol, Protocol::Http);
    let ends: Vec<_> = billing
        .endpoints
        .iter()
        .map(|end| {
            (
                &*end.workload,
                end.mesh_address.to_string(),
                end.target_port(80),
            )
        })
        .collect();
    assert_eq!(
        ends,
        [
            ("billing-1", "127.0.0.1:19001".to_owned(), Some(8080)),
            ("billing-2", "10.0.0.2:15008".to_owned(), Some(8081)),
        ]
    );
    assert_eq!(billing.endpoints[1].app, "billing");
    assert_eq!(workload(&mesh, "order-1").app, "order-1");
    assert_eq!(
        workload(&mesh, "billing-2").services,
        [service("billing"), service("billing-db")]
    );
    assert!(workload(&mesh, "order-1").services.is_empty());
}

#[test]
fn a_protocol_that_one_side_declares_holds_for_the_other() {
    let mesh = fold(SHOP).unwrap();
    let web = &workload(&mesh, "billing-1").ports[0];
    assert_eq!((web.port, web.protocol), (8080, Protocol::Http));
    let db = mesh.destination(&service("billing-db")).unwrap();
    assert_eq!(db.ports[0].protocol, Protocol::Tcp);

    // A port that only the Service knows of.
    let text = SHOP.replace(", {name: pg, port: 5433, appProtocol: postgres}", "");
    let mesh = fold(&text).unwrap();
    let ports: Vec<u16> = workload(&mesh, "billing-2")
        .ports
        .iter()
        .map(|port| port.port)
        .collect();
    assert_eq!(ports, [8081, 5433]);
}

#[test]
fn policies_apply_to_what_they_target() {
    let table: [(&str, &[&str]); 5] = [
        (
            "{group: '', kind: Service, name: billing}",
            &["billing-1", "billing-2"],
        ),
        (
            "{group: '', kind: Service, name: billing-db}",
            &["billing-2"],
        ),
        (
            "{group: outrider.mesh, kind: Workload, name: order-1}",
            &["order-1"],
        ),
        (
            "{group: '', kind: Pod, selector: {matchLabels: {tier: db}}}",
            &["billing-2"],
        ),
        (
            "{group: '', kind: Pod, selector: {}}",
            &["billing-1", "billing-2", "order-1"],
        ),
    ];
    for (target, expected) in table {
        let mesh = fold(&allowing(target)).unwrap();
        let found: Vec<&str> = mesh
            .workloads()
            .values()
            .filter(|workload| workload.authorization.policies().len() == 1)
            .map(|workload| &*workload.name)
            .collect();
        assert_eq!(found, expected, "{target}");
    }
}

#[test]
fn a_policy_with_two_targets_applies_once() {
    let text =
        allowing("{group: '', kind: Service, name: billing}, {group: '', kind: Pod, selector: {}}");
    let mesh = fold(&text).unwrap();
    assert_eq!(
        workload(&mesh, "billing-1").authorization.policies().len(),
        1
    );
}

#[test]
fn a_target_that_does_not_exist_is_a_problem_at_its_line() {
    let table = [
        (
            "{group: '', kind: Service, name: biling}",
            "name",
            "such as billing, billing-db",
        ),
        (
            "{group: outrider.mesh, kind: Workload, name: order-2}",
            "name",
            "order-1",
        ),
        (
            "{group: '', kind: Pod, selector: {matchLabels: {app: biling}}}",
            "selector",
            "protect nothing",
        ),
    ];
    for (target, field, message) in table {
        let text = allowing(target);
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        let at = format!("mesh.yaml:{}:", line(&text, target));
        assert!(found[0].starts_with(&at), "{} is not at {at}", found[0]);
        assert!(
            found[0].contains(&format!("spec.targetRefs[0].{field}: ")),
            "{}",
            found[0]
        );
        assert!(found[0].contains(message), "{}", found[0]);
    }
}

#[test]
fn a_policy_of_another_namespace_is_told_where_it_belongs() {
    let text = allowing("{group: '', kind: Service, name: billing}").replace(
        "{name: allow, namespace: shop}",
        "{name: allow, namespace: bank}",
    );
    let found = problems(&text);
    assert!(found[0].contains("there is one in shop"), "{}", found[0]);
}

#[test]
fn a_rule_about_a_port_that_no_target_has_is_a_problem() {
    let text = allowing("{group: '', kind: Service, name: billing}").replace(
        "rules: [{",
        "rules: [{networkAttributes: {ports: [8080, 80]}, ",
    );
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("spec.rules[0].networkAttributes.ports[1]"),
        "{}",
        found[0]
    );
    assert!(found[0].contains("one of 5433, 8080, 8081"), "{}", found[0]);
}

/// What one edit of the shop says.
fn edited(from: &str, to: &str) -> Vec<String> {
    let text = SHOP.replace(from, to);
    assert_ne!(text, SHOP, "{from} is not in the text");
    problems(&text)
}

#[test]
fn mistakes_are_problems() {
    let table = [
        (
            "name: billing-2, ",
            "name: billing-1, ",
            "metadata.name",
            "given twice",
        ),
        (
            "name: billing-db, ",
            "name: billing, ",
            "metadata.name",
            "given twice",
        ),
        (
            "targetPort: web",
            "targetPort: wbe",
            "spec.ports[0].targetPort",
            "no port named",
        ),
        (
            "ports: [{port: 5432, targetPort: 5433}]",
            "ports: [{port: 5432}, {port: 5432}]",
            "spec.ports[1].port",
            "given twice",
        ),
        (
            "service: billing, ",
            "service: bank, ",
            "upstreams[0].service",
            "no Service shop/bank",
        ),
        (
            "port: 80, localPort",
            "port: 81, localPort",
            "upstreams[0].port",
            "one of 80",
        ),
        (
            "localPort: 18102",
            "localPort: 18101",
            "upstreams[0].localPort",
            "also spec.outbound.httpPort",
        ),
        (
            "httpPort: 18101",
            "httpPort: 19002",
            "spec.outbound.httpPort",
            "also spec.adminPort of Workload shop/billing-1",
        ),
        (
            "meshPort: 19001",
            "meshPort: 8080",
            "spec.meshPort",
            "also spec.ports[0].port",
        ),
        (
            "telemetryPort: 19003",
            "telemetryPort: 15020",
            "spec.telemetryPort",
            "same machine",
        ),
        (
            "serviceAccount: billing\n  address: 10.0.0.2\n  ports: [{name: web, port: 8081}",
            "serviceAccount: billing\n  address: 10.0.0.2\n  ports: [{name: web, port: 5433}",
            "spec.ports[1].port",
            "also spec.ports[0].port",
        ),
    ];
    for (from, to, field, message) in table {
        let found = edited(from, to);
        let expected = found
            .iter()
            .any(|problem| problem.contains(field) && problem.contains(message));
        assert!(expected, "{to}: {found:?}");
    }
}

#[test]
fn nobody_may_be_the_control_plane() {
    let found = problems(
        "
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: me, namespace: outrider-system}
spec: {serviceAccount: control-plane, address: 10.0.0.1}
",
    );
    assert!(found[0].contains("spec.serviceAccount"), "{}", found[0]);
}

#[test]
fn one_mesh_config() {
    let found = problems(&format!(
        "{SHOP}---\napiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: b}}\n"
    ));
    assert!(found[0].contains("second MeshConfig"), "{}", found[0]);
}

#[test]
fn problems_come_all_at_once_and_in_order() {
    let text = SHOP
        .replace("targetPort: web", "targetPort: wbe")
        .replace("localPort: 18102", "localPort: 18101");
    let found = problems(&text);
    // The port of that name is missing in both workloads.
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[2].contains("localPort"), "{found:?}");
}

#[test]
fn the_trust_domain_is_that_of_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let domain: TrustDomain = "bank.example".parse().unwrap();
    let authority = outrider_certs::authority::CertificateAuthority::load_or_create(
        dir.path(),
        &domain,
        std::time::SystemTime::now(),
    )
    .unwrap();
    let objects = manifest::parse(Path::new("mesh.yaml"), SHOP).unwrap();
    let found = build(&objects, Some(&authority.trust_bundle())).unwrap_err();
    assert_eq!(found[0].field, "spec.trustDomain");
}

#[test]
fn every_model_survives_the_wire() {
    use outrider_api::{model, proto};
    let mesh = fold(&allowing("{group: '', kind: Pod, selector: {}}")).unwrap();
    for workload in mesh.workloads().values() {
        let wire = proto::Workload::from(&**workload);
        assert_eq!(&model::Workload::try_from(wire).unwrap(), &**workload);
    }
    for destination in mesh.destinations().values() {
        let wire = proto::Destination::from(&**destination);
        assert_eq!(&model::Destination::try_from(wire).unwrap(), &**destination);
    }
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let text = allowing("{group: '', kind: Pod, selector: {}}");
    let mut objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    let mesh = build(&objects, None).unwrap();
    objects.reverse();
    let reversed = build(&objects, None).unwrap();
    assert_eq!(mesh.workloads(), reversed.workloads());
    assert_eq!(mesh.destinations(), reversed.destinations());
}
