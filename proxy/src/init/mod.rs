//! `outrider-proxy init`: programs the network namespace that it stands in, so that the app's TCP
//! connections, in and out, go through the sidecar without the app knowing.
//!
//! - [`args`]: what can be typed; [`plan`]: that, once it makes sense.
//! - [`rules`]: the rules, as what they mean; [`text`] writes them in the syntax of `nft`.
//! - `nftables`: the rules through `netlink`, as one transaction, and read back.
//! - [`probe`]: a connection of our own, which must arrive at the sidecar.
//!
//! It owns the table `inet outrider` and nothing else in the namespace. It runs once, before the
//! sidecar, and shares nothing with it; every pod waits for it, so it starts no runtime.

mod args;
mod error;
mod netlink;
mod nftables;
mod plan;
mod probe;
mod rules;
mod text;

use std::io::Write;

pub use args::{Backend, InitArgs, Mode};
pub use error::Error;
pub use netlink::NetlinkError;
pub use plan::{MOST_EXCLUSIONS, PlanError, Sidecar};
pub use rules::MARK;

use nftables::Table;
use plan::Plan;
use probe::{Family, Outcome};
use rules::Ruleset;

/// Does what the arguments say, and writes what was found to `out`.
pub fn run(args: &InitArgs, out: &mut impl Write) -> Result<(), Error> {
    let plan = Plan::try_from(args)?;
    let ruleset = Ruleset::from(&plan);
    if args.dry_run {
        return print(out, &ruleset.to_string());
    }
    if args.remove {
        nftables::remove().map_err(|failure| failure.during("remove the rules"))?;
        return print(out, "removed: connections of this namespace pass\n");
    }
    let wanted = Table::from(&ruleset);
    let found = read()?;
    if found.as_ref() == Some(&wanted) {
        print(out, "the rules are in force already\n")?;
    } else if args.check {
        return Err(wanted.difference(found.as_ref()));
    } else {
        if let Some(other) = found.and_then(|table| table.sidecar())
            && other != plan.sidecar
        {
            return Err(Error::OtherSidecar {
                found: other,
                wanted: plan.sidecar,
            });
        }
        nftables::write(&ruleset).map_err(|failure| failure.during("write the rules"))?;
        let found = read()?;
        if found.as_ref() != Some(&wanted) {
            return Err(wanted.difference(found.as_ref()));
        }
        print(out, "the rules are in force\n")?;
    }
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let line = match probe::probe(&plan, family)? {
            Outcome::Intercepted => format!("{name}: a connection of our own was intercepted\n"),
            Outcome::NotProbed(reason) => format!("{name}: not probed: {reason}\n"),
        };
        print(out, &line)?;
    }
    Ok(())
}

fn read() -> Result<Option<Table>, Error> {
    nftables::read().map_err(|error| {
        let place = "reading".to_owned();
        nftables::Failure { place, error }.during("read the rules")
    })
}

fn print(out: &mut impl Write, text: &str) -> Result<(), Error> {
    out.write_all(text.as_bytes()).map_err(Error::Print)
}
