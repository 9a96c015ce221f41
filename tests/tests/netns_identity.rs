//! Whom a call from a network namespace reaches, by every kind of address, and under which identity.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use mesh_tests::placed::Placed;
use mesh_tests::programs::{python, script};
use serde_json::json;

use crate::netns_common::{
    account, allow, config, headless, json_lines, metrics, nginx, service, websockets, workload,
};

const DENIED: &str = "outrider; error=http_request_denied; details=\"authorization_denied\"";

fn principal(account: &str) -> String {
    format!("spiffe://shop.example/ns/shop/sa/{account}")
}

/// Two instances of nginx, under a ServiceAccount each, that say who they are and who calls.
fn two_instances() -> Result<(tempfile::TempDir, Placed)> {
    let folder = tempfile::tempdir()?;
    let port = "{name: http, port: 8080, appProtocol: http}";
    let mut yaml = vec![
        config(""),
        workload("client-1", ""),
        workload("other-1", ""),
    ];
    for (instance, account) in [("web-1", "web"), ("web-2", "canary")] {
        let site = format!(
            "server {{ listen [::]:8080 ipv6only=off; \
             return 200 '{instance} $http_x_forwarded_client_cert'; }}"
        );
        let command = nginx(folder.path(), instance, &site)?;
        let described = workload(instance, &format!(", ports: [{port}]{command}"));
        let account = format!("serviceAccount: {account},");
        yaml.push(described.replace("serviceAccount: web,", &account));
    }
    let target = port.replace("port: 8080", "port: 80, targetPort: 8080");
    yaml.extend([
        service("billing", "web", &target),
        headless("instances", "web", port),
        allow("web", &account("client")),
    ]);
    let mesh = Placed::start("identity", &[("mesh.yaml", &yaml.concat())])?;
    Ok((folder, mesh))
}

#[test]
fn a_call_reaches_who_is_at_its_address_under_that_identity() -> Result<()> {
    let (_folder, mesh) = two_instances()?;
    // By the Service: either instance. By an instance's address, or as DNS tells it of a Service
    // without one: that instance, and no other.
    let mut places = vec![("http://billing/".to_owned(), vec!["web-1", "web-2"])];
    for instance in ["web-1", "web-2"] {
        for address in mesh.addresses("client-1", instance)? {
            let host = match address.contains(':') {
                true => format!("[{address}]"),
                false => address,
            };
            places.push((format!("http://{host}:8080/"), vec![instance]));
        }
        let name = format!("{instance}.instances.shop.svc.cluster.local");
        places.push((format!("http://{name}:8080/"), vec![instance]));
    }
    for (url, expected) in &places {
        let mut reached = BTreeSet::new();
        for _ in 0..10 {
            let answer = mesh.curl("client-1", &[url])?;
            assert_eq!(answer.status, 200, "{url}: {answer:?}");
            let (by, certificate) = answer.body.split_once(' ').context("two words")?;
            let caller = format!("URI={}", principal("client"));
            assert!(certificate.contains(&caller), "{url}: {certificate}");
            reached.insert(by.to_owned());
        }
        let reached: Vec<&str> = reached.iter().map(String::as_str).collect();
        assert_eq!(&reached, expected, "{url}");
        let refused = mesh.curl("other-1", &[url])?;
        let got = (refused.status, refused.header("proxy-status"));
        assert_eq!(got, (403, Some(DENIED)), "{url}");
    }
    let metrics = metrics(&mesh, "client-1")?;
    let of = |account: &str| {
        let principal = principal(account);
        let labels = [
            ("reporter", "source"),
            ("connection_security_policy", "mutual_tls"),
            ("response_code", "200"),
            ("destination_principal", principal.as_str()),
        ];
        metrics.sum("istio_requests_total", &labels)
    };
    // Three places of each instance, ten times; what the Service was asked comes on top.
    assert!(of("web") > 30.0 && of("canary") > 30.0);
    assert_eq!(of("web") + of("canary"), 70.0);
    Ok(())
}

#[test]
fn a_websocket_goes_to_a_service_by_its_name() -> Result<()> {
    let port = "{name: ws, port: 8090}";
    let server = websockets(8090)?;
    let yaml = [
        config(""),
        workload("chat-1", &format!(", ports: [{port}]{server}")),
        workload("client-1", ""),
        workload("other-1", ""),
        service("chat", "chat", "{name: http, port: 80, targetPort: 8090}"),
        allow("chat", &account("client")),
    ];
    let mesh = Placed::start("chat", &[("mesh.yaml", &yaml.concat())])?;
    let call = |workload: &str, url: &str| {
        let mut client = mesh.inside(workload, "env", "coreutils")?;
        client.arg(python()?).arg(script("ws_peer.py"));
        json_lines(client.args(["client", url]))
    };
    for url in ["ws://chat/", "ws://chat-1:8090/"] {
        let seen = call("client-1", url)?;
        assert_eq!(
            seen[0]["messages"],
            json!(["same", "same", "same"]),
            "{url}"
        );
        assert_eq!(seen[0]["close"][0], 1000, "{url}: {seen:?}");
    }
    let refused = call("other-1", "ws://chat/")?;
    assert_eq!(refused[0]["status"], 403, "{refused:?}");
    let upgraded = [
        ("reporter", "source"),
        ("response_code", "101"),
        ("connection_security_policy", "mutual_tls"),
    ];
    let counted = metrics(&mesh, "client-1")?.sum("istio_requests_total", &upgraded);
    assert_eq!(counted, 2.0);
    Ok(())
}
