//! What our table holds, or ought to: compared step by step.

use super::super::error::Error;
use super::super::plan::Sidecar;
use super::super::rules::{Chain, ChainKind, Hook, Ruleset, TABLE};
use super::expression::{Expression, Meta};
use super::lower;

/// What is in our table, or ought to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::init) struct Table {
    pub(in crate::init) chains: Vec<TableChain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::init) struct TableChain {
    pub(in crate::init) name: String,
    /// Type, number of the hook and priority; `None` for a chain that no packet comes to.
    pub(in crate::init) base: Option<(String, u32, i32)>,
    pub(in crate::init) accepts: bool,
    pub(in crate::init) rules: Vec<Vec<Expression>>,
}

impl From<&Ruleset> for Table {
    fn from(ruleset: &Ruleset) -> Self {
        let chain = |chain: &Chain| TableChain {
            name: chain.name.to_owned(),
            base: Some((
                chain.kind.to_string(),
                chain.hook.number(),
                chain.kind.priority(),
            )),
            accepts: true,
            rules: chain.rules.iter().map(lower::expressions).collect(),
        };
        Self {
            chains: ruleset.chains.iter().map(chain).collect(),
        }
    }
}

impl Table {
    /// The sidecar that a whole set of rules leads to; `None` if it leads nowhere.
    pub(in crate::init) fn sidecar(&self) -> Option<Sidecar> {
        let chain = |name: &str| {
            let chain = self.chains.iter().find(|chain| chain.name == name)?;
            chain.base.as_ref().map(|_| &chain.rules)
        };
        let (inbound, outbound) = (chain("prerouting")?, chain("output")?);
        Some(Sidecar {
            outbound_port: destination(outbound)?,
            inbound_port: destination(inbound)?,
            uid: first_uid(outbound)?,
        })
    }
}

impl Table {
    /// Where what was found is first not this.
    pub(in crate::init) fn difference(&self, found: Option<&Self>) -> Error {
        let differs = |place: String, expected: String, found: String| Error::Differs {
            place,
            expected,
            found,
        };
        let Some(found) = found else {
            let place = format!("table inet {TABLE}");
            return differs(place, "the table".to_owned(), "nothing".to_owned());
        };
        for (index, wanted) in self.chains.iter().enumerate() {
            let place = format!("chain {}", wanted.name);
            let Some(chain) = found.chains.get(index) else {
                return differs(place, "the chain".to_owned(), "nothing".to_owned());
            };
            if chain.head() != wanted.head() {
                return differs(place, wanted.head(), chain.head());
            }
            for number in 0..wanted.rules.len().max(chain.rules.len()) {
                let (wanted, found) = (wanted.rules.get(number), chain.rules.get(number));
                if wanted != found {
                    let place = format!("{place}, rule {}", number + 1);
                    return differs(place, line(wanted), line(found));
                }
            }
        }
        let names: Vec<&str> = found
            .chains
            .iter()
            .map(|chain| chain.name.as_str())
            .collect();
        let count = format!("{} chains", self.chains.len());
        differs(format!("table inet {TABLE}"), count, names.join(", "))
    }
}

impl TableChain {
    fn head(&self) -> String {
        let Self {
            name,
            base,
            accepts,
            ..
        } = self;
        let policy = if *accepts { "accept" } else { "drop" };
        match base {
            Some((kind, hook, priority)) => {
                format!("{name}: type {kind} hook {hook} priority {priority}, policy {policy}")
            }
            None => format!("{name}: without a hook"),
        }
    }
}

fn line(rule: Option<&Vec<Expression>>) -> String {
    match rule {
        Some(rule) => {
            let steps: Vec<String> = rule.iter().map(Expression::to_string).collect();
            steps.join(" ")
        }
        None => "no rule".to_owned(),
    }
}

fn destination(rules: &[Vec<Expression>]) -> Option<u16> {
    rules.iter().find_map(|rule| {
        let pairs = rule.iter().zip(rule.iter().skip(1));
        pairs.into_iter().find_map(|pair| match pair {
            (Expression::Load { value }, Expression::Redirect | Expression::HandOver) => {
                Some(u16::from_be_bytes(value.as_slice().try_into().ok()?))
            }
            _ => None,
        })
    })
}

fn first_uid(rules: &[Vec<Expression>]) -> Option<u32> {
    rules.iter().find_map(|rule| match rule.as_slice() {
        [
            Expression::Meta(Meta::SocketUid),
            Expression::Compare { equal: true, value },
            ..,
        ] => Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?)),
        _ => None,
    })
}

impl ChainKind {
    /// Where iptables has its tables of the same use: `dstnat`, `mangle`.
    pub(in crate::init) fn priority(self) -> i32 {
        match self {
            Self::Nat => -100,
            Self::Filter | Self::Route => -150,
        }
    }
}

impl Hook {
    /// `NF_INET_*`
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
        }
    }
}
