//! The way back to a sidecar that speaks to the app from its client's address.
//!
//! The app answers to the client's address, which is somewhere else. What carries the mark is routed
//! by a table of its own, in which every address is here: `ip rule add fwmark 0x836 lookup 2102`,
//! `ip route add local default dev lo table 2102`, for both families.

use rustix::io::Errno;

use super::error::Error;
use super::family::Family;
use super::netlink::{
    ACKNOWLEDGE, CREATE, DUMP, EXCLUSIVE, Header, Messages, NetlinkError, REPLACE, REQUEST, Socket,
    native,
};
use super::rules::MARK;

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const READ_ROUTES: u16 = 26;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const READ_RULES: u16 = 34;

/// `FR_ACT_TO_TBL`
const LOOK_UP: u8 = 1;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;

/// `RTPROT_STATIC`, `RT_SCOPE_HOST`, `RTN_LOCAL`
const STATIC: u8 = 4;
const HOST: u8 = 254;
const LOCAL: u8 = 2;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_TABLE: u16 = 15;
const LOOPBACK: u32 = 1;

/// `struct fib_rule_hdr` and `struct rtmsg` are of one length.
const FIXED: usize = 12;

/// Makes rule and route where they are missing.
pub(super) fn apply(family: Family) -> Result<(), Error> {
    change(
        family,
        NEW_RULE,
        CREATE | EXCLUSIVE,
        &[Errno::EXIST],
        "add the routing rule",
    )?;
    change(
        family,
        NEW_ROUTE,
        CREATE | REPLACE,
        &[],
        "add the route to the sidecar",
    )
}

/// Removes rule and route where they are.
pub(super) fn remove(family: Family) -> Result<(), Error> {
    // Without IPv6 in the kernel there is nothing to remove, and nobody to ask.
    let missing = [
        Errno::NOENT,
        Errno::SRCH,
        Errno::AFNOSUPPORT,
        Errno::OPNOTSUPP,
    ];
    change(family, DELETE_RULE, 0, &missing, "remove the routing rule")?;
    change(
        family,
        DELETE_ROUTE,
        0,
        &missing,
        "remove the route to the sidecar",
    )
}

/// What is missing of the two, if anything is.
pub(super) fn missing(family: Family) -> Result<Option<&'static str>, Error> {
    let rules = dump(family, READ_RULES, |body| {
        let ours = native(body, RULE_MARK) == Some(MARK) && native(body, RULE_TABLE) == Some(MARK);
        ours.then_some(())
    })?;
    let routes = dump(family, READ_ROUTES, |body| {
        let ours = native(body, ROUTE_TABLE) == Some(MARK)
            && native(body, ROUTE_INTERFACE) == Some(LOOPBACK);
        ours.then_some(())
    })?;
    Ok(match (rules.is_empty(), routes.is_empty()) {
        (true, _) => Some("the routing rule"),
        (_, true) => Some("the route to the sidecar"),
        (false, false) => None,
    })
}

fn change(
    family: Family,
    kind: u16,
    flags: u16,
    forgiven: &[Errno],
    doing: &'static str,
) -> Result<(), Error> {
    let mut messages = Messages::default();
    let header = Header {
        kind,
        flags: REQUEST | ACKNOWLEDGE | flags,
        sequence: 1,
    };
    let number = family.number();
    if matches!(kind, NEW_RULE | DELETE_RULE) {
        let fixed = [number, 0, 0, 0, 0, 0, 0, LOOK_UP, 0, 0, 0, 0];
        messages.push(header, &fixed, |rule| {
            rule.native(RULE_PRIORITY, MARK);
            rule.native(RULE_MARK, MARK);
            rule.native(RULE_TABLE, MARK);
        });
    } else {
        let fixed = [number, 0, 0, 0, 0, STATIC, HOST, LOCAL, 0, 0, 0, 0];
        messages.push(header, &fixed, |route| {
            route.native(ROUTE_TABLE, MARK);
            route.native(ROUTE_INTERFACE, LOOPBACK);
        });
    }
    let sent = Socket::open(None).and_then(|socket| socket.transact(&messages, 1));
    match sent {
        Err(error) if error.errno().is_some_and(|errno| forgiven.contains(&errno)) => Ok(()),
        sent => sent.map_err(|error| failed(family, doing, error)),
    }
}

fn dump<T>(family: Family, kind: u16, each: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Error> {
    let mut request = Messages::default();
    let header = Header {
        kind,
        flags: REQUEST | DUMP,
        sequence: 1,
    };
    let mut fixed = [0; FIXED];
    fixed[0] = family.number();
    request.push(header, &fixed, |_| {});
    Socket::open(None)
        .and_then(|socket| socket.dump(&request, |body| each(body.get(FIXED..)?)))
        .map_err(|error| failed(family, "read the routing", error))
}

fn failed(family: Family, doing: &'static str, error: NetlinkError) -> Error {
    match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => Error::NotPermitted { doing },
        _ => Error::Netlink {
            doing,
            place: family.to_string(),
            error,
        },
    }
}

impl Family {
    /// `AF_INET`, `AF_INET6`
    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}
