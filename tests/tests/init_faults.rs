//! `outrider proxy-init` where something is wrong: each fault has its result.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use mesh_tests::catcher::Catcher;
use mesh_tests::netns::Netns;
use mesh_tests::process::{Finished, run, run_with_input};
use mesh_tests::programs::{find, outrider};

use crate::init::{Pair, arrives, init};

const LIMIT: Duration = Duration::from_secs(20);

/// It exited with 1 and said this, on one line.
#[track_caller]
pub(crate) fn assert_failed(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(1), "{}", finished.output());
    for word in words {
        assert!(
            finished.stderr.contains(word),
            "{word}: {}",
            finished.stderr
        );
    }
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}

fn listed(namespace: &Netns) -> Result<String> {
    Ok(namespace
        .run("nft", "nftables", &["-s", "-a", "list", "ruleset"])?
        .success()?
        .stdout)
}

fn nft(namespace: &Netns, text: &str) -> Result<()> {
    let mut nft = namespace.command(&find("nft", "nftables")?)?;
    run_with_input(nft.args(["-f", "-"]), text.as_bytes(), LIMIT)?.success()?;
    Ok(())
}

#[test]
fn a_namespace_has_one_sidecar() -> Result<()> {
    for backend in ["nftables", "iptables"] {
        let pair = Pair::new("two-sidecars")?;
        let options = ["--backend", backend];
        pair.init(&options)?.success()?;
        let before = listed(&pair.workload.namespace)?;
        for other in [
            ["--outbound-port", "25001"],
            ["--inbound-port", "25006"],
            ["--proxy-uid", "2103"],
        ] {
            let refused = pair.init(&[options, other].concat())?;
            assert_failed(
                &refused,
                &[
                    "intercepted for another sidecar already (outbound port 15001, inbound port 15006, UID 2102)",
                    "run init --remove first",
                ],
            );
        }
        assert_eq!(listed(&pair.workload.namespace)?, before);
        pair.init(&["--remove"])?.success()?;
        pair.init(&[&options[..], &["--outbound-port", "25001"]].concat())?
            .success()?;
        let _sidecar = Catcher::start(&pair.workload.namespace, &[25001])?;
        let there: IpAddr = pair.other.ipv4.into();
        arrives(
            &pair.workload.namespace,
            0,
            (there, 80).into(),
            25001,
            pair.workload.ipv4.into(),
        )?;
    }
    Ok(())
}

#[test]
fn half_written_rules_are_replaced() -> Result<()> {
    let halves = [
        // The table alone; a chain that lets everything pass; one that nobody comes to; one that goes
        // to another port, while the other direction is missing; with what we never write.
        "table inet outrider {}",
        "table inet outrider { chain output { type nat hook output priority -100; }; }",
        "table inet outrider { chain output { meta l4proto tcp redirect to :15001; }; chain prerouting { }; }",
        "table inet outrider { chain output { type nat hook output priority -100; meta skuid 7 return; \
         meta l4proto tcp redirect to :25001; }; }",
        "table inet outrider { set s { type ipv4_addr; }; chain output { type filter hook output \
         priority 0; policy drop; ip daddr @s counter log accept; }; }",
    ];
    for half in halves {
        let pair = Pair::new("half")?;
        let namespace = &pair.workload.namespace;
        nft(namespace, half)?;
        let check = pair.init(&["--check"])?;
        assert_failed(
            &check,
            &["the rules are not what was written", "expected", "found"],
        );
        let written = pair.init(&[])?.success()?;
        assert!(
            written
                .stdout
                .starts_with("nftables: the rules are in force\n"),
            "{}",
            written.stdout
        );
        pair.init(&["--check"])?.success()?;
        let fresh = Netns::new("fresh")?;
        init(&fresh, &[])?.success()?;
        let plain = |namespace: &Netns| namespace.run("nft", "nftables", &["list", "ruleset"]);
        assert_eq!(plain(namespace)?.stdout, plain(&fresh)?.stdout, "{half}");
    }
    Ok(())
}

#[test]
fn a_rule_that_was_changed_is_found_and_named() -> Result<()> {
    let pair = Pair::new("changed")?;
    pair.init(&[])?.success()?;
    let namespace = &pair.workload.namespace;
    nft(
        namespace,
        "insert rule inet outrider output tcp dport 443 return",
    )?;
    let check = pair.init(&["--check"])?;
    assert_failed(
        &check,
        &[
            "chain output, rule 1",
            "expected [ meta load l4proto => reg 1 ] [ cmp neq",
        ],
    );
    pair.init(&[])?.success()?;
    pair.init(&["--check"])?.success()?;
    // Beside the table of ours everything stays.
    nft(namespace, "table inet theirs { chain c { accept; }; }")?;
    pair.init(&["--exclude-uids", "9"])?.success()?;
    pair.init(&["--remove"])?.success()?;
    assert!(listed(namespace)?.contains("table inet theirs"));
    assert!(!listed(namespace)?.contains("outrider"));
    Ok(())
}

#[test]
fn without_the_capability_it_says_which_is_missing() -> Result<()> {
    let namespace = Netns::new("no-capability")?;
    init(&namespace, &[])?.success()?;
    let before = listed(&namespace)?;
    for backend in ["nftables", "iptables"] {
        let without = |options: &[&str]| -> Result<Finished> {
            let mut command = namespace.command_as(1000, &outrider()?)?;
            run(
                command
                    .args(["proxy-init", "--backend", backend])
                    .args(options),
                LIMIT,
            )
        };
        for options in [
            &[][..],
            &["--exclude-uids", "1"],
            &["--remove"],
            &["--check"],
        ] {
            let failed = without(options)?;
            assert_failed(&failed, &["not permitted to", "the capability NET_ADMIN"]);
        }
        without(&["--dry-run"])?.success()?;
    }
    assert_eq!(listed(&namespace)?, before);
    Ok(())
}

