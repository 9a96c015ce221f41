//! `outrider proxy-init` through iptables: half-written chains, and a kernel without nftables.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::catcher::Catcher;
use mesh_tests::process::{Finished, run};
use mesh_tests::programs::{find, outrider};

use crate::init::{Pair, arrives};
use crate::init_faults::assert_failed;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn half_written_iptables_are_replaced() -> Result<()> {
    let pair = Pair::new("half-iptables")?;
    let namespace = &pair.workload.namespace;
    let iptables = |arguments: &[&str]| -> Result<()> {
        namespace
            .run("iptables", "iptables", arguments)?
            .success()
            .map(drop)
    };
    // Twice the jump, and a chain that is empty; beside it a rule of somebody else.
    iptables(&["-t", "nat", "-N", "OUTRIDER_OUTPUT"])?;
    iptables(&["-t", "nat", "-A", "OUTPUT", "-j", "OUTRIDER_OUTPUT"])?;
    iptables(&["-t", "nat", "-A", "OUTPUT", "-j", "OUTRIDER_OUTPUT"])?;
    iptables(&[
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-d",
        "192.0.2.9",
        "-j",
        "RETURN",
    ])?;
    let options = ["--backend", "iptables"];
    pair.init(&options)?.success()?;
    let saved = || -> Result<String> {
        let all = namespace.run("iptables-save", "iptables", &[])?.stdout;
        Ok(all
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n"))
    };
    let once = saved()?;
    assert_eq!(once.matches("-j OUTRIDER_OUTPUT").count(), 1, "{once}");
    let again = pair.init(&options)?.success()?;
    assert!(
        again
            .stdout
            .starts_with("iptables, IPv4: the rules are in force already\n"),
        "{}",
        again.stdout
    );
    assert_eq!(saved()?, once);
    pair.init(&["--remove"])?.success()?;
    let left = saved()?;
    assert!(
        !left.contains("OUTRIDER") && left.contains("-d 192.0.2.9/32 -j RETURN"),
        "{left}"
    );
    Ok(())
}

/// Where the kernel has no nftables, which is played by refusing the socket, the programs that need
/// none are taken.
#[test]
fn iptables_is_taken_where_nftables_is_missing() -> Result<()> {
    let pair = Pair::new("fallback")?;
    let namespace = &pair.workload.namespace;
    let without_nftables = |arguments: &[&str]| -> Result<Finished> {
        let mut strace = namespace.command(&find("strace", "strace")?)?;
        // The first two sockets ask loopback whether there are IPv4 and IPv6.
        strace.args([
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "inject=socket:error=EPROTONOSUPPORT:when=3",
            "--",
        ]);
        run(
            strace.arg(outrider()?).arg("proxy-init").args(arguments),
            LIMIT,
        )
    };
    let done = without_nftables(&[])?.success()?;
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(
        lines[0].starts_with("iptables instead of nftables: this kernel cannot"),
        "{}",
        done.stdout
    );
    assert_eq!(
        lines[1..],
        [
            "iptables, IPv4: the rules are in force",
            "iptables, IPv6: the rules are in force",
            "IPv4: a connection of our own was intercepted",
            "IPv6: a connection of our own was intercepted",
        ]
    );
    assert_eq!(
        namespace
            .run("nft", "nftables", &["list", "table", "inet", "outrider"])?
            .status
            .code(),
        Some(1)
    );
    let legacy = || namespace.run("iptables-legacy-save", "iptables", &[]);
    assert!(legacy()?.stdout.contains("OUTRIDER_OUTPUT"));
    let _sidecar = Catcher::start(namespace, &[15001])?;
    for (here, there) in pair.families() {
        arrives(namespace, 0, (there, 80).into(), 15001, here)?;
    }
    let refused = without_nftables(&["--backend", "nftables"])?;
    assert_failed(
        &refused,
        &[
            "this kernel cannot do it with nftables",
            "use --backend iptables",
        ],
    );
    pair.init(&["--remove"])?.success()?;
    assert!(!legacy()?.stdout.contains("OUTRIDER"));
    Ok(())
}
