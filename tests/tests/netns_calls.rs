//! Calls between workloads in network namespaces: programs that know nothing of a mesh, by every kind
//! of address.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::metrics::Metrics;
use mesh_tests::placed::Placed;
use mesh_tests::process::{Process, run};
use mesh_tests::programs::find;
use mesh_tests::wait::{PATIENCE, becomes, until};
use rustix::process::Signal;
use serde_json::Value;

/// `web` may be read by `client`, and by nobody else. `other` is somebody else.
pub(crate) const WEB: &str = r#"
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: shop.example, defaultDeny: true}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: shop}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080, appProtocol: http}]
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  rules:
  - name: client-reads
    sources: [{type: ServiceAccount, serviceAccount: {name: client}}]
    http: [{methods: [GET]}]
"#;

pub(crate) const WORKLOADS: &str = r#"
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec:
  serviceAccount: web
  ports: [{name: http, port: 8080, appProtocol: http}]
  command: [/usr/bin/python3, -u, -m, http.server, "8080", --bind, "0.0.0.0", --directory, /etc/netns]
  runAsUser: 1000
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: client-1, namespace: shop, labels: {app: client}}
spec: {serviceAccount: client, runAsUser: 1000}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: other-1, namespace: shop, labels: {app: other}}
spec: {serviceAccount: other}
"#;

const DENIED: &str = "outrider; error=http_request_denied; details=\"authorization_denied\"";

fn web(label: &str) -> Result<Placed> {
    Placed::start(label, &[("web.yaml", WEB), ("workloads.yaml", WORKLOADS)])
}

/// `http://ADDRESS:PORT/`, whichever the family.
fn url(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("http://[{address}]:{port}/"),
        false => format!("http://{address}:{port}/"),
    }
}

#[test]
fn a_program_calls_by_name_and_by_every_address() -> Result<()> {
    let mesh = web("calls")?;
    let mut urls: Vec<String> = [
        "http://web/",
        "http://web.shop/",
        "http://web.shop.svc.cluster.local/",
        "http://web-1:8080/",
        "http://store:8080/",
        "http://web-1.store.shop.svc.cluster.local:8080/",
    ]
    .map(str::to_owned)
    .into();
    let services = mesh.addresses("client-1", "web")?;
    let instances = mesh.addresses("client-1", "web-1")?;
    assert_eq!(
        (services.len(), instances.len()),
        (2, 2),
        "one of each family"
    );
    urls.extend(services.iter().map(|address| url(address, 80)));
    urls.extend(instances.iter().map(|address| url(address, 8080)));
    for url in urls {
        let answer = mesh.curl("client-1", &[&url])?;
        assert_eq!(answer.status, 200, "{url}: {answer:?}");
        let refused = mesh.curl("client-1", &[&url, "--data", "x"])?;
        assert_eq!(refused.status, 403, "{url}: {refused:?}");
        assert_eq!(refused.header("proxy-status"), Some(DENIED), "{url}");
        let refused = mesh.curl("other-1", &[&url])?;
        assert_eq!(refused.status, 403, "{url}: {refused:?}");
        assert_eq!(refused.header("proxy-status"), Some(DENIED), "{url}");
    }
    // Both families by one name.
    for family in ["-4", "-6"] {
        assert_eq!(mesh.curl("client-1", &[family, "http://web/"])?.status, 200);
    }
    // The app itself never had to be told: a connection that is not the sidecar's is refused.
    let answer = mesh.curl_from_outside(&[&url(&instances[0], 8080)])?;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(
        answer.header("proxy-status"),
        Some("outrider; error=http_request_denied; details=\"plaintext_refused\"")
    );
    Ok(())
}

