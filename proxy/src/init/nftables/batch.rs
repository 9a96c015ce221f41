//! A transaction: messages that the kernel takes all together or not at all.

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::super::error::Error;
use super::super::netlink::{
    ACKNOWLEDGE, APPEND, Attributes, CREATE, Header, Messages, NetlinkError, REQUEST, Socket,
};
use super::super::rules::{Chain, Rule, TABLE};
use super::lower;
use super::numbers::*;

/// Why a batch was not taken, and what of it the kernel did not want.
#[derive(Debug)]
pub(in crate::init) struct Failure {
    pub(in crate::init) place: String,
    pub(in crate::init) error: NetlinkError,
}

impl Failure {
    pub(in crate::init) fn during(self, doing: &'static str) -> Error {
        let Self { place, error } = self;
        match error.errno() {
            Some(Errno::PERM | Errno::ACCESS) => Error::NotPermitted { doing },
            _ if is_missing(&error) => Error::NftablesMissing { place, error },
            _ => Error::Netlink {
                doing,
                place,
                error,
            },
        }
    }
}

/// Messages that the kernel takes all together or not at all.
pub(super) struct Batch {
    messages: Messages,
    /// What each message is about; the first has the sequence number 1.
    places: Vec<String>,
}

impl Batch {
    pub(super) fn begin() -> Self {
        let mut batch = Self {
            messages: Messages::default(),
            places: Vec::new(),
        };
        batch.edge(BATCH_BEGIN);
        batch
    }

    /// The table may be missing, which deleting it would not forgive: it is made first.
    pub(super) fn delete_table(&mut self) {
        self.push("table", NEW_TABLE, CREATE, |table| {
            table.text(TABLE_NAME, TABLE);
        });
        self.push("table", DELETE_TABLE, 0, |table| {
            table.text(TABLE_NAME, TABLE);
        });
    }

    pub(super) fn chain(&mut self, chain: &Chain) {
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

    pub(super) fn rule(&mut self, chain: &str, rule: &Rule) {
        let place = format!("chain {chain}, rule `{rule}`");
        let flags = CREATE | APPEND;
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

    pub(super) fn push(
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

    /// Sends it. The last message but the end asks for the acknowledgement: one for each would be
    /// more than the socket holds.
    pub(super) fn commit(mut self) -> Result<(), Failure> {
        let last = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.messages.flag_last(ACKNOWLEDGE);
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

/// Whether the kernel has no nftables, or not enough of it, rather than refusing.
fn is_missing(error: &NetlinkError) -> bool {
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

/// As `nft` writes a comment: kind, length, text and its zero.
fn comment(text: &str) -> Vec<u8> {
    let mut data = vec![COMMENT, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    data.extend(text.as_bytes());
    data.push(0);
    data
}
