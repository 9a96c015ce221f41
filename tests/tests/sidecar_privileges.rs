//! What the two containers of a sidecar need of the kernel, and nothing more: they are run with exactly
//! the capabilities that an injected pod gives them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::Process;
use mesh_tests::netns::Netns;
use mesh_tests::process::{command, run};
use mesh_tests::programs::{find, outrider};
use mesh_tests::wait::{PATIENCE, eventually};

const LIMIT: Duration = Duration::from_secs(20);
/// Its number is 12 (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

/// Root, as Kubernetes has it be with these capabilities and `allowPrivilegeEscalation: false`.
fn confined(mut command: Command, capabilities: &str, program: &Path) -> Result<Command> {
    command
        .args(["--bounding-set", &format!("-all{capabilities}")])
        .args(["--inh-caps", "-all", "--no-new-privs", "--"])
        .arg(program);
    Ok(command)
}

fn setpriv() -> Result<std::path::PathBuf> {
    find("setpriv", "util-linux")
}

#[test]
fn init_takes_net_admin_and_nothing_else() -> Result<()> {
    for mode in ["redirect", "tproxy"] {
        let namespace = Netns::new("confined")?;
        let init = |options: &[&str]| {
            let command = namespace.command(&setpriv()?)?;
            let mut command = confined(command, ",+net_admin", &outrider()?)?;
            run(
                command.args(["proxy-init", "--mode", mode]).args(options),
                LIMIT,
            )
        };
        let done = init(&[])?.success()?;
        assert!(
            done.stdout.contains("nftables: the rules are in force"),
            "{done:?}"
        );
        init(&["--check"])?.success()?;
        let without = confined(namespace.command(&setpriv()?)?, "", &outrider()?);
        let failed = run(without?.args(["proxy-init", "--check"]), LIMIT)?;
        assert!(
            failed.stderr.contains("the capability NET_ADMIN"),
            "{failed:?}"
        );
    }
    Ok(())
}

/// A sidecar that waits for somebody to write its trust bundle.
fn sidecar(folder: &Path, mode: &str) -> Result<Process> {
    let bundle = folder.join("bundle");
    run(command(&find("mkfifo", "coreutils")?)?.arg(&bundle), LIMIT)?.success()?;
    let capabilities = ",+net_admin,+setuid,+setgid";
    let mut start = confined(command(&setpriv()?)?, capabilities, &outrider()?)?;
    start
        .args([
            "proxy",
            "--workload",
            "shop/order-1",
            "--token-file",
            "none",
            "--trust-bundle",
        ])
        .arg(&bundle)
        .args(["--user", "2102", "--intercept", mode]);
    Process::start("sidecar", folder, &mut start)
}

#[test]
fn a_sidecar_that_starts_as_root_keeps_only_what_its_mode_takes() -> Result<()> {
    for (mode, kept) in [("tproxy", NET_ADMIN), ("redirect", 0)] {
        let folder = tempfile::tempdir()?;
        let process = sidecar(folder.path(), mode)?;
        let status = format!("/proc/{}/status", process.id());
        let field = |name: &str| -> Result<String> {
            let status = std::fs::read_to_string(&status)?;
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(line
                .with_context(|| format!("{name} in {status}"))?
                .trim()
                .to_owned())
        };
        eventually("it is the sidecar's user", PATIENCE, || {
            Ok((field("Uid:")? == "2102\t2102\t2102\t2102").then_some(()))
        })?;
        assert_eq!(field("Gid:")?, "2102\t2102\t2102\t2102");
        assert_eq!(field("Groups:")?, "");
        for set in ["CapEff:", "CapPrm:"] {
            eventually("it has given up the rest", PATIENCE, || {
                Ok((u64::from_str_radix(&field(set)?, 16)? == kept).then_some(()))
            })?;
        }
        assert_eq!(u64::from_str_radix(&field("CapInh:")?, 16)?, 0);
    }
    Ok(())
}

#[test]
fn who_cannot_become_the_sidecars_user_does_not_start() -> Result<()> {
    let mut start = confined(command(&setpriv()?)?, "", &outrider()?)?;
    start.args([
        "proxy",
        "--workload",
        "shop/order-1",
        "--token-file",
        "none",
    ]);
    start.args(["--trust-bundle", "none", "--user", "2102"]);
    let failed = run(&mut start, LIMIT)?;
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        failed.stderr.contains("cannot become user 2102"),
        "{failed:?}"
    );
    assert!(failed.stderr.contains("SETUID, SETGID"), "{failed:?}");
    Ok(())
}
