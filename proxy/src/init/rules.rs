//! The rules, as what they mean: one list that is written as nftables, as iptables, and as text.

use ipnet::IpNet;

use super::plan::Plan;
use crate::intercept::Mode;

/// Where DNS is asked over TCP (RFC 7766); asked over UDP it is not intercepted anyhow.
const DNS_PORT: u16 = 53;

/// The mark of connections that the sidecar makes from a client's address, and the number of the
/// routing table that brings their answers back to it. The number is the sidecar's UID.
pub(super) const MARK: u32 = 2102;

/// The table or, with iptables, the beginning of the names of the chains.
pub(super) const TABLE: &str = "outrider";

/// All chains of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: ChainKind,
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// What a chain may do, and with it where it stands among the chains of its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainKind {
    /// Sees the first packet of a connection and may give it another destination
    Nat,
    /// Sees every packet
    Filter,
    /// Sees every packet; one whose mark it changes is routed anew
    Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Output,
}

/// If all of `matches` hold, then `action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
    /// For people, who see it in `nft list ruleset`.
    pub(super) comment: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Tcp,
    NotTcp,
    FromLoopback,
    ToLoopback,
    ToLocal,
    NotToLocal,
    ToPort(u16),
    From(IpNet),
    To(IpNet),
    SocketUid(u32),
    /// The source is no address of this namespace
    FromElsewhere,
    ConnectionMark(u32),
    /// Of a connection that was made from here
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Goes on without the sidecar
    Return,
    /// To this port of this machine
    Redirect(u16),
    /// To a transparent socket on this port; if there is none, the next rule
    HandOver(u16),
    /// Refused, as by a port that nobody listens on
    Refuse,
    /// The connection gets this mark
    MarkConnection(u32),
    /// The packet gets the connection's mark
    MarkPacket,
}

impl From<&Plan> for Ruleset {
    fn from(plan: &Plan) -> Self {
        let chains = match plan.mode {
            Mode::Redirect => vec![redirect_inbound(plan), redirect_outbound(plan)],
            Mode::Tproxy => vec![
                hand_over_inbound(plan),
                marks(plan),
                redirect_outbound(plan),
            ],
        };
        Self { chains }
    }
}

impl Ruleset {
    /// Whether answers to clients' addresses must be routed to the sidecar.
    pub(super) fn needs_routing(&self) -> bool {
        self.chains
            .iter()
            .any(|chain| chain.kind == ChainKind::Route)
    }
}

fn redirect_inbound(plan: &Plan) -> Chain {
    let mut rules = vec![rule([Match::NotTcp], Action::Return, "only TCP")];
    rules.extend(inbound_exclusions(plan));
    let action = Action::Redirect(plan.sidecar.inbound_port);
    rules.push(rule([Match::Tcp], action, "to the sidecar, inbound"));
    Chain {
        name: "prerouting",
        kind: ChainKind::Nat,
        hook: Hook::Prerouting,
        rules,
    }
}

/// A chain that sees every packet: those of connections that were made from here come first.
fn hand_over_inbound(plan: &Plan) -> Chain {
    let mut rules = vec![
        rule([Match::NotTcp], Action::Return, "only TCP"),
        rule([Match::Answer], Action::Return, "connections from here"),
    ];
    rules.extend(inbound_exclusions(plan));
    let action = Action::HandOver(plan.sidecar.inbound_port);
    rules.push(rule([Match::Tcp], action, "to the sidecar, inbound"));
    rules.push(rule([Match::Tcp], Action::Refuse, "no sidecar, no traffic"));
    Chain {
        name: "prerouting",
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        rules,
    }
}

fn inbound_exclusions(plan: &Plan) -> Vec<Rule> {
    let mut rules = vec![
        rule([Match::FromLoopback], Action::Return, "loopback"),
        rule(
            [Match::NotToLocal],
            Action::Return,
            "not for this namespace",
        ),
        pass_port(plan.mesh_port, "other sidecars"),
        pass_port(plan.telemetry_port, "metrics and health"),
    ];
    let ports = plan.inbound.ports.iter();
    rules.extend(ports.map(|port| pass_port(*port, "excluded port")));
    let cidrs = plan.inbound.cidrs.iter();
    rules.extend(cidrs.map(|cidr| rule([Match::From(*cidr)], Action::Return, "excluded client")));
    rules
}

