//! `outrider proxy-init` in network namespaces: what it writes, judged by `nft`, and what then
//! becomes of real connections.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::catcher::Catcher;
use mesh_tests::netns::{Host, Lan, Netns};
use mesh_tests::process::{Finished, run};
use mesh_tests::programs::{find, outrider};

const LIMIT: Duration = Duration::from_secs(20);
/// Of curl: the connection was refused.
const REFUSED: i32 = 7;

/// A workload's host, whose sidecar is a [`Catcher`], and another host with a server.
pub(crate) struct Pair {
    pub(crate) workload: Host,
    pub(crate) other: Host,
    _lan: Lan,
}

impl Pair {
    pub(crate) fn new(label: &str) -> Result<Self> {
        let lan = Lan::new(label)?;
        Ok(Self {
            workload: lan.host(label, 2)?,
            other: lan.host(label, 3)?,
            _lan: lan,
        })
    }

    pub(crate) fn init(&self, arguments: &[&str]) -> Result<Finished> {
        init(&self.workload.namespace, arguments)
    }

    /// Each address of the other host, with the workload's of the same family.
    pub(crate) fn families(&self) -> [(IpAddr, IpAddr); 2] {
        [
            (self.workload.ipv4.into(), self.other.ipv4.into()),
            (self.workload.ipv6.into(), self.other.ipv6.into()),
        ]
    }
}

pub(crate) fn init(namespace: &Netns, arguments: &[&str]) -> Result<Finished> {
    let mut command = namespace.command(&outrider()?)?;
    run(command.arg("proxy-init").args(arguments), LIMIT)
}

/// What the server said that curl came to; or curl's exit status.
pub(crate) fn call(
    from: &Netns,
    uid: u32,
    to: SocketAddr,
) -> Result<std::result::Result<String, i32>> {
    let mut curl = from.command_as(uid, &find("curl", "curl")?)?;
    curl.args(["-q", "--noproxy", "*", "-sS", "--max-time", "10"]);
    let finished = run(curl.arg(format!("http://{to}/")), LIMIT)?;
    Ok(match finished.status.code() {
        Some(0) => Ok(finished.stdout),
        code => Err(code.context("curl was killed")?),
    })
}

/// A connection to `to` comes to `port` of somewhere, and is from `peer`.
#[track_caller]
pub(crate) fn arrives(
    from: &Netns,
    uid: u32,
    to: SocketAddr,
    port: u16,
    peer: IpAddr,
) -> Result<()> {
    let came = call(from, uid, to)?;
    assert_eq!(came, Ok(format!("{port} {to} {peer}")), "to {to} as {uid}");
    Ok(())
}

/// Like [`arrives`], on the port that was called.
#[track_caller]
fn passes(from: &Netns, uid: u32, to: SocketAddr, peer: IpAddr) -> Result<()> {
    arrives(from, uid, to, to.port(), peer)
}

fn listed(namespace: &Netns) -> Result<String> {
    Ok(namespace
        .run("nft", "nftables", &["list", "ruleset"])?
        .success()?
        .stdout)
}

/// An ordinary user, and the sidecar.
const APP: u32 = 1000;
const SIDECAR: u32 = 2102;

#[test]
fn connections_are_redirected_in_and_out() -> Result<()> {
    let pair = Pair::new("redirect")?;
    let done = pair.init(&[])?.success()?;
    assert_eq!(
        done.stdout,
        "nftables: the rules are in force\n\
         IPv4: a connection of our own was intercepted\n\
         IPv6: a connection of our own was intercepted\n"
    );
    let (workload, other) = (&pair.workload.namespace, &pair.other.namespace);
    let _sidecar = Catcher::start(workload, &[15001, 15006])?;
    let _app = Catcher::start(workload, &[8080])?;
    let _server = Catcher::start(other, &[8080])?;
    for (here, there) in pair.families() {
        arrives(workload, APP, (there, 8080).into(), 15001, here)?;
        // Also as root, and to where nobody is.
        arrives(workload, 0, (there, 9).into(), 15001, here)?;
        arrives(other, APP, (here, 8080).into(), 15006, there)?;
        // The sidecar's own ports are no way around it.
        arrives(other, APP, (here, 15001).into(), 15006, there)?;
        arrives(other, APP, (here, 15006).into(), 15006, there)?;
    }
    Ok(())
}

#[test]
fn without_a_sidecar_nothing_passes() -> Result<()> {
    for mode in ["redirect", "tproxy"] {
        let pair = Pair::new("no-sidecar")?;
        pair.init(&["--mode", mode])?.success()?;
        let (workload, other) = (&pair.workload.namespace, &pair.other.namespace);
        let _app = Catcher::start(workload, &[8080])?;
        let _server = Catcher::start(other, &[8080])?;
        for (here, there) in pair.families() {
            assert_eq!(
                call(workload, APP, (there, 8080).into())?,
                Err(REFUSED),
                "{mode}"
            );
            assert_eq!(
                call(other, APP, (here, 8080).into())?,
                Err(REFUSED),
                "{mode}"
            );
        }
    }
    Ok(())
}

