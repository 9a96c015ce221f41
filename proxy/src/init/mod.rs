//! `outrider-proxy init`: programs the network namespace that it stands in, so that the app's TCP
//! connections, in and out, go through the sidecar without the app knowing.
//!
//! - `args`: what can be typed; `plan`: that, once it makes sense.
//! - `rules`: the rules, as what they mean; `text` writes them in the syntax of `nft`.
//! - `nftables`: the rules through `netlink`, as one transaction, and read back.
//! - `iptables`: the same through `iptables-restore`, for kernels without nftables.
//! - `routing`: what `--mode tproxy` needs besides rules.
//! - `probe`: a connection of our own, which must arrive at the sidecar.
//!
//! It owns the table `inet outrider` (or the chains `OUTRIDER_…`), the routing table 2102 with the
//! rule that leads to it, and nothing else in the namespace; it writes nothing to /proc. It runs once,
//! before the sidecar, and shares nothing with it; every pod waits for it, so it starts no runtime.

mod args;
mod error;
mod family;
mod iptables;
mod netlink;
mod nftables;
mod plan;
mod probe;
mod routing;
mod rules;
mod text;

use std::io::Write;

pub use args::{Backend, InitArgs};
pub use error::Error;
pub use netlink::NetlinkError;
pub use plan::{MOST_EXCLUSIONS, PlanError, Sidecar};

use family::Family;
use iptables::Variant;
use nftables::{Failure, Table};
use plan::Plan;
use probe::Outcome;
use rules::{MARK, Ruleset};

/// Does what the arguments say, and writes what was found to `out`.
pub fn run(args: &InitArgs, out: &mut impl Write) -> Result<(), Error> {
    let plan = Plan::try_from(args)?;
    let ruleset = Ruleset::from(&plan);
    if args.dry_run {
        return print(out, &dry_run(&ruleset, args.backend));
    }
    if args.remove {
        remove(args.backend)?;
        return print(out, "removed: connections of this namespace pass\n");
    }
    let mut off = Vec::new();
    for family in Family::ALL {
        off.push((family, family.off()?));
    }
    let job = Job {
        plan: &plan,
        ruleset: &ruleset,
        check: args.check,
    };
    job.rules(args.backend, out)?;
    job.routing(&off)?;
    for (family, off) in off {
        let outcome = match off {
            Some(reason) => Outcome::NotProbed(reason.to_owned()),
            None => probe::probe(&plan, family)?,
        };
        let line = match outcome {
            Outcome::Intercepted => format!("{family}: a connection of our own was intercepted\n"),
            Outcome::NotProbed(reason) => format!("{family}: not probed: {reason}\n"),
        };
        print(out, &line)?;
    }
    Ok(())
}

/// Rules that are to be in force.
struct Job<'a> {
    plan: &'a Plan,
    ruleset: &'a Ruleset,
    /// Only whether they are.
    check: bool,
}

