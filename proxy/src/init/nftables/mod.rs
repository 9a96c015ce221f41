//! The rules through nftables' netlink: written as one batch, and read back.

pub(super) mod expression;
mod lower;

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::error::Error;
use super::netlink::{
    ACKNOWLEDGE, APPEND, Attributes, CREATE, DUMP, Header, Messages, NetlinkError, REQUEST, Socket,
    attribute, attributes, number, text,
};
use super::plan::Sidecar;
use super::rules::{Chain, ChainKind, Hook, Rule, Ruleset, TABLE};
use expression::{Expression, Meta};

/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's kind
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const READ_TABLES: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const READ_CHAINS: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const READ_RULES: u16 = SUBSYSTEM | 7;

/// `struct nfgenmsg` for both families (`NFPROTO_INET`): family, version, resource.
const BOTH_FAMILIES: [u8; 4] = [1, 0, 0, 0];
/// The same around a batch, where the resource says whose it is, in the order of the network.
const BATCH_FOR_NFTABLES: [u8; 4] = [0, 0, 0, 10];
/// How long these are.
const FIXED: usize = 4;

const TABLE_NAME: u16 = 1;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// `NF_ACCEPT`
const ACCEPT: u32 = 1;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
/// How `nft` keeps a comment among a rule's data.
const COMMENT: u8 = 0;

/// What is in our table, or ought to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) chains: Vec<TableChain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableChain {
    pub(super) name: String,
    /// Type, number of the hook and priority; `None` for a chain that no packet comes to.
    pub(super) base: Option<(String, u32, i32)>,
    pub(super) accepts: bool,
    pub(super) rules: Vec<Vec<Expression>>,
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
    pub(super) fn sidecar(&self) -> Option<Sidecar> {
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
    pub(super) fn difference(&self, found: Option<&Self>) -> Error {
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
    pub(super) fn priority(self) -> i32 {
        match self {
            Self::Nat => -100,
            Self::Filter | Self::Route => -150,
        }
    }
}

impl Hook {
    /// `NF_INET_*`
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
        }
    }
}

/// Whether the kernel has no nftables, or not enough of it, rather than refusing.
pub(super) fn is_missing(error: &NetlinkError) -> bool {
    matches!(
        error.errno(),
        Some(
            Errno::PROTONOSUPPORT
                | Errno::OPNOTSUPP
                | Errno::AFNOSUPPORT
                | Errno::NOENT
                | Errno::INVAL
        )
    )
}

/// Replaces our table in one transaction: either all of it is in force afterwards, or nothing has
/// changed.
pub(super) fn write(ruleset: &Ruleset) -> Result<(), Failure> {
    let mut batch = Batch::begin();
    batch.delete_table();
    batch.push("table", NEW_TABLE, CREATE, |table| {
        table.text(TABLE_NAME, TABLE);
    });
    for chain in &ruleset.chains {
        batch.chain(chain);
        for rule in &chain.rules {
            batch.rule(chain.name, rule);
        }
    }
    batch.commit()
}

/// Removes our table, if there is one.
pub(super) fn remove() -> Result<(), Failure> {
    let mut batch = Batch::begin();
    batch.delete_table();
    batch.commit()
}

/// What is in our table; `None` without the table.
pub(super) fn read() -> Result<Option<Table>, NetlinkError> {
    let socket = Socket::open(Some(NETFILTER))?;
    let tables = socket.dump(&request(READ_TABLES), |body| {
        text(body.get(FIXED..)?, TABLE_NAME)
    })?;
    if !tables.iter().any(|table| table == TABLE) {
        return Ok(None);
    }
    let mut chains = socket.dump(&request(READ_CHAINS), |body| read_chain(body.get(FIXED..)?))?;
    let rules = socket.dump(&request(READ_RULES), |body| read_rule(body.get(FIXED..)?))?;
    for (chain, expressions) in rules {
        if let Some(chain) = chains.iter_mut().find(|known| known.name == chain) {
            chain.rules.push(expressions);
        }
    }
    Ok(Some(Table { chains }))
}

/// Why a batch was not taken, and what of it the kernel did not want.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) place: String,
    pub(super) error: NetlinkError,
}

impl Failure {
    pub(super) fn during(self, doing: &'static str) -> Error {
        let Self { place, error } = self;
        match error.errno() {
            Some(Errno::PERM | Errno::ACCESS) => Error::NotPermitted { doing },
            _ if is_missing(&error) => Error::NftablesMissing {
                place,
                source: error,
            },
            _ => Error::Netlink {
                doing,
                place,
                source: error,
            },
        }
    }
}