#[test]
fn what_is_not_to_be_intercepted_passes() -> Result<()> {
    for backend in ["nftables", "iptables"] {
        let pair = Pair::new("passes")?;
        pair.init(&["--backend", backend])?.success()?;
        let (workload, other) = (&pair.workload.namespace, &pair.other.namespace);
        let _sidecar = Catcher::start(workload, &[15001, 15006, 15008, 15020])?;
        let _app = Catcher::start(workload, &[8080])?;
        let _server = Catcher::start(other, &[53, 8080])?;
        for (here, there) in pair.families() {
            passes(workload, SIDECAR, (there, 8080).into(), here)?;
            // DNS; to itself, by its own address and by loopback.
            passes(workload, APP, (there, 53).into(), here)?;
            passes(workload, APP, (here, 8080).into(), here)?;
            let loopback: IpAddr = if here.is_ipv4() { "127.0.0.1" } else { "::1" }.parse()?;
            passes(workload, APP, (loopback, 8080).into(), loopback)?;
            // Other sidecars, and who asks for metrics.
            passes(other, APP, (here, 15008).into(), there)?;
            passes(other, APP, (here, 15020).into(), there)?;
        }
        datagram_passes(workload, other, pair.other.ipv4.into())?;
    }
    Ok(())
}

/// UDP is none of its business, on whatever port.
fn datagram_passes(from: &Netns, to: &Netns, address: IpAddr) -> Result<()> {
    use std::net::UdpSocket;
    let server = to.within(|| Ok(UdpSocket::bind("0.0.0.0:8080")?))?;
    server.set_read_timeout(Some(LIMIT))?;
    let client = from.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    client.send_to(b"hello", (address, 8080))?;
    let mut bytes = [0; 16];
    let (length, _) = server.recv_from(&mut bytes)?;
    assert_eq!(&bytes[..length], b"hello");
    Ok(())
}

#[test]
fn exclusions_pass_and_nothing_else() -> Result<()> {
    for (backend, mode) in [("nftables", "redirect"), ("iptables", "redirect")] {
        let lan = Lan::new("exclude")?;
        let host = |number| lan.host("exclude", number);
        let (workload, near, far) = (host(2)?, host(3)?, host(200)?);
        init(
            &workload.namespace,
            &[
                "--backend",
                backend,
                "--mode",
                mode,
                "--exclude-outbound-ports",
                "3306,6379",
                "--exclude-outbound-cidrs",
                "10.77.0.192/26,fd77::c0/122",
                "--exclude-uids",
                "1001",
                "--exclude-inbound-ports",
                "22",
                "--exclude-inbound-cidrs",
                "10.77.0.200,fd77::c8/125",
            ],
        )?
        .success()?;
        let inside = &workload.namespace;
        let _sidecar = Catcher::start(inside, &[15001, 15006])?;
        let _app = Catcher::start(inside, &[22, 8080])?;
        let _near = Catcher::start(&near.namespace, &[80, 3306, 6379])?;
        let _far = Catcher::start(&far.namespace, &[80])?;
        let addresses = |host: &Host| -> [IpAddr; 2] { [host.ipv4.into(), host.ipv6.into()] };
        for family in 0..2 {
            let [here, near_at, far_at] =
                [&workload, &near, &far].map(|host| addresses(host)[family]);
            arrives(inside, APP, (near_at, 80).into(), 15001, here)?;
            passes(inside, APP, (near_at, 3306).into(), here)?;
            passes(inside, APP, (near_at, 6379).into(), here)?;
            passes(inside, APP, (far_at, 80).into(), here)?;
            passes(inside, 1001, (near_at, 80).into(), here)?;
            arrives(&near.namespace, APP, (here, 8080).into(), 15006, near_at)?;
            passes(&near.namespace, APP, (here, 22).into(), near_at)?;
            passes(&far.namespace, APP, (here, 8080).into(), far_at)?;
        }
    }
    Ok(())
}

#[test]
fn the_clients_address_reaches_the_app_with_tproxy() -> Result<()> {
    for backend in ["nftables", "iptables"] {
        let pair = Pair::new("tproxy")?;
        let options = [
            "--mode",
            "tproxy",
            "--backend",
            backend,
            "--exclude-inbound-ports",
            "22",
        ];
        pair.init(&options)?.success()?;
        pair.init(&[&options[..], &["--check"]].concat())?
            .success()?;
        let (workload, other) = (&pair.workload.namespace, &pair.other.namespace);
        let folder = tempfile::tempdir()?;
        let _sidecar = tproxy_sidecar(workload, folder.path())?;
        let _outbound = Catcher::start(workload, &[15001])?;
        let _app = Catcher::start(workload, &[22, 8080])?;
        let _server = Catcher::start(other, &[53, 8080])?;
        for (here, there) in pair.families() {
            passes(other, APP, (here, 8080).into(), there)?;
            passes(other, APP, (here, 22).into(), there)?;
            arrives(workload, APP, (there, 8080).into(), 15001, here)?;
            passes(workload, SIDECAR, (there, 8080).into(), here)?;
            passes(workload, APP, (there, 53).into(), here)?;
            passes(workload, APP, (here, 8080).into(), here)?;
        }
        let carried = folder.path().join("tproxy.log");
        let lines = std::fs::read_to_string(carried)?;
        ensure!(lines.matches("carried").count() == 2, "{lines}");
    }
    Ok(())
}

