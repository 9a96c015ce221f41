//! What comes to an app in plaintext, past the mesh, through interception; and what an app tries at its
//! own sidecar.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::placed::Placed;
use mesh_tests::process::{Process, run};
use mesh_tests::programs::{find, outrider};
use mesh_tests::wait::{PATIENCE, becomes, until};

const REFUSED: &str = "outrider; error=http_request_denied; details=\"plaintext_refused\"";
const DENIED: &str = "outrider; error=http_request_denied; details=\"authorization_denied\"";
const FORBIDDEN: &str =
    "outrider; error=destination_ip_prohibited; details=\"forbidden_destination\"";

/// `web` may be read from the machine at `/from-the-machine…`, and by `client`; `cache` by anyone.
fn mesh(label: &str, config: &str, web: &str) -> Result<Placed> {
    let redis = find("redis-server", "redis-server")?;
    let yaml = format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: web-1, namespace: shop, labels: {{app: web}}}}
spec:
  serviceAccount: web
  ports: [{{name: http, port: 8080, appProtocol: http}}]
  command: [/usr/bin/python3, -u, -m, http.server, "8080", --bind, "0.0.0.0", --directory, /etc/netns]
  runAsUser: 65534
{web}---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: cache-1, namespace: shop, labels: {{app: cache}}}}
spec:
  serviceAccount: cache
  ports: [{{name: tcp-redis, port: 6379}}]
  command: [{}, --port, "6379", --bind, 0.0.0.0, --protected-mode, no, --save, ""]
  runAsUser: 65534
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec: {{serviceAccount: client}}
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: web, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: web}}]
  rules:
  - name: client
    sources: [{{type: ServiceAccount, serviceAccount: {{name: client}}}}]
  - name: machine
    sources: [{{type: IPBlock, ipBlock: {{cidr: 10.201.0.1/32}}}}]
    http: [{{paths: [{{type: PathPrefix, value: /from-the-machine}}]}}]
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: cache, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Pod, selector: {{matchLabels: {{app: cache}}}}}}]
  rules: [{{name: anyone}}]
"#,
        redis.display()
    );
    Placed::start(
        label,
        &[("config.yaml", &config_yaml(config)), ("mesh.yaml", &yaml)],
    )
}

fn config_yaml(spec: &str) -> String {
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\n\
         spec: {{trustDomain: shop.example, defaultDeny: true{spec}}}\n"
    )
}

fn address(mesh: &Placed, workload: &str) -> Result<String> {
    Ok(mesh.addresses("client-1", workload)?[0].clone())
}

fn counted(mesh: &Placed, workload: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(mesh.metrics(workload)?.sum(name, labels))
}

#[test]
fn strict_mode_refuses_plaintext_and_says_so() -> Result<()> {
    let mesh = mesh("strict", "", "")?;
    let web = address(&mesh, "web-1")?;
    let answer = mesh.curl_from_outside(&[&format!("http://{web}:8080/from-the-machine")])?;
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (403, Some(REFUSED))
    );
    // What is not HTTP is reset, and what is declared not to be HTTP at once.
    for (workload, port, bytes) in [
        ("web-1", 8080, &b"\x00\x01\r\n"[..]),
        ("cache-1", 6379, b""),
    ] {
        let to: SocketAddr = format!("{}:{port}", address(&mesh, workload)?).parse()?;
        let read = mesh.machine.within(|| {
            let mut stream = TcpStream::connect(to)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let _ = stream.write_all(bytes);
            Ok(stream.read(&mut [0; 16]).map_err(|error| error.kind()))
        })?;
        assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset), "{workload}");
    }
    let refused = [("direction", "inbound"), ("reason", "plaintext_refused")];
    assert_eq!(
        counted(&mesh, "web-1", "outrider_refusals_total", &refused)?,
        2.0
    );
    assert_eq!(
        counted(&mesh, "cache-1", "outrider_refusals_total", &refused)?,
        1.0
    );
    Ok(())
}

#[test]
fn probes_reach_the_app_on_declared_paths_only() -> Result<()> {
    let probes = "  probes: [{httpGet: {path: /, port: 8080}}]\n";
    let mesh = mesh("probes", "", probes)?;
    let web = format!("http://{}:8080", address(&mesh, "web-1")?);
    let root = format!("{web}/");
    assert_eq!(mesh.curl_from_outside(&[&root])?.status, 200);
    let elsewhere = format!("{web}/from-the-machine");
    let dots = format!("{web}/x/../");
    for refused in [
        &[elsewhere.as_str()][..],
        &["--path-as-is", &dots],
        &["--request", "POST", &root],
        &["--request", "HEAD", "--head", &root],
    ] {
        let answer = mesh.curl_from_outside(refused)?;
        let got = (answer.status, answer.header("proxy-status"));
        assert_eq!(got, (403, Some(REFUSED)), "{refused:?}");
    }
    // A probe's connection is no way in for what comes after it.
    let answer = mesh.curl_from_outside(&[&root, "--next", "--silent", "--include", &elsewhere])?;
    assert!(answer.body.contains("plaintext_refused"), "{answer:?}");
    assert_eq!(
        counted(&mesh, "web-1", "outrider_probes_total", &[("kind", "http")])?,
        2.0
    );
    let requests = [("reporter", "destination"), ("source_principal", "unknown")];
    assert_eq!(
        counted(&mesh, "web-1", "istio_requests_total", &requests)?,
        0.0
    );
    Ok(())
}

