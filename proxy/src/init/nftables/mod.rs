//! The rules through nftables' netlink: written as one batch, and read back.

mod batch;
mod expression;
mod lower;
mod numbers;
mod table;

use rustix::net::netlink::NETFILTER;

use super::netlink::{
    CREATE, DUMP, Header, Messages, NetlinkError, REQUEST, Socket, attribute, attributes, number,
    text,
};
use super::rules::{Ruleset, TABLE};
use batch::Batch;
pub(super) use batch::Failure;
use expression::Expression;
use numbers::{
    ACCEPT, BOTH_FAMILIES, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, FIXED,
    HOOK_NUMBER, HOOK_PRIORITY, NEW_TABLE, READ_CHAINS, READ_RULES, READ_TABLES, RULE_CHAIN,
    RULE_EXPRESSIONS, RULE_TABLE, TABLE_NAME,
};
pub(super) use table::{Table, TableChain};

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