fn tproxy_sidecar(namespace: &Netns, folder: &std::path::Path) -> Result<mesh_tests::Process> {
    let mut command = namespace.command(&find("python3", "python3")?)?;
    command
        .arg(mesh_tests::programs::script("tproxy.py"))
        .args(["15006", &SIDECAR.to_string()]);
    let mut process = mesh_tests::Process::start("tproxy", folder, &mut command)?;
    process.wait_for_log("listening", LIMIT)?;
    Ok(process)
}

#[test]
fn nft_reads_the_rules_as_they_are_printed() -> Result<()> {
    for mode in ["redirect", "tproxy"] {
        let options = [
            "--mode",
            mode,
            "--exclude-outbound-ports",
            "3306",
            "--exclude-outbound-cidrs",
            "10.96.0.1,10.128.0.0/9,172.16.0.0/12,fd00::/8,2001:db8::/33",
            "--exclude-inbound-cidrs",
            "192.168.0.0/16,fe80::/10",
            "--exclude-uids",
            "33,4294967294",
        ];
        let written = Netns::new("written")?;
        init(&written, &options)?.success()?;
        let printed = Netns::new("printed")?;
        let text = init(&printed, &[&options[..], &["--dry-run"]].concat())?
            .success()?
            .stdout;
        assert_eq!(listed(&printed)?, "", "--dry-run changes nothing");
        let mut nft = printed.command(&find("nft", "nftables")?)?;
        mesh_tests::process::run_with_input(nft.args(["-f", "-"]), text.as_bytes(), LIMIT)?
            .success()?;
        assert_eq!(listed(&written)?, listed(&printed)?);
        // And what was written by nft is what init expects.
        if mode == "redirect" {
            init(&printed, &[&options[..], &["--check"]].concat())?.success()?;
        }
    }
    Ok(())
}

#[test]
fn twice_is_once_and_remove_leaves_nothing() -> Result<()> {
    for mode in ["redirect", "tproxy"] {
        let namespace = Netns::new("twice")?;
        let routing = |namespace: &Netns| -> Result<String> {
            let mut all = String::new();
            for family in ["-4", "-6"] {
                all += &namespace.ip(&[family, "rule"])?;
                all += &namespace.ip(&[family, "route", "show", "table", "all"])?;
            }
            Ok(all)
        };
        let before = routing(&namespace)?;
        init(&namespace, &["--mode", mode])?.success()?;
        let handles = ["-a", "list", "ruleset"];
        let first = namespace.run("nft", "nftables", &handles)?.stdout;
        let routes = routing(&namespace)?;
        assert_eq!(routes != before, mode == "tproxy", "{routes}");
        let again = init(&namespace, &["--mode", mode])?.success()?;
        assert!(
            again
                .stdout
                .starts_with("nftables: the rules are in force already\n"),
            "{}",
            again.stdout
        );
        // The very same rules: not even written anew.
        assert_eq!(namespace.run("nft", "nftables", &handles)?.stdout, first);
        assert_eq!(routing(&namespace)?, routes);
        for _ in 0..2 {
            let removed = init(&namespace, &["--remove"])?.success()?;
            assert_eq!(
                removed.stdout,
                "removed: connections of this namespace pass\n"
            );
            assert_eq!(listed(&namespace)?, "");
            assert_eq!(routing(&namespace)?, before);
        }
        let check = init(&namespace, &["--mode", mode, "--check"])?;
        assert_eq!(check.status.code(), Some(1));
        assert!(
            check.stderr.contains("expected the table, found nothing"),
            "{}",
            check.stderr
        );
    }
    Ok(())
}

#[test]
fn other_exclusions_and_modes_of_the_same_sidecar_replace_the_old() -> Result<()> {
    let namespace = Netns::new("replace")?;
    init(&namespace, &["--mode", "tproxy", "--exclude-uids", "33"])?.success()?;
    init(&namespace, &["--exclude-uids", "34"])?.success()?;
    let rules = listed(&namespace)?;
    assert!(
        rules.contains("skuid 34") && !rules.contains("skuid 33"),
        "{rules}"
    );
    assert!(!rules.contains("tproxy"), "{rules}");
    assert!(!namespace.ip(&["rule"])?.contains("2102"));
    Ok(())
}

#[test]
fn as_many_exclusions_as_fit_are_taken() -> Result<()> {
    let namespace = Netns::new("many")?;
    let uids = |count: u32| {
        (1..=count)
            .map(|uid| uid.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    init(&namespace, &["--exclude-uids", &uids(256)])?.success()?;
    assert_eq!(listed(&namespace)?.matches("excluded user").count(), 256);
    let refused = init(&namespace, &["--exclude-uids", &uids(257)])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused
            .stderr
            .contains("257 exclusions are more than the 256 that fit"),
        "{}",
        refused.stderr
    );
    Ok(())
}