/// Messages that the kernel takes all together or not at all.
struct Batch {
    messages: Messages,
    /// What each message is about; the first has the sequence number 1.
    places: Vec<String>,
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Self {
            messages: Messages::default(),
            places: Vec::new(),
        };
        batch.edge(BATCH_BEGIN);
        batch
    }

    /// The table may be missing, which deleting it would not forgive: it is made first.
    fn delete_table(&mut self) {
        self.push("table", NEW_TABLE, CREATE, |table| {
            table.text(TABLE_NAME, TABLE);
        });
        self.push("table", DELETE_TABLE, ACKNOWLEDGE, |table| {
            table.text(TABLE_NAME, TABLE);
        });
    }

    fn chain(&mut self, chain: &Chain) {
        let place = format!("chain {}", chain.name);
        self.push(&place, NEW_CHAIN, CREATE, |attributes| {
            attributes.text(CHAIN_TABLE, TABLE);
            attributes.text(CHAIN_NAME, chain.name);
            attributes.nested(CHAIN_HOOK, |hook| {
                hook.number(HOOK_NUMBER, chain.hook.number());
                hook.number(HOOK_PRIORITY, chain.kind.priority().cast_unsigned());
            });
            attributes.number(CHAIN_POLICY, ACCEPT);
            attributes.text(CHAIN_TYPE, &chain.kind.to_string());
        });
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        let place = format!("chain {chain}, rule `{rule}`");
        let flags = CREATE | APPEND | ACKNOWLEDGE;
        self.push(&place, NEW_RULE, flags, |attributes| {
            attributes.text(RULE_TABLE, TABLE);
            attributes.text(RULE_CHAIN, chain);
            attributes.nested(RULE_EXPRESSIONS, |list| {
                for expression in lower::expressions(rule) {
                    list.nested(LIST_ELEMENT, |element| expression.write(element));
                }
            });
            attributes.bytes(RULE_USERDATA, &comment(rule.comment));
        });
    }

    fn push(
        &mut self,
        place: &str,
        kind: u16,
        flags: u16,
        write: impl FnOnce(&mut Attributes<'_>),
    ) {
        let header = self.header(kind, flags, place);
        self.messages.push(header, &BOTH_FAMILIES, write);
    }

    fn edge(&mut self, kind: u16) {
        let header = self.header(kind, 0, "the batch as a whole");
        self.messages.push(header, &BATCH_FOR_NFTABLES, |_| {});
    }

    fn header(&mut self, kind: u16, flags: u16, place: &str) -> Header {
        self.places.push(place.to_owned());
        Header {
            kind,
            flags: REQUEST | flags,
            sequence: u32::try_from(self.places.len()).unwrap_or(u32::MAX),
        }
    }

    /// Sends it. The last message but the end asks for the acknowledgement.
    fn commit(mut self) -> Result<(), Failure> {
        let last = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.edge(BATCH_END);
        let sent =
            Socket::open(Some(NETFILTER)).and_then(|socket| socket.transact(&self.messages, last));
        sent.map_err(|error| {
            let index = match error {
                NetlinkError::Answer { sequence, .. } => usize::try_from(sequence)
                    .ok()
                    .and_then(|sequence| sequence.checked_sub(1)),
                _ => None,
            };
            let place = index.and_then(|index| self.places.get(index));
            let place = place
                .cloned()
                .unwrap_or_else(|| "the batch as a whole".to_owned());
            Failure { place, error }
        })
    }
}

fn request(kind: u16) -> Messages {
    let mut messages = Messages::default();
    let header = Header {
        kind,
        flags: REQUEST | DUMP,
        sequence: 1,
    };
    messages.push(header, &BOTH_FAMILIES, |_| {});
    messages
}

/// As `nft` writes a comment: kind, length, text and its zero.
fn comment(text: &str) -> Vec<u8> {
    let mut data = vec![COMMENT, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    data.extend(text.as_bytes());
    data.push(0);
    data
}

fn read_chain(body: &[u8]) -> Option<TableChain> {
    if text(body, CHAIN_TABLE)? != TABLE {
        return None;
    }
    let base = attribute(body, CHAIN_HOOK).and_then(|hook| {
        let priority = number(hook, HOOK_PRIORITY)?.cast_signed();
        Some((
            text(body, CHAIN_TYPE)?,
            number(hook, HOOK_NUMBER)?,
            priority,
        ))
    });
    Some(TableChain {
        name: text(body, CHAIN_NAME)?,
        base,
        accepts: number(body, CHAIN_POLICY) == Some(ACCEPT),
        rules: Vec::new(),
    })
}

/// The chain of a rule, and what the rule does.
fn read_rule(body: &[u8]) -> Option<(String, Vec<Expression>)> {
    if text(body, RULE_TABLE)? != TABLE {
        return None;
    }
    let list = attribute(body, RULE_EXPRESSIONS).unwrap_or_default();
    let expressions = attributes(list).map(|(_, element)| Expression::read(element));
    Some((text(body, RULE_CHAIN)?, expressions.collect()))
}