#[test]
fn exec_and_stat_know_the_namespaces() -> Result<()> {
    let mesh = web("exec")?;
    let folder = mesh.folder.path().display().to_string();
    let exec = |workload: &str, command: &[&str]| {
        mesh.outrider(&[&["exec", &folder, workload, "--"], command].concat())
    };
    let ran = exec(
        "client-1",
        &[
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://web/",
        ],
    )?;
    assert_eq!(ran.success()?.stdout, "200");
    assert_eq!(exec("client-1", &["id", "-u"])?.success()?.stdout, "1000\n");
    assert_eq!(
        exec("shop/other-1", &["id", "-u"])?.success()?.stdout,
        "0\n"
    );
    assert_eq!(
        exec("client-1", &["sh", "-c", "exit 42"])?.status.code(),
        Some(42)
    );
    let missing = exec("nobody-1", &["true"])?;
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        missing
            .stderr
            .contains("no Workload nobody-1 here: there are client-1, other-1, web-1"),
        "{}",
        missing.stderr
    );

    let stat = mesh.outrider(&["stat", &folder, "--interval", "100ms", "--output", "json"])?;
    let stat: Value = serde_json::from_str(&stat.success()?.stdout)?;
    assert_eq!(stat["silent"], Value::Array(Vec::new()), "{stat:#}");
    let edges = stat["edges"].as_array().context("edges")?;
    let edge = edges.iter().find(|edge| {
        edge["source"] == "spiffe://shop.example/ns/shop/sa/client"
            && edge["destination"] == "spiffe://shop.example/ns/shop/sa/web"
    });
    assert_eq!(
        edge.context("client calls web")?["mutual_tls"],
        true,
        "{stat:#}"
    );
    Ok(())
}

#[test]
fn no_plaintext_crosses_the_bridge() -> Result<()> {
    let mesh = web("sniff")?;
    let file = mesh.logs().join("bridge.pcap");
    let mut dump = mesh.command(&find("tcpdump", "tcpdump")?)?;
    dump.args([
        "-i",
        &mesh.bridge()?,
        "-s",
        "0",
        "-U",
        "--immediate-mode",
        "-Z",
        "root",
        "-w",
    ])
    .arg(&file);
    let mut dump = Process::start("tcpdump", &mesh.logs(), &mut dump)?.stopped_by(Signal::TERM);
    dump.wait_for_log("listening on", PATIENCE)?;
    let marker = "plaintext-that-nobody-else-may-read";
    for url in ["http://web", "http://web-1:8080"] {
        for family in ["-4", "-6"] {
            let url = format!("{url}/{marker}");
            let header = format!("x-secret: {marker}");
            let answer = mesh.curl("client-1", &[family, &url, "--header", &header])?;
            assert_eq!(answer.status, 404, "the app has no such file: {answer:?}");
            assert!(answer.body.contains("File not found"), "{answer:?}");
        }
    }
    // What is not encrypted is seen: the capture is one. It comes last, and so does its end.
    let shown = "plaintext-that-everybody-may-read";
    let instance = url(&mesh.addresses("client-1", "web-1")?[0], 8080);
    mesh.curl_from_outside(&[&format!("{instance}{shown}")])?;
    let seen = |text: &str| -> Result<bool> {
        let bytes = fs::read(&file)?;
        Ok(bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes()))
    };
    until("the capture has what was sent last", PATIENCE, || {
        seen(shown)
    })?;
    dump.terminate()?;
    dump.exit(PATIENCE)?;
    assert!(!seen(marker)?, "the marker crossed the bridge in plaintext");
    Ok(())
}

#[test]
fn names_of_new_services_are_known_at_once() -> Result<()> {
    let mesh = web("names")?;
    assert!(
        mesh.addresses("client-1", "shelf").is_err(),
        "nobody knows the name yet"
    );
    let shelf = WEB.split("---").nth(1).context("the Service")?;
    fs::write(
        mesh.folder.path().join("shelf.yaml"),
        shelf.replace("name: web,", "name: shelf,"),
    )?;
    until("the name is known", PATIENCE, || {
        Ok(mesh.addresses("client-1", "shelf").is_ok())
    })?;
    becomes("the new Service is called", &200, || {
        Ok(mesh.curl("client-1", &["http://shelf/"])?.status)
    })
}