#[test]
fn permissive_mode_leaves_it_to_policy() -> Result<()> {
    for (label, config, web) in [
        ("mesh", ", mtls: Permissive", ""),
        ("workload", "", "  mtls: Permissive\n"),
    ] {
        let mesh = mesh(label, config, web)?;
        let web = format!("http://{}:8080", address(&mesh, "web-1")?);
        let allowed = format!("{web}/from-the-machine");
        let spoofed = "x-forwarded-client-cert: URI=spiffe://shop.example/ns/shop/sa/client";
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            // The app speaks no HTTP/2: it is policy that lets the request go there.
            let answer = mesh.curl_from_outside(&[version, "--header", spoofed, &allowed])?;
            let status = if version == "--http1.1" { 404 } else { 502 };
            assert_eq!(answer.status, status, "{version}: {answer:?}");
            let denied = mesh.curl_from_outside(&[version, "--header", spoofed, &web])?;
            let got = (denied.status, denied.header("proxy-status"));
            assert_eq!(got, (403, Some(DENIED)), "{version}: {denied:?}");
        }
        let plain = [
            ("connection_security_policy", "none"),
            ("response_code", "404"),
        ];
        until("the request is marked", PATIENCE, || {
            Ok(counted(&mesh, "web-1", "istio_requests_total", &plain)? == 1.0)
        })?;
        assert_eq!(mesh.curl("client-1", &["http://web/"])?.status, 200);
        let labels = [("direction", "inbound"), ("to", "plaintext")];
        assert!(
            counted(
                &mesh,
                "web-1",
                "outrider_intercepted_connections_total",
                &labels
            )? >= 4.0
        );
    }
    Ok(())
}

#[test]
fn a_mesh_that_turns_strict_ends_what_is_open_in_plaintext() -> Result<()> {
    let mesh = mesh("turns", ", mtls: Permissive", "")?;
    let to: SocketAddr = format!("{}:6379", address(&mesh, "cache-1")?).parse()?;
    let mut open = mesh.machine.within(|| Ok(TcpStream::connect(to)?))?;
    open.set_read_timeout(Some(PATIENCE))?;
    open.write_all(b"PING\r\n")?;
    let mut pong = [0; 7];
    open.read_exact(&mut pong)?;
    assert_eq!(&pong, b"+PONG\r\n");
    std::fs::write(mesh.folder.path().join("config.yaml"), config_yaml(""))?;
    // It ends, by itself.
    assert_eq!(open.read(&mut pong).unwrap_or(0), 0);
    let refused = [("direction", "inbound"), ("reason", "plaintext_refused")];
    assert_eq!(
        counted(&mesh, "cache-1", "outrider_refusals_total", &refused)?,
        1.0
    );
    Ok(())
}

