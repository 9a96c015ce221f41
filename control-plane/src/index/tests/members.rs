//! Endpoints of Services without a selector, which whoever may write EndpointSlices of a namespace says.

use std::collections::BTreeSet;

use super::*;
use crate::index::memo::Shared;

const PLACE: &str = "
{apiVersion: v1, kind: Service, metadata: {name: b, namespace: shop}, spec: {ports: [{port: 80, targetPort: 8080, appProtocol: http}]}}
---
{apiVersion: outrider.mesh/v1alpha1, kind: Workload, metadata: {name: own, namespace: shop}, spec: {serviceAccount: own, address: 10.0.0.1}}
---
{apiVersion: outrider.mesh/v1alpha1, kind: Workload, metadata: {name: pay, namespace: bank}, spec: {serviceAccount: pay, address: 10.0.0.2}}
---
{apiVersion: outrider.mesh/v1alpha1, kind: AuthorizationPolicy, metadata: {name: open, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: b}], rules: [{}]}}
---
{apiVersion: outrider.mesh/v1alpha1, kind: RateLimitPolicy, metadata: {name: few, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: b}], limits: [{name: few, requests: 1, interval: 1h}]}}
";

/// With these behind the Service.
fn folded(behind: &[(&str, &str)]) -> Mesh {
    let objects = manifest::parse(Path::new("mesh.yaml"), PLACE).unwrap();
    let names = behind.iter();
    let names = names.map(|(namespace, name)| WorkloadName::new(*namespace, *name));
    let members: BTreeSet<WorkloadName> = names.collect();
    let service = ServiceName::new("shop", "b").unwrap();
    let endpoints = Endpoints {
        members: Shared::new([(service, members)].into()),
        ..Endpoints::default()
    };
    let beside = Beside {
        endpoints: Some(&endpoints),
        tolerated: &[Cause::NoEffect],
        ..Beside::default()
    };
    let shelves = objects.into_iter().collect();
    crate::index::fold(&shelves, beside, &mut Memo::default()).unwrap()
}

#[test]
fn policies_are_about_endpoints_of_their_own_namespace_alone() {
    let own = WorkloadName::new("shop", "own");
    for (behind, expected) in [
        (&[("shop", "own"), ("bank", "pay")][..], Some(own)),
        (&[("bank", "pay")], None),
    ] {
        let mesh = folded(behind);
        let called = mesh.destination(&ServiceName::new("shop", "b").unwrap());
        assert_eq!(called.unwrap().endpoints.len(), behind.len());
        let expected: BTreeSet<_> = expected.into_iter().collect();
        for found in [
            mesh.policy_targets(&("shop".to_owned(), "open".to_owned())),
            mesh.limit_targets(&("shop".to_owned(), "few".to_owned())),
        ] {
            assert_eq!(found.cloned().unwrap_or_default(), expected);
        }
        // Nor does the Service say anything of what the other one is called.
        let pay = mesh.workload("bank", "pay").unwrap();
        assert!(pay.services.is_empty() && pay.ports.is_empty(), "{pay:?}");
    }
}
