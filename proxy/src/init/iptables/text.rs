//! The rules as `iptables-save` writes them, so that what it says can be compared with them.

use ipnet::IpNet;

use super::super::family::Family;
use super::super::rules::{Action, Chain, ChainKind, Hook, Match, Rule, Ruleset};

/// The tables that our chains may be in.
pub(super) const TABLES: [&str; 2] = ["nat", "mangle"];

/// What the names of our chains begin with.
pub(super) const PREFIX: &str = "OUTRIDER_";

/// One of our chains, with what leads to it and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::init) struct ChainText {
    pub(super) table: String,
    pub(super) name: String,
    pub(super) jumps: Vec<String>,
    pub(super) rules: Vec<String>,
}

/// The chains of one family.
pub(in crate::init) fn chains(ruleset: &Ruleset, family: Family) -> Vec<ChainText> {
    ruleset
        .chains
        .iter()
        .map(|chain| text(chain, family))
        .collect()
}

fn text(chain: &Chain, family: Family) -> ChainText {
    let name = format!("{PREFIX}{}", chain.name.to_uppercase());
    let hook = match chain.hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Output => "OUTPUT",
    };
    let rules = chain
        .rules
        .iter()
        .filter_map(|rule| line(&name, rule, family));
    ChainText {
        table: match chain.kind {
            ChainKind::Nat => "nat",
            ChainKind::Filter | ChainKind::Route => "mangle",
        }
        .to_owned(),
        jumps: vec![format!("-A {hook} -j {name}")],
        rules: rules.collect(),
        name,
    }
}

/// `None` for a rule of the other family.
fn line(chain: &str, rule: &Rule, family: Family) -> Option<String> {
    let mut words = vec![format!("-A {chain}")];
    for condition in &rule.matches {
        if !belongs(condition, family) {
            return None;
        }
        words.extend(matching(condition));
    }
    // iptables-save quotes what is more than a word.
    let comment = rule.comment;
    let quote = if comment.contains(|letter: char| !letter.is_ascii_alphanumeric()) {
        "\""
    } else {
        ""
    };
    words.push(format!("-m comment --comment {quote}{comment}{quote}"));
    words.push(acting(rule.action, family));
    Some(words.join(" "))
}

fn belongs(condition: &Match, family: Family) -> bool {
    match condition {
        Match::From(network) | Match::To(network) => family.has(network.addr()),
        _ => true,
    }
}

fn matching(condition: &Match) -> Option<String> {
    Some(match condition {
        Match::Tcp => "-p tcp".to_owned(),
        Match::NotTcp => "! -p tcp".to_owned(),
        Match::FromLoopback => "-i lo".to_owned(),
        Match::ToLoopback => "-o lo".to_owned(),
        Match::ToLocal => "-m addrtype --dst-type LOCAL".to_owned(),
        Match::NotToLocal => "-m addrtype ! --dst-type LOCAL".to_owned(),
        Match::ToPort(port) => format!("-p tcp -m tcp --dport {port}"),
        Match::From(network) => format!("-s {}", written(network)?),
        Match::To(network) => format!("-d {}", written(network)?),
        Match::SocketUid(uid) => format!("-m owner --uid-owner {uid}"),
        Match::FromElsewhere => "-m addrtype ! --src-type LOCAL".to_owned(),
        Match::ConnectionMark(mark) => format!("-m connmark --mark {mark:#x}"),
        Match::Answer => "-m conntrack --ctdir REPLY".to_owned(),
    })
}

/// Every address is no condition.
fn written(network: &IpNet) -> Option<String> {
    (network.prefix_len() > 0).then(|| network.to_string())
}

fn acting(action: Action, family: Family) -> String {
    match action {
        Action::Return => "-j RETURN".to_owned(),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Action::HandOver(port) => {
            let address = family.unspecified();
            format!("-j TPROXY --on-port {port} --on-ip {address} --tproxy-mark 0x0/0x0")
        }
        // REJECT is for other tables; and TPROXY has dropped it already.
        Action::Refuse => "-j DROP".to_owned(),
        Action::MarkConnection(mark) => format!("-j CONNMARK --set-xmark {mark:#x}/0xffffffff"),
        Action::MarkPacket => {
            "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned()
        }
    }
}

