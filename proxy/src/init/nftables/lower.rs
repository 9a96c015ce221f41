//! A rule as the kernel's expressions.

use ipnet::IpNet;

use super::super::rules::{Action, Match, Rule};
use super::expression::{Base, Connection, Expression, Meta, Verdict};

/// `lo` has the number 1 in every network namespace: the kernel makes it first.
const LOOPBACK: u32 = 1;
/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
/// `IP_CT_DIR_REPLY`
const REPLY: u8 = 1;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Where the destination port stands in a TCP header.
const DESTINATION_PORT: u32 = 2;

pub(in crate::init) fn expressions(rule: &Rule) -> Vec<Expression> {
    let mut list = Vec::new();
    for condition in &rule.matches {
        matching(condition, &mut list);
    }
    acting(rule.action, &mut list);
    list
}

fn matching(condition: &Match, list: &mut Vec<Expression>) {
    match condition {
        Match::Tcp => protocol(true, list),
        Match::NotTcp => protocol(false, list),
        Match::FromLoopback => meta(Meta::InputInterface, &LOOPBACK.to_ne_bytes(), list),
        Match::ToLoopback => meta(Meta::OutputInterface, &LOOPBACK.to_ne_bytes(), list),
        Match::ToLocal => destination_type(true, list),
        Match::NotToLocal => destination_type(false, list),
        Match::ToPort(port) => {
            protocol(true, list);
            list.push(Expression::Payload {
                base: Base::Transport,
                offset: DESTINATION_PORT,
                length: 2,
            });
            list.push(equal(&port.to_be_bytes()));
        }
        Match::From(network) => address(network, false, list),
        Match::To(network) => address(network, true, list),
        Match::SocketUid(uid) => meta(Meta::SocketUid, &uid.to_ne_bytes(), list),
        Match::Mark(mark) => meta(Meta::Mark, &mark.to_ne_bytes(), list),
        Match::ConnectionMark(mark) => {
            list.push(Expression::Connection(Connection::Mark));
            list.push(equal(&mark.to_ne_bytes()));
        }
        Match::Answer => {
            list.push(Expression::Connection(Connection::Direction));
            list.push(equal(&[REPLY]));
        }
    }
}

fn protocol(is_tcp: bool, list: &mut Vec<Expression>) {
    list.push(Expression::Meta(Meta::Protocol));
    list.push(Expression::Compare {
        equal: is_tcp,
        value: vec![TCP],
    });
}

fn meta(key: Meta, value: &[u8], list: &mut Vec<Expression>) {
    list.push(Expression::Meta(key));
    list.push(equal(value));
}

fn destination_type(is_local: bool, list: &mut Vec<Expression>) {
    list.push(Expression::DestinationType);
    list.push(Expression::Compare {
        equal: is_local,
        value: LOCAL.to_ne_bytes().to_vec(),
    });
}

/// Source and destination stand at 12 and 16 of an IPv4 header, at 8 and 24 of an IPv6 header. Of a
/// prefix that ends with a byte only these bytes are compared, as `nft` does it.
fn address(network: &IpNet, destination: bool, list: &mut Vec<Expression>) {
    let (family, offset, mut value, mask) = match network {
        IpNet::V4(network) => (
            IPV4,
            if destination { 16 } else { 12 },
            network.network().octets().to_vec(),
            network.netmask().octets().to_vec(),
        ),
        IpNet::V6(network) => (
            IPV6,
            if destination { 24 } else { 8 },
            network.network().octets().to_vec(),
            network.netmask().octets().to_vec(),
        ),
    };
    meta(Meta::Family, &[family], list);
    let bits = usize::from(network.prefix_len());
    let whole_bytes = bits > 0 && bits.is_multiple_of(8);
    if whole_bytes {
        value.truncate(bits / 8);
    }
    list.push(Expression::Payload {
        base: Base::Network,
        offset,
        length: u32::try_from(value.len()).unwrap_or(u32::MAX),
    });
    if !whole_bytes {
        list.push(Expression::And { mask });
    }
    list.push(equal(&value));
}

fn equal(value: &[u8]) -> Expression {
    Expression::Compare {
        equal: true,
        value: value.to_vec(),
    }
}

fn acting(action: Action, list: &mut Vec<Expression>) {
    match action {
        Action::Return => list.push(Expression::Verdict(Verdict::Return)),
        Action::Redirect(port) => {
            list.push(load(port));
            list.push(Expression::Redirect);
        }
        Action::HandOver(port) => {
            list.push(load(port));
            list.push(Expression::HandOver);
            list.push(Expression::Verdict(Verdict::Accept));
        }
        Action::Refuse => list.push(Expression::Reset),
        Action::MarkConnection => {
            list.push(Expression::Meta(Meta::Mark));
            list.push(Expression::SetConnectionMark);
        }
        Action::MarkPacket => {
            list.push(Expression::Connection(Connection::Mark));
            list.push(Expression::SetMark);
        }
    }
}

fn load(port: u16) -> Expression {
    Expression::Load {
        value: port.to_be_bytes().to_vec(),
    }
}