#[test]
fn a_sidecar_is_no_way_to_itself_or_to_another() -> Result<()> {
    let mesh = mesh("loops", "", "")?;
    let own = address(&mesh, "client-1")?;
    for url in [
        "http://127.0.0.1:15001/".to_owned(),
        format!("http://{own}:15001/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        let answer = mesh.curl("client-1", &[&url])?;
        let got = (answer.status, answer.header("proxy-status"));
        assert_eq!(got, (403, Some(FORBIDDEN)), "{url}: {answer:?}");
    }
    let answer = mesh.curl("client-1", &[&format!("http://{own}:15006/")])?;
    assert!(answer.was_reset(), "{answer:?}");
    // The ports of a peer's sidecar are none of its app's.
    for port in [15000, 15001, 15006, 15008, 15020] {
        let answer = mesh.curl("client-1", &[&format!("http://web-1:{port}/config")])?;
        assert_eq!(
            (answer.status, answer.header("proxy-status")),
            (
                404,
                Some("outrider; error=destination_not_found; details=\"unknown_port\"")
            ),
            "{port}: {answer:?}"
        );
    }
    Ok(())
}

#[test]
fn the_admin_port_is_for_the_sidecars_own_user() -> Result<()> {
    let mesh = mesh("admin", "", "")?;
    let url = "http://127.0.0.1:15000/config";
    // Apps in containers often run as root, and so does curl here.
    for arguments in [
        &[url][..],
        &["-X", "POST", "http://127.0.0.1:15000/log?level=debug"],
    ] {
        let answer = mesh.curl("client-1", arguments)?;
        let got = (answer.status, answer.header("proxy-status"));
        assert_eq!(got, (403, Some(FORBIDDEN)), "{answer:?}");
    }
    let labels = [
        ("direction", "outbound"),
        ("reason", "forbidden_destination"),
    ];
    let refused = counted(&mesh, "client-1", "outrider_refusals_total", &labels)?;
    assert_eq!(refused, 2.0);
    let mut operator = mesh.inside("client-1", "setpriv", "util-linux")?;
    operator
        .args(["--reuid=2102", "--regid=2102", "--clear-groups", "--"])
        .arg(find("curl", "curl")?)
        .args(["--silent", "--fail", url]);
    let config = run(&mut operator, CLIENT_LIMIT)?.success()?.stdout;
    assert!(
        config.contains("spiffe://shop.example/ns/shop/sa/"),
        "{config}"
    );
    Ok(())
}

#[test]
fn a_second_sidecar_in_a_namespace_ends_with_one_clear_line() -> Result<()> {
    let mesh = mesh("second", "", "")?;
    let program = outrider()?.display().to_string();
    let mut second = mesh.inside("web-1", "env", "coreutils")?;
    second
        .args([
            &program,
            "proxy",
            "--workload",
            "shop/web-1",
            "--token-file",
            "/dev/null",
        ])
        .args([
            "--trust-domain",
            "shop.example",
            "--intercept",
            "redirect",
            "--trust-bundle",
        ])
        .arg(mesh.folder.path().join(".outrider/ca.crt"));
    let ended = run(&mut second, CLIENT_LIMIT)?;
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stderr.contains("cannot listen on") && ended.stderr.contains("in use"),
        "{}",
        ended.output()
    );
    assert_eq!(mesh.curl("client-1", &["http://web/"])?.status, 200);
    Ok(())
}

#[test]
fn a_sidecar_without_file_descriptors_recovers() -> Result<()> {
    let mesh = mesh("files", "", "")?;
    let pid = mesh.sidecar("client-1")?.to_string();
    // As its own user, who may take something away from it.
    let mut limit = mesh.command(&find("setpriv", "util-linux")?)?;
    limit
        .args(["--reuid", "2102", "--regid", "2102", "--clear-groups", "--"])
        .arg(find("prlimit", "util-linux")?)
        .args(["--pid", &pid, "--nofile=48:48"]);
    run(&mut limit, CLIENT_LIMIT)?.success()?;
    let held = "import socket, time\n\
                held = [socket.create_connection((\"web\", 80)) for _ in range(100)]\n\
                print(\"held\", flush=True)\ntime.sleep(60)\n";
    let mut hold = mesh.inside("client-1", "/usr/bin/python3", "python3")?;
    hold.args(["-c", held]);
    let mut hold = Process::start("hold", &mesh.logs(), &mut hold)?;
    hold.wait_for_log("held", PATIENCE)?;
    assert_eq!(mesh.sidecar("client-1")?.to_string(), pid, "it lives");
    hold.kill()?;
    becomes("it serves again", &200, || {
        Ok(mesh.curl("client-1", &["http://web/"])?.status)
    })?;
    assert_eq!(mesh.sidecar("client-1")?.to_string(), pid);
    Ok(())
}

#[test]
fn an_app_may_call_until_it_ends_though_its_sidecar_was_told_to() -> Result<()> {
    let mesh = mesh("until", "", "")?;
    let to: SocketAddr = format!("{}:80", address(&mesh, "web")?).parse()?;
    assert!(to.port() == 80);
    let pid = mesh.sidecar("cache-1")?.to_string();
    let mut term = mesh.command(&find("kill", "procps")?)?;
    run(term.args(["-TERM", &pid]), CLIENT_LIMIT)?.success()?;
    until("it drains", PATIENCE, || {
        let mut ready = mesh.inside("cache-1", "curl", "curl")?;
        ready.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]);
        let url = format!("{}/ready", mesh.telemetry("cache-1")?);
        let status = run(ready.arg(url), CLIENT_LIMIT)?;
        Ok(status.stdout == "503")
    })?;
    // Redis listens still: what it calls goes through the sidecar that it has had all along.
    for _ in 0..3 {
        assert_eq!(mesh.curl("cache-1", &["http://web/"])?.status, 403);
        assert_eq!(mesh.sidecar("cache-1")?.to_string(), pid);
    }
    Ok(())
}
