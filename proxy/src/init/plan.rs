//! What is to be intercepted: the arguments, once they make sense together.

use std::fmt::{self, Display, Formatter};

use ipnet::IpNet;
use thiserror::Error;

use super::args::InitArgs;
use crate::intercept::Mode;

/// The most exclusions, of all kinds together.
pub const MOST_EXCLUSIONS: usize = outrider_api::sidecar::EXCLUSIONS_MAX;

/// Which connections of a network namespace go to the sidecar.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) mode: Mode,
    pub(super) sidecar: Sidecar,
    pub(super) mesh_port: u16,
    pub(super) telemetry_port: u16,
    pub(super) admin_port: u16,
    pub(super) admin_uids: Vec<u32>,
    pub(super) inbound: Exclusions,
    pub(super) outbound: Exclusions,
    pub(super) uids: Vec<u32>,
}

/// What makes a sidecar the same one to a second `init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sidecar {
    pub outbound_port: u16,
    pub inbound_port: u16,
    pub uid: u32,
}

/// What passes in one direction.
#[derive(Clone, Debug)]
pub(super) struct Exclusions {
    pub(super) ports: Vec<u16>,
    pub(super) cidrs: Vec<IpNet>,
}

/// Why there is no plan.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    #[error(
        "--{first} and --{second} are both {port}: each of the sidecar's ports needs a number of its own"
    )]
    SamePort {
        first: &'static str,
        second: &'static str,
        port: u16,
    },
    #[error(
        "{count} exclusions are more than the {MOST_EXCLUSIONS} that fit; write fewer, wider CIDRs"
    )]
    TooMany { count: usize },
}

impl TryFrom<&InitArgs> for Plan {
    type Error = PlanError;

    fn try_from(args: &InitArgs) -> Result<Self, PlanError> {
        distinct(&[
            ("outbound-port", args.outbound_port),
            ("inbound-port", args.inbound_port),
            ("mesh-port", args.mesh_port),
            ("telemetry-port", args.telemetry_port),
            ("admin-port", args.admin_port),
        ])?;
        let plan = Self {
            mode: args.mode,
            sidecar: Sidecar {
                outbound_port: args.outbound_port,
                inbound_port: args.inbound_port,
                uid: args.proxy_uid,
            },
            mesh_port: args.mesh_port,
            telemetry_port: args.telemetry_port,
            admin_port: args.admin_port,
            admin_uids: sorted(&args.admin_uids),
            inbound: Exclusions {
                ports: sorted(&args.exclude_inbound_ports),
                cidrs: sorted(&args.exclude_inbound_cidrs),
            },
            outbound: Exclusions {
                ports: sorted(&args.exclude_outbound_ports),
                cidrs: sorted(&args.exclude_outbound_cidrs),
            },
            uids: sorted(&args.exclude_uids),
        };
        let uids = plan.uids.len() + plan.admin_uids.len();
        let count = uids + plan.inbound.count() + plan.outbound.count();
        if count > MOST_EXCLUSIONS {
            return Err(PlanError::TooMany { count });
        }
        Ok(plan)
    }
}

impl Exclusions {
    fn count(&self) -> usize {
        self.ports.len() + self.cidrs.len()
    }
}

fn distinct(ports: &[(&'static str, u16)]) -> Result<(), PlanError> {
    for (index, &(second, port)) in ports.iter().enumerate() {
        let same = ports[..index].iter().find(|(_, other)| *other == port);
        if let Some(&(first, _)) = same {
            return Err(PlanError::SamePort {
                first,
                second,
                port,
            });
        }
    }
    Ok(())
}

/// The same set in another order is the same plan: a second `init` then changes nothing.
fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list.dedup();
    list
}

impl Display for Sidecar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            outbound_port,
            inbound_port,
            uid,
        } = self;
        write!(
            f,
            "outbound port {outbound_port}, inbound port {inbound_port}, UID {uid}"
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: InitArgs,
    }

    fn parse(words: &str) -> Result<Plan, PlanError> {
        let words = std::iter::once("init").chain(words.split_whitespace());
        Plan::try_from(&Command::parse_from(words).args)
    }

    /// With every kind of exclusion.
    pub(in crate::init) fn plan(mode: Mode) -> Plan {
        let mode = match mode {
            Mode::Redirect => "redirect",
            Mode::Tproxy => "tproxy",
        };
        parse(&format!(
            "--mode {mode} --admin-uids 0 --exclude-inbound-ports 22,2222 --exclude-outbound-ports 3306 \
             --exclude-inbound-cidrs 10.1.0.0/16,fd01::/16 --exclude-uids 33,1001 \
             --exclude-outbound-cidrs 0.0.0.0/0,::/0,10.96.0.1/32,10.128.0.0/9,172.16.0.0/12,fd00::/8,fe80::/10,2001:db8::7,2001:db8::/33"
        ))
        .unwrap()
    }

    #[test]
    fn the_order_of_a_list_means_nothing() {
        let one = parse("--exclude-outbound-ports 3306,6379 --exclude-uids 1,2").unwrap();
        let other = parse("--exclude-outbound-ports 6379,3306,6379 --exclude-uids 2,1").unwrap();
        assert_eq!(one.outbound.ports, other.outbound.ports);
        assert_eq!(one.uids, other.uids);
    }

    #[test]
    fn two_ports_with_one_number_are_refused() {
        let error = parse("--inbound-port 15001").unwrap_err();
        assert_eq!(
            error.to_string(),
            "--outbound-port and --inbound-port are both 15001: each of the sidecar's ports needs a number of its own"
        );
        assert!(parse("--mesh-port 15020").is_err());
    }

    #[test]
    fn exclusions_are_bounded() {
        let ports = |count: u16| {
            let ports: Vec<String> = (1..=count).map(|port| port.to_string()).collect();
            parse(&format!(
                "--exclude-uids 5 --exclude-inbound-ports {}",
                ports.join(",")
            ))
        };
        assert!(ports(255).is_ok());
        assert_eq!(ports(256).unwrap_err(), PlanError::TooMany { count: 257 });
    }
}