/// What `iptables-restore --noflush` is given to turn what was `found` into what is `wanted`: for each
/// table one transaction.
pub(in crate::init) fn restore(wanted: &[ChainText], found: &[ChainText]) -> String {
    let mut text = String::new();
    for table in TABLES {
        let of = |chains: &[ChainText]| -> Vec<ChainText> {
            let chains = chains.iter().filter(|chain| chain.table == table);
            chains.cloned().collect()
        };
        let (wanted, found) = (of(wanted), of(found));
        if wanted.is_empty() && found.is_empty() {
            continue;
        }
        let mut lines = vec![format!("*{table}")];
        // To name a chain makes it, or empties it.
        let gone = found
            .iter()
            .filter(|chain| !wanted.iter().any(|kept| kept.name == chain.name));
        let gone: Vec<&ChainText> = gone.collect();
        let named = wanted.iter().chain(gone.iter().copied());
        lines.extend(named.map(|chain| format!(":{} - [0:0]", chain.name)));
        for jump in found.iter().flat_map(|chain| &chain.jumps) {
            lines.push(jump.replacen("-A", "-D", 1));
        }
        for chain in &wanted {
            // Before the rules of others, which might send the packet elsewhere.
            lines.extend(chain.jumps.iter().map(|jump| jump.replacen("-A", "-I", 1)));
            lines.extend(chain.rules.iter().cloned());
        }
        lines.extend(gone.iter().map(|chain| format!("-X {}", chain.name)));
        lines.push("COMMIT\n".to_owned());
        text.push_str(&lines.join("\n"));
    }
    text
}

/// Our chains in what `iptables-save` says.
pub(super) fn read(saved: &str) -> Vec<ChainText> {
    let mut chains: Vec<ChainText> = Vec::new();
    let mut table = "";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if name.starts_with(PREFIX) {
                chains.push(ChainText {
                    table: table.to_owned(),
                    name: name.to_owned(),
                    jumps: Vec::new(),
                    rules: Vec::new(),
                });
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let of = rule.split(' ').next();
            for chain in chains.iter_mut().filter(|chain| chain.table == table) {
                if of == Some(&chain.name) {
                    chain.rules.push(line.to_owned());
                } else if rule.split(' ').any(|word| word == chain.name) {
                    chain.jumps.push(line.to_owned());
                }
            }
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::plan::tests::plan;
    use crate::intercept::Mode;

    #[test]
    fn what_is_restored_is_what_is_read_when_it_is_saved() {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            for family in Family::ALL {
                let mut wanted = chains(&Ruleset::from(&plan(mode)), family);
                // As they are restored: nat, then mangle.
                wanted.sort_by(|one, other| other.table.cmp(&one.table));
                // iptables-save writes the same lines, with the jump appended.
                let saved = restore(&wanted, &[]).replace("-I ", "-A ");
                assert_eq!(read(&saved), wanted);
            }
        }
    }

    #[test]
    fn each_family_has_its_own_networks() {
        let ruleset = Ruleset::from(&plan(Mode::Redirect));
        let text = |family| restore(&chains(&ruleset, family), &[]);
        let (v4, v6) = (text(Family::V4), text(Family::V6));
        assert!(
            v4.contains("-d 10.128.0.0/9 ") && !v4.contains("fd00"),
            "{v4}"
        );
        assert!(
            v6.contains("-d fd00::/8 ") && !v6.contains("10.128"),
            "{v6}"
        );
        assert!(!v4.contains("/0") && !v6.contains("/0"), "{v4}{v6}");
    }

    #[test]
    fn what_is_no_longer_wanted_is_taken_away_in_the_same_transaction() {
        let tproxy = chains(&Ruleset::from(&plan(Mode::Tproxy)), Family::V4);
        let text = restore(&[], &tproxy);
        assert_eq!(
            text,
            "*nat\n:OUTRIDER_OUTPUT - [0:0]\n-D OUTPUT -j OUTRIDER_OUTPUT\n-X OUTRIDER_OUTPUT\nCOMMIT\n\
             *mangle\n:OUTRIDER_PREROUTING - [0:0]\n:OUTRIDER_MARKS - [0:0]\n\
             -D PREROUTING -j OUTRIDER_PREROUTING\n-D OUTPUT -j OUTRIDER_MARKS\n\
             -X OUTRIDER_PREROUTING\n-X OUTRIDER_MARKS\nCOMMIT\n"
        );
        assert_eq!(restore(&[], &[]), "");
    }
}