#[test]
fn proc_need_not_be_writable() -> Result<()> {
    let pair = Pair::new("read-only-proc")?;
    let mut shell = pair
        .workload
        .namespace
        .command(&find("unshare", "util-linux")?)?;
    let script = "mount -o remount,bind,ro /proc && ! echo 1 2>/dev/null >/proc/sys/net/ipv4/ip_forward \
                  && exec \"$0\" proxy-init --mode tproxy";
    shell.args(["--mount", "sh", "-c", script]).arg(outrider()?);
    let done = run(&mut shell, LIMIT)?.success()?;
    assert!(
        done.stdout
            .contains("IPv6: a connection of our own was intercepted"),
        "{}",
        done.output()
    );
    Ok(())
}

#[test]
fn ipv6_may_be_disabled() -> Result<()> {
    for (backend, mode) in [
        ("nftables", "redirect"),
        ("nftables", "tproxy"),
        ("iptables", "tproxy"),
    ] {
        let pair = Pair::new("no-ipv6")?;
        let namespace = &pair.workload.namespace;
        namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        let options = ["--backend", backend, "--mode", mode];
        let done = pair.init(&options)?.success()?;
        assert!(
            done.stdout.ends_with(
                "IPv4: a connection of our own was intercepted\n\
                 IPv6: not probed: disabled, loopback has no ::1\n"
            ),
            "{}",
            done.stdout
        );
        pair.init(&[&options[..], &["--check"]].concat())?
            .success()?;
        let _sidecar = Catcher::start(namespace, &[15001])?;
        let there: IpAddr = pair.other.ipv4.into();
        arrives(
            namespace,
            0,
            (there, 80).into(),
            15001,
            pair.workload.ipv4.into(),
        )?;
        // When it is enabled later, it is intercepted from the first packet on.
        let rules = match backend {
            "nftables" => namespace.run("nft", "nftables", &["list", "ruleset"])?,
            _ => namespace.run("ip6tables-save", "iptables", &[])?,
        };
        assert!(rules.stdout.contains("15001"), "{}", rules.stdout);
        pair.init(&["--remove"])?.success()?;
    }
    Ok(())
}

#[test]
fn without_ipv4_outside_ipv6_is_intercepted() -> Result<()> {
    let pair = Pair::new("no-ipv4")?;
    let namespace = &pair.workload.namespace;
    namespace.ip(&["-4", "addr", "flush", "dev", "eth0"])?;
    let done = pair.init(&[])?.success()?;
    assert!(
        done.stdout
            .contains("IPv4: not probed: no route to 192.0.2.1"),
        "{}",
        done.stdout
    );
    assert!(
        done.stdout
            .contains("IPv6: a connection of our own was intercepted"),
        "{}",
        done.stdout
    );
    Ok(())
}

#[test]
fn loopback_must_be_up() -> Result<()> {
    let namespace = Netns::new("no-loopback")?;
    namespace.ip(&["addr", "flush", "dev", "lo"])?;
    namespace.ip(&["link", "set", "lo", "down"])?;
    assert_failed(
        &init(&namespace, &[])?,
        &["lo is down", "ip link set lo up"],
    );
    assert_eq!(listed(&namespace)?, "");
    Ok(())
}

#[test]
fn rules_that_do_not_work_are_told() -> Result<()> {
    let pair = Pair::new("no-effect")?;
    // Somebody else's rule comes first and sends connections elsewhere.
    nft(
        &pair.workload.namespace,
        "table inet theirs { chain c { type nat hook output priority -150; \
         meta l4proto tcp redirect to :9; }; }",
    )?;
    for options in [&[][..], &["--check"]] {
        let failed = pair.init(options)?;
        assert_failed(
            &failed,
            &[
                "the rules are in force, but do not work",
                "a connection to 192.0.2.1:80 was expected at port 15001",
                "it did not arrive (Connection refused",
            ],
        );
    }
    Ok(())
}

#[test]
fn what_cannot_be_probed_is_said() -> Result<()> {
    let pair = Pair::new("unprobed")?;
    let namespace = &pair.workload.namespace;
    let done = |options: &[&str]| -> Result<String> { Ok(pair.init(options)?.success()?.stdout) };
    let root = done(&["--exclude-uids", "0"])?;
    assert_eq!(
        root.matches("not probed: connections of UID 0, which this runs as, pass")
            .count(),
        2,
        "{root}"
    );
    let all = done(&["--exclude-outbound-cidrs", "0.0.0.0/0"])?;
    assert!(
        all.contains("IPv4: not probed: every address that it could be made to is excluded"),
        "{all}"
    );
    let some = done(&[
        "--exclude-outbound-cidrs",
        "192.0.2.0/24,2001:db8::/31",
        "--exclude-outbound-ports",
        "80",
    ])?;
    assert!(
        some.contains("IPv4: a connection of our own was intercepted"),
        "{some}"
    );
    let _sidecar = Catcher::start(namespace, &[15001])?;
    let running = done(&[])?;
    assert_eq!(
        running
            .matches("not probed: a program listens on port 15001 already")
            .count(),
        2,
        "{running}"
    );
    Ok(())
}
