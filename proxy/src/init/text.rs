//! The rules in the syntax of `nft`, for `--dry-run` and for messages.

use std::fmt::{Display, Formatter, Result};

use ipnet::IpNet;

use super::rules::{Action, Chain, ChainKind, Hook, Match, Rule, Ruleset, TABLE};

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        // The same three steps as the batch: it exists, it goes, it is made anew.
        writeln!(f, "table inet {TABLE}")?;
        writeln!(f, "delete table inet {TABLE}")?;
        writeln!(f, "table inet {TABLE} {{")?;
        for (index, chain) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (name, kind, hook) = (self.name, self.kind, self.hook);
        writeln!(f, "\tchain {name} {{")?;
        let priority = kind.priority();
        writeln!(
            f,
            "\t\ttype {kind} hook {hook} priority {priority}; policy accept;"
        )?;
        for rule in &self.rules {
            writeln!(f, "\t\t{rule} comment \"{}\"", rule.comment)?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for ChainKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
            Self::Route => "route",
        })
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        })
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{}", self.action)
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::NotTcp => f.write_str("meta l4proto != tcp"),
            Self::FromLoopback => f.write_str("iif \"lo\""),
            Self::ToLoopback => f.write_str("oif \"lo\""),
            Self::ToLocal => f.write_str("fib daddr type local"),
            Self::NotToLocal => f.write_str("fib daddr type != local"),
            Self::ToPort(port) => write!(f, "tcp dport {port}"),
            Self::From(network) => write!(f, "{} saddr {network}", family(network)),
            Self::To(network) => write!(f, "{} daddr {network}", family(network)),
            Self::SocketUid(uid) => write!(f, "meta skuid {uid}"),
            Self::FromElsewhere => f.write_str("fib saddr type != local"),
            Self::ConnectionMark(mark) => write!(f, "ct mark {mark:#x}"),
            Self::Answer => f.write_str("ct direction reply"),
        }
    }
}

fn family(network: &IpNet) -> &'static str {
    match network {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Return => f.write_str("return"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::HandOver(port) => write!(f, "tproxy to :{port} accept"),
            Self::Refuse => f.write_str("reject with tcp reset"),
            Self::MarkConnection(mark) => write!(f, "ct mark set {mark:#x}"),
            Self::MarkPacket => f.write_str("meta mark set ct mark"),
        }
    }
}
