//! The rules through `iptables-restore` and `ip6tables-restore`, for kernels without nftables.
//!
//! The chains are our own, `OUTRIDER_…` in the tables nat and mangle. Each table of each family is
//! one transaction; the two families are not one together, as they are with nftables.

mod text;

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use super::error::Error;
use super::family::Family;
use super::plan::Sidecar;
use super::rules::Ruleset;
use text::ChainText;
pub(super) use text::{chains, restore};

/// How long another program may hold the lock of iptables, seconds.
const LOCK_WAIT: &str = "5";

/// Which programs: iptables has two kinds of them, for one kernel or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// What the system has chosen
    System,
    /// Those that need no nftables in the kernel
    Legacy,
}

impl Variant {
    pub(super) const ALL: [Self; 2] = [Self::System, Self::Legacy];

    fn program(self, family: Family, what: &str) -> String {
        let family = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        match self {
            Self::System => format!("{family}-{what}"),
            Self::Legacy => format!("{family}-legacy-{what}"),
        }
    }
}

/// Our chains, as they are.
pub(super) fn read(variant: Variant, family: Family) -> Result<Vec<ChainText>, Error> {
    let program = variant.program(family, "save");
    let output = run(&program, &[], None)?;
    Ok(text::read(&String::from_utf8_lossy(&output.stdout)))
}

/// Turns what was found into what is wanted, which may be nothing.
pub(super) fn write(
    variant: Variant,
    family: Family,
    wanted: &[ChainText],
    found: &[ChainText],
) -> Result<(), Error> {
    let program = variant.program(family, "restore");
    let input = restore(wanted, found);
    run(&program, &["--noflush", "--wait", LOCK_WAIT], Some(&input)).map(drop)
}

/// The variant whose programs are there, the first of these.
pub(super) fn choose(order: [Variant; 2]) -> Result<Variant, Error> {
    let there = |variant: &Variant| {
        let program = variant.program(Family::V4, "restore");
        run(&program, &["--version"], None).is_ok()
    };
    order.into_iter().find(there).ok_or(Error::IptablesMissing)
}

/// Where what was found is first not what was wanted.
pub(super) fn difference(wanted: &[ChainText], found: &[ChainText]) -> Option<Error> {
    let differs = |place: String, expected: String, found: String| {
        Some(Error::Differs {
            place,
            expected,
            found,
        })
    };
    for chain in wanted {
        let place = format!("chain {} of table {}", chain.name, chain.table);
        let same = |other: &&ChainText| other.name == chain.name && other.table == chain.table;
        let Some(other) = found.iter().find(same) else {
            return differs(place, "the chain".to_owned(), "nothing".to_owned());
        };
        let lines = [&chain.jumps, &chain.rules].into_iter().flatten();
        let mut others = [&other.jumps, &other.rules].into_iter().flatten();
        for line in lines {
            let other = others.next().map_or("nothing", String::as_str);
            if other != line {
                return differs(place, format!("`{line}`"), format!("`{other}`"));
            }
        }
        if let Some(more) = others.next() {
            return differs(place, "the end".to_owned(), format!("`{more}`"));
        }
    }
    let name = |chain: &ChainText| format!("{} of table {}", chain.name, chain.table);
    let wanted: Vec<String> = wanted.iter().map(name).collect();
    let mut names = found.iter().map(name);
    let more = names.find(|name| !wanted.contains(name))?;
    differs(
        format!("chain {more}"),
        "nothing".to_owned(),
        "the chain".to_owned(),
    )
}

/// The sidecar that whole chains lead to.
pub(super) fn sidecar(found: &[ChainText]) -> Option<Sidecar> {
    let lines = |name: &str| {
        let mut chains = found.iter();
        chains.find(|chain| chain.name == name && !chain.jumps.is_empty())
    };
    let number = |chain: &ChainText, option: &str| {
        let mut numbers = chain.rules.iter().filter_map(|line| {
            let (_, rest) = line.split_once(option)?;
            rest.split_whitespace().next()?.parse::<u32>().ok()
        });
        numbers.next()
    };
    let port = |chain: &ChainText| {
        let port = number(chain, "--to-ports").or_else(|| number(chain, "--on-port"))?;
        u16::try_from(port).ok()
    };
    let (inbound, outbound) = (lines("OUTRIDER_PREROUTING")?, lines("OUTRIDER_OUTPUT")?);
    Some(Sidecar {
        outbound_port: port(outbound)?,
        inbound_port: port(inbound)?,
        uid: number(outbound, "--uid-owner")?,
    })
}

/// What is printed for people who want to see it before it is done.
pub(super) fn dry_run(ruleset: &Ruleset) -> String {
    let section = |family: Family| {
        let program = Variant::System.program(family, "restore");
        let text = restore(&chains(ruleset, family), &[]);
        format!("# {program} --noflush\n{text}")
    };
    Family::ALL.map(section).concat()
}

fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<Output, Error> {
    let failed = |found: String| Error::Iptables {
        program: program.to_owned(),
        found,
    };
    let mut child = Command::new(OsStr::new(program))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::IptablesMissing,
            _ => failed(error.to_string()),
        })?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A program that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ermission denied") || said.contains("not permitted") {
        return Err(Error::NotPermitted {
            doing: "use iptables",
        });
    }
    Err(failed(format!("{}: {}", output.status, said.trim())))
}