#[test]
fn tproxy_serves_as_redirect_does() -> Result<()> {
    let workloads = WORKLOADS
        .replace(
            "{serviceAccount: client,",
            "{interception: {mode: TProxy}, serviceAccount: client,",
        )
        .replace(
            "  serviceAccount: web\n",
            "  serviceAccount: web\n  interception: {mode: TProxy}\n",
        );
    assert_eq!(workloads.matches("TProxy").count(), 2);
    let mesh = Placed::start(
        "tproxy",
        &[("web.yaml", WEB), ("workloads.yaml", &workloads)],
    )?;
    for family in ["-4", "-6"] {
        for url in ["http://web/", "http://web-1:8080/"] {
            let answer = mesh.curl("client-1", &[family, url])?;
            assert_eq!(answer.status, 200, "{url}: {answer:?}");
        }
    }
    assert_eq!(mesh.curl("other-1", &["http://web/"])?.status, 403);
    // One privilege, and no way to another.
    let status = fs::read_to_string(format!("/proc/{}/status", mesh.sidecar("web-1")?))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let net_admin = "0000000000001000";
    for capabilities in ["CapPrm:\t", "CapEff:\t", "CapBnd:\t"] {
        assert_eq!(
            field(capabilities),
            Some(net_admin),
            "{capabilities}{status}"
        );
    }
    assert_eq!(field("NoNewPrivs:\t"), Some("1"), "{status}");
    Ok(())
}

#[test]
fn what_is_excluded_is_left_alone() -> Result<()> {
    let workloads = WORKLOADS.replace(
        "  serviceAccount: web\n",
        "  serviceAccount: web\n  interception: {excludeInboundPorts: [8080]}\n",
    );
    let mesh = Placed::start(
        "exclude",
        &[("web.yaml", WEB), ("workloads.yaml", &workloads)],
    )?;
    let instance = url(&mesh.addresses("client-1", "web-1")?[0], 8080);
    let answer = mesh.curl_from_outside(&[&instance])?;
    assert_eq!(answer.status, 200, "the app answers itself: {answer:?}");
    assert_eq!(mesh.curl("client-1", &["http://web/"])?.status, 200);
    Ok(())
}

#[test]
fn a_sidecar_has_no_privileges_and_its_token_no_other_reader() -> Result<()> {
    let mesh = web("drop")?;
    let status = fs::read_to_string(format!("/proc/{}/status", mesh.sidecar("client-1")?))?;
    for line in [
        "Uid:\t2102\t2102\t2102\t2102",
        "Gid:\t2102\t2102\t2102\t2102",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(
            status.lines().any(|known| known == line),
            "{line}: {status}"
        );
    }
    // An app that is not root does not get at the token of its sidecar, nor at the keys.
    let folder = mesh.folder.path().display().to_string();
    let token = format!("/run/outrider/{}/tokens/shop.client-1.jwt", mesh.id()?);
    assert!(fs::metadata(&token)?.is_file());
    for secret in [token, format!("{folder}/.outrider/ca.key")] {
        let read = mesh.outrider(&["exec", &folder, "client-1", "--", "cat", &secret])?;
        assert!(!read.status.success(), "{secret} was read");
        assert!(read.stderr.contains("Permission denied"), "{}", read.stderr);
    }
    // And the sidecar serves its metrics to the machine.
    let telemetry = mesh.addresses("client-1", "client-1")?[0].clone();
    let curl = find("curl", "curl")?;
    let url = format!("http://{telemetry}:15020/metrics");
    let told = run(
        mesh.command(&curl)?.args(["-s", &url]),
        Duration::from_secs(10),
    )?;
    let metrics = Metrics::parse(&told.success()?.stdout)?;
    assert_eq!(metrics.sum("outrider_control_plane_connected", &[]), 1.0);
    Ok(())
}