impl Job<'_> {
    fn rules(&self, backend: Backend, out: &mut impl Write) -> Result<(), Error> {
        let order = match backend {
            Backend::Iptables => [Variant::System, Variant::Legacy],
            Backend::Auto | Backend::Nftables => {
                let missing = match self.nftables() {
                    Ok(done) => return print(out, &format!("nftables: {done}\n")),
                    Err(error @ Error::NftablesMissing { .. }) if backend == Backend::Auto => error,
                    Err(error) => return Err(error),
                };
                print(out, &format!("iptables instead of nftables: {missing}\n"))?;
                [Variant::Legacy, Variant::System]
            }
        };
        let variant = iptables::choose(order)?;
        for family in Family::ALL {
            let done = match self.iptables(variant, family) {
                // Where the family is off, nothing of it can pass, either.
                Err(error) => match family.off()? {
                    Some(reason) => format!("no rules: {reason}"),
                    None => return Err(error),
                },
                Ok(done) => done.to_owned(),
            };
            print(out, &format!("iptables, {family}: {done}\n"))?;
        }
        Ok(())
    }

    fn nftables(&self) -> Result<&'static str, Error> {
        let wanted = Table::from(self.ruleset);
        let found = read_nftables()?;
        if found.as_ref() == Some(&wanted) {
            return Ok(ALREADY);
        }
        if self.check {
            return Err(wanted.difference(found.as_ref()));
        }
        self.same_sidecar(found.and_then(|table| table.sidecar()))?;
        nftables::write(self.ruleset).map_err(|failure| failure.during("write the rules"))?;
        let found = read_nftables()?;
        if found.as_ref() == Some(&wanted) {
            return Ok(WRITTEN);
        }
        Err(wanted.difference(found.as_ref()))
    }

    fn iptables(&self, variant: Variant, family: Family) -> Result<&'static str, Error> {
        let wanted = iptables::chains(self.ruleset, family);
        let found = iptables::read(variant, family)?;
        let Some(difference) = iptables::difference(&wanted, &found) else {
            return Ok(ALREADY);
        };
        if self.check {
            return Err(difference);
        }
        self.same_sidecar(iptables::sidecar(&found))?;
        iptables::write(variant, family, &wanted, &found)?;
        let found = iptables::read(variant, family)?;
        iptables::difference(&wanted, &found).map_or(Ok(WRITTEN), Err)
    }

    /// What leads nowhere is replaced, and so are other rules for the same sidecar.
    fn same_sidecar(&self, found: Option<Sidecar>) -> Result<(), Error> {
        let wanted = self.plan.sidecar;
        match found {
            Some(found) if found != wanted => Err(Error::OtherSidecar { found, wanted }),
            _ => Ok(()),
        }
    }

    fn routing(&self, off: &[(Family, Option<&'static str>)]) -> Result<(), Error> {
        let on = off.iter().filter(|(_, off)| off.is_none());
        for &(family, _) in on {
            match (self.ruleset.needs_routing(), self.check) {
                (true, false) => routing::apply(family)?,
                (false, false) => routing::remove(family)?,
                (true, true) => {
                    if let Some(missing) = routing::missing(family)? {
                        return Err(Error::Differs {
                            place: format!("routing of {family}"),
                            expected: missing.to_owned(),
                            found: "nothing".to_owned(),
                        });
                    }
                }
                (false, true) => {}
            }
        }
        Ok(())
    }
}

const ALREADY: &str = "the rules are in force already";
const WRITTEN: &str = "the rules are in force";

fn read_nftables() -> Result<Option<Table>, Error> {
    nftables::read().map_err(|error| {
        let place = "reading".to_owned();
        Failure { place, error }.during("read the rules")
    })
}

/// Takes away what any backend that may have been used has written.
fn remove(backend: Backend) -> Result<(), Error> {
    if backend != Backend::Iptables {
        match nftables::remove().map_err(|failure| failure.during("remove the rules")) {
            Err(Error::NftablesMissing { .. }) if backend == Backend::Auto => {}
            removed => removed?,
        }
    }
    if backend != Backend::Nftables {
        for (variant, family) in Variant::ALL
            .into_iter()
            .flat_map(|variant| Family::ALL.map(|family| (variant, family)))
        {
            match iptables::read(variant, family) {
                Ok(found) if !found.is_empty() => iptables::write(variant, family, &[], &found)?,
                // There is no such program, or it finds no such rules in this kernel.
                Ok(_) | Err(Error::IptablesMissing | Error::Iptables { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Family::ALL.into_iter().try_for_each(routing::remove)
}

fn dry_run(ruleset: &Ruleset, backend: Backend) -> String {
    let mut text = match backend {
        Backend::Auto | Backend::Nftables => ruleset.to_string(),
        Backend::Iptables => iptables::dry_run(ruleset),
    };
    if ruleset.needs_routing() {
        for command in ["ip", "ip -6"] {
            text.push_str(&format!(
                "# {command} rule add fwmark {MARK:#x} lookup {MARK} priority {MARK}\n\
                 # {command} route add local default dev lo table {MARK}\n"
            ));
        }
    }
    text
}

fn print(out: &mut impl Write, text: &str) -> Result<(), Error> {
    out.write_all(text.as_bytes()).map_err(Error::Print)
}
