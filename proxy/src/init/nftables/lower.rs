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
        Match::ToLocal => local(true, Expression::DestinationType, list),
        Match::NotToLocal => local(false, Expression::DestinationType, list),
        Match::FromElsewhere => local(false, Expression::SourceType, list),
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

fn local(is_local: bool, address_type: Expression, list: &mut Vec<Expression>) {
    list.push(address_type);
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
            list.push(load(&port.to_be_bytes()));
            list.push(Expression::Redirect);
        }
        Action::HandOver(port) => {
            list.push(load(&port.to_be_bytes()));
            list.push(Expression::HandOver);
            list.push(Expression::Verdict(Verdict::Accept));
        }
        Action::Refuse => list.push(Expression::Reset),
        Action::MarkConnection(mark) => {
            list.push(load(&mark.to_ne_bytes()));
            list.push(Expression::SetConnectionMark);
        }
        Action::MarkPacket => {
            list.push(Expression::Connection(Connection::Mark));
            list.push(Expression::SetMark);
        }
    }
}

fn load(value: &[u8]) -> Expression {
    Expression::Load {
        value: value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::netlink::{Header, Messages, attribute, attributes};
    use crate::init::plan::tests::plan;
    use crate::init::rules::Ruleset;
    use crate::intercept::Mode;

    /// What `nft --debug=netlink` says of the rule when it is given as text.
    #[track_caller]
    fn assert_lowered(matches: Vec<Match>, action: Action, text: &str, expected: &str) {
        let rule = Rule {
            matches,
            action,
            comment: "",
        };
        assert_eq!(rule.to_string(), text);
        let steps: Vec<String> = expressions(&rule)
            .iter()
            .map(Expression::to_string)
            .collect();
        assert_eq!(steps.join("\n"), expected.replace("        ", "").trim());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn rules_are_what_nft_makes_of_them() {
        assert_lowered(
            vec![Match::ToPort(15008)],
            Action::Return,
            "tcp dport 15008 return",
            "[ meta load l4proto => reg 1 ]
        [ cmp eq reg 1 0x00000006 ]
        [ payload load 2b @ transport header + 2 => reg 1 ]
        [ cmp eq reg 1 0x0000a03a ]
        [ immediate reg 0 return ]",
        );
        assert_lowered(
            vec![Match::From("10.0.0.0/9".parse().unwrap())],
            Action::Return,
            "ip saddr 10.0.0.0/9 return",
            "[ meta load nfproto => reg 1 ]
        [ cmp eq reg 1 0x00000002 ]
        [ payload load 4b @ network header + 12 => reg 1 ]
        [ bitwise reg 1 = ( reg 1 & 0x000080ff ) ^ 0x00000000 ]
        [ cmp eq reg 1 0x0000000a ]
        [ immediate reg 0 return ]",
        );
        assert_lowered(
            vec![Match::To("fd00::/8".parse().unwrap())],
            Action::Return,
            "ip6 daddr fd00::/8 return",
            "[ meta load nfproto => reg 1 ]
        [ cmp eq reg 1 0x0000000a ]
        [ payload load 1b @ network header + 24 => reg 1 ]
        [ cmp eq reg 1 0x000000fd ]
        [ immediate reg 0 return ]",
        );
        assert_lowered(
            vec![Match::NotToLocal],
            Action::Return,
            "fib daddr type != local return",
            "[ fib daddr type => reg 1 ]
        [ cmp neq reg 1 0x00000002 ]
        [ immediate reg 0 return ]",
        );
        assert_lowered(
            vec![Match::Tcp],
            Action::Redirect(15006),
            "meta l4proto tcp redirect to :15006",
            "[ meta load l4proto => reg 1 ]
        [ cmp eq reg 1 0x00000006 ]
        [ immediate reg 1 0x00009e3a ]
        [ redir proto_min reg 1 flags 0x2 ]",
        );
        assert_lowered(
            vec![Match::Tcp],
            Action::HandOver(15006),
            "meta l4proto tcp tproxy to :15006 accept",
            "[ meta load l4proto => reg 1 ]
        [ cmp eq reg 1 0x00000006 ]
        [ immediate reg 1 0x00009e3a ]
        [ tproxy port reg 1 ]
        [ immediate reg 0 accept ]",
        );
        assert_lowered(
            vec![Match::SocketUid(2102), Match::FromElsewhere],
            Action::MarkConnection(2102),
            "meta skuid 2102 fib saddr type != local ct mark set 0x836",
            "[ meta load skuid => reg 1 ]
        [ cmp eq reg 1 0x00000836 ]
        [ fib saddr type => reg 1 ]
        [ cmp neq reg 1 0x00000002 ]
        [ immediate reg 1 0x00000836 ]
        [ ct set mark with reg 1 ]",
        );
        assert_lowered(
            vec![Match::Answer, Match::ConnectionMark(2102)],
            Action::MarkPacket,
            "ct direction reply ct mark 0x836 meta mark set ct mark",
            "[ ct load direction => reg 1 ]
        [ cmp eq reg 1 0x00000001 ]
        [ ct load mark => reg 1 ]
        [ cmp eq reg 1 0x00000836 ]
        [ ct load mark => reg 1 ]
        [ meta set mark with reg 1 ]",
        );
    }

    /// The kernel's answer differs from what it was given in one thing: the end of a redirection's
    /// range of ports, which has a test in namespaces.
    #[test]
    fn every_expression_is_read_as_it_was_written() {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            let ruleset = Ruleset::from(&plan(mode));
            for rule in ruleset.chains.iter().flat_map(|chain| &chain.rules) {
                for expression in expressions(rule) {
                    if expression == Expression::Redirect {
                        continue;
                    }
                    let mut messages = Messages::default();
                    let header = Header {
                        kind: 0,
                        flags: 0,
                        sequence: 0,
                    };
                    messages.push(header, &[], |list| {
                        list.nested(1, |element| expression.write(element));
                    });
                    let element = attribute(&messages.bytes()[16..], 1).unwrap();
                    assert_eq!(attributes(element).count(), 2);
                    assert_eq!(Expression::read(element), expression);
                }
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_foreign() {
        for bytes in [&[][..], &[1, 2, 3], &[8, 0, 1, 0, b'l', b'o', b'g', 0]] {
            assert!(matches!(Expression::read(bytes), Expression::Foreign(_)));
        }
    }
}