/// A connection that the sidecar makes from an address that is not here is one to the app, as a client:
/// it gets the mark. The app's answer gets the same mark, and with it the route to the sidecar.
fn marks(plan: &Plan) -> Chain {
    Chain {
        name: "marks",
        kind: ChainKind::Route,
        hook: Hook::Output,
        rules: vec![
            rule([Match::NotTcp], Action::Return, "only TCP"),
            rule(
                [Match::SocketUid(plan.sidecar.uid), Match::FromElsewhere],
                Action::MarkConnection(MARK),
                "the sidecar, speaking as a client",
            ),
            rule(
                [Match::Answer, Match::ConnectionMark(MARK)],
                Action::MarkPacket,
                "the answer of the app to it",
            ),
        ],
    }
}

fn redirect_outbound(plan: &Plan) -> Chain {
    let mut rules = vec![
        rule([Match::NotTcp], Action::Return, "only TCP"),
        rule(
            [Match::SocketUid(plan.sidecar.uid)],
            Action::Return,
            "the sidecar itself",
        ),
    ];
    let to_admin = [Match::ToLoopback, Match::ToPort(plan.admin_port)];
    let admins = plan.admin_uids.iter();
    rules.extend(admins.map(|uid| {
        let [to_loopback, to_port] = to_admin;
        let matches = [to_loopback, to_port, Match::SocketUid(*uid)];
        rule(matches, Action::Return, "admin, for this user too")
    }));
    rules.extend([
        // The sidecar, which finds that it was meant itself, refuses it and counts that.
        rule(
            to_admin,
            Action::Redirect(plan.sidecar.outbound_port),
            "admin, for the sidecar alone",
        ),
        rule([Match::ToLoopback], Action::Return, "loopback"),
        rule([Match::ToLocal], Action::Return, "own addresses"),
        pass_port(DNS_PORT, "DNS"),
    ]);
    let uids = plan.uids.iter();
    rules.extend(uids.map(|uid| rule([Match::SocketUid(*uid)], Action::Return, "excluded user")));
    let ports = plan.outbound.ports.iter();
    rules.extend(ports.map(|port| pass_port(*port, "excluded port")));
    let cidrs = plan.outbound.cidrs.iter();
    rules
        .extend(cidrs.map(|cidr| rule([Match::To(*cidr)], Action::Return, "excluded destination")));
    let action = Action::Redirect(plan.sidecar.outbound_port);
    rules.push(rule([Match::Tcp], action, "to the sidecar, outbound"));
    Chain {
        name: "output",
        kind: ChainKind::Nat,
        hook: Hook::Output,
        rules,
    }
}

fn pass_port(port: u16, comment: &'static str) -> Rule {
    rule([Match::ToPort(port)], Action::Return, comment)
}

fn rule<const N: usize>(matches: [Match; N], action: Action, comment: &'static str) -> Rule {
    Rule {
        matches: matches.into(),
        action,
        comment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::plan::tests::plan;

    #[test]
    fn comments_are_written_alike_by_every_backend() {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            for chain in Ruleset::from(&plan(mode)).chains {
                for rule in chain.rules {
                    // iptables-save escapes more than nft does.
                    let plain =
                        |letter: char| letter.is_ascii_alphanumeric() || " ,".contains(letter);
                    assert!(rule.comment.chars().all(plain), "{}", rule.comment);
                }
            }
        }
    }

    #[test]
    fn what_passes_comes_before_what_is_intercepted() {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            for chain in Ruleset::from(&plan(mode)).chains {
                let catches = |rule: &Rule| {
                    let leads = matches!(rule.action, Action::Redirect(_) | Action::HandOver(_));
                    leads && rule.matches == [Match::Tcp]
                };
                let first = chain.rules.iter().position(catches);
                let passes = |rule: &Rule| rule.action == Action::Return;
                let last = chain.rules.iter().rposition(passes);
                assert!(first.is_none() || last < first, "{chain}");
            }
        }
    }
}
