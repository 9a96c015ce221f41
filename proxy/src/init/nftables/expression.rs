//! What a rule is to the kernel: expressions that load into a register, compare it and act.
//!
//! Only those that our rules are made of (linux/netfilter/nf_tables.h). Each is written as
//! attributes and read back from them, so that what the kernel holds can be compared with what it
//! was given. [`Display`] writes them as `nft --debug=netlink` does.

use std::fmt::{self, Display, Formatter};

use super::super::netlink::{Attributes, attribute, number, text};

/// The register that everything is loaded into.
const REGISTER: u32 = 1;
/// The register that a verdict goes to.
const VERDICT: u32 = 0;

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// `NF_NAT_RANGE_PROTO_SPECIFIED`: a redirection to a port.
const REDIRECT_TO_PORT: u32 = 2;
/// `NFT_REJECT_TCP_RST`
const REJECT_TCP_RESET: u32 = 1;
/// `NFTA_FIB_F_SADDR`, `NFTA_FIB_F_DADDR`
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
/// `NFT_FIB_RESULT_ADDRTYPE`
const FIB_ADDRESS_TYPE: u32 = 3;

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::init) enum Expression {
    /// A property of the packet into the register
    Meta(Meta),
    /// The register becomes the packet's mark
    SetMark,
    /// A property of the connection into the register
    Connection(Connection),
    /// The register becomes the connection's mark
    SetConnectionMark,
    /// Bytes of a header into the register
    Payload {
        base: Base,
        offset: u32,
        length: u32,
    },
    /// The type of the source's address into the register, as routing sees it
    SourceType,
    /// The same of the destination's address
    DestinationType,
    /// The register and the mask
    And { mask: Vec<u8> },
    /// Ends the rule unless the register is (or is not) this
    Compare { equal: bool, value: Vec<u8> },
    /// The register becomes this
    Load { value: Vec<u8> },
    /// Ends the chain
    Verdict(Verdict),
    /// The destination becomes this machine, with the port that is in the register
    Redirect,
    /// The packet becomes that of a transparent socket on the port that is in the register
    HandOver,
    /// Refused as by a closed port
    Reset,
    /// What we do not write, by its name
    Foreign(String),
}

/// `NFT_META_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::init) enum Meta {
    Mark = 3,
    InputInterface = 4,
    OutputInterface = 5,
    SocketUid = 10,
    Family = 15,
    Protocol = 16,
}

/// `NFT_CT_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::init) enum Connection {
    Direction = 1,
    Mark = 3,
}

/// `NFT_PAYLOAD_*_HEADER`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::init) enum Base {
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::init) enum Verdict {
    Accept,
    Return,
}

impl Expression {
    /// As one element of a rule's list.
    pub(super) fn write(&self, element: &mut Attributes<'_>) {
        element.text(EXPRESSION_NAME, self.name());
        element.nested(EXPRESSION_DATA, |data| self.write_data(data));
    }

    fn name(&self) -> &str {
        match self {
            Self::Meta(_) | Self::SetMark => "meta",
            Self::Connection(_) | Self::SetConnectionMark => "ct",
            Self::Payload { .. } => "payload",
            Self::SourceType | Self::DestinationType => "fib",
            Self::And { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Load { .. } | Self::Verdict(_) => "immediate",
            Self::Redirect => "redir",
            Self::HandOver => "tproxy",
            Self::Reset => "reject",
            Self::Foreign(name) => name,
        }
    }

    /// The numbers are those of `enum nft_NAME_attributes`.
    fn write_data(&self, data: &mut Attributes<'_>) {
        match self {
            Self::Meta(key) => load(data, *key as u32),
            Self::Connection(key) => load(data, *key as u32),
            Self::SetMark => {
                data.number(2, Meta::Mark as u32);
                data.number(3, REGISTER);
            }
            Self::SetConnectionMark => {
                data.number(2, Connection::Mark as u32);
                data.number(4, REGISTER);
            }
            Self::Payload {
                base,
                offset,
                length,
            } => {
                data.number(1, REGISTER);
                data.number(2, *base as u32);
                data.number(3, *offset);
                data.number(4, *length);
            }
            Self::SourceType => {
                data.number(3, FIB_SOURCE);
                load(data, FIB_ADDRESS_TYPE);
            }
            Self::DestinationType => {
                data.number(3, FIB_DESTINATION);
                load(data, FIB_ADDRESS_TYPE);
            }
            Self::And { mask } => {
                data.number(1, REGISTER);
                data.number(2, REGISTER);
                data.number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                write_value(data, 4, mask);
                write_value(data, 5, &vec![0; mask.len()]);
            }
            Self::Compare { equal, value } => {
                data.number(1, REGISTER);
                data.number(2, u32::from(!equal));
                write_value(data, 3, value);
            }
            Self::Load { value } => {
                data.number(1, REGISTER);
                write_value(data, 2, value);
            }
            Self::Verdict(verdict) => write_verdict(data, *verdict),
            Self::Redirect => {
                data.number(1, REGISTER);
                data.number(3, REDIRECT_TO_PORT);
            }
            Self::HandOver => {
                // Of either family.
                data.number(1, 0);
                data.number(3, REGISTER);
            }
            Self::Reset => {
                data.number(1, REJECT_TCP_RESET);
                data.bytes(2, &[0]);
            }
            // Only read, never written.
            Self::Foreign(_) => {}
        }
    }

    /// One element of a rule's list, as the kernel tells it.
    pub(super) fn read(element: &[u8]) -> Self {
        let name = text(element, EXPRESSION_NAME).unwrap_or_default();
        let data = attribute(element, EXPRESSION_DATA).unwrap_or_default();
        Self::known(&name, data).unwrap_or(Self::Foreign(name))
    }

    /// `None` for everything that we would not have written.
    fn known(name: &str, data: &[u8]) -> Option<Self> {
        let is = |attribute, value| number(data, attribute) == Some(value);
        match name {
            "meta" if is(1, REGISTER) => Meta::read(number(data, 2)?).map(Self::Meta),
            "meta" if is(3, REGISTER) && is(2, Meta::Mark as u32) => Some(Self::SetMark),
            "ct" if is(1, REGISTER) => Connection::read(number(data, 2)?).map(Self::Connection),
            "ct" if is(4, REGISTER) && is(2, Connection::Mark as u32) => {
                Some(Self::SetConnectionMark)
            }
            "payload" if is(1, REGISTER) => Some(Self::Payload {
                base: Base::read(number(data, 2)?)?,
                offset: number(data, 3)?,
                length: number(data, 4)?,
            }),
            "fib" if is(1, REGISTER) && is(2, FIB_ADDRESS_TYPE) => match number(data, 3)? {
                FIB_SOURCE => Some(Self::SourceType),
                FIB_DESTINATION => Some(Self::DestinationType),
                _ => None,
            },
            "bitwise" if is(1, REGISTER) && is(2, REGISTER) => {
                let flip = value(data, 5)?;
                let mask = value(data, 4)?;
                let operation = number(data, 6).unwrap_or(0);
                (operation == 0 && flip.iter().all(|byte| *byte == 0)).then_some(Self::And { mask })
            }
            "cmp" if is(1, REGISTER) => Some(Self::Compare {
                equal: match number(data, 2)? {
                    0 => true,
                    1 => false,
                    _ => return None,
                },
                value: value(data, 3)?,
            }),
            "immediate" if is(1, VERDICT) => {
                let verdict = attribute(attribute(data, 2)?, DATA_VERDICT)?;
                Verdict::read(number(verdict, VERDICT_CODE)?).map(Self::Verdict)
            }
            "immediate" if is(1, REGISTER) => value(data, 2).map(|value| Self::Load { value }),
            // The kernel tells the end of the range of ports, too.
            "redir" if is(1, REGISTER) && is(2, REGISTER) && is(3, REDIRECT_TO_PORT) => {
                Some(Self::Redirect)
            }
            "tproxy" if is(1, 0) && is(3, REGISTER) && attribute(data, 2).is_none() => {
                Some(Self::HandOver)
            }
            "reject" if is(1, REJECT_TCP_RESET) => Some(Self::Reset),
            _ => None,
        }
    }
}

/// What `meta`, `ct` and `fib` have alike.
fn load(data: &mut Attributes<'_>, what: u32) {
    data.number(2, what);
    data.number(1, REGISTER);
}

fn write_value(data: &mut Attributes<'_>, number: u16, value: &[u8]) {
    data.nested(number, |data| data.bytes(DATA_VALUE, value));
}

fn write_verdict(data: &mut Attributes<'_>, verdict: Verdict) {
    data.number(1, VERDICT);
    data.nested(2, |data| {
        data.nested(DATA_VERDICT, |inner| {
            inner.number(VERDICT_CODE, verdict.code());
        });
    });
}

fn value(data: &[u8], number: u16) -> Option<Vec<u8>> {
    Some(attribute(attribute(data, number)?, DATA_VALUE)?.to_vec())
}

impl Meta {
    const ALL: [Self; 6] = [
        Self::Mark,
        Self::InputInterface,
        Self::OutputInterface,
        Self::SocketUid,
        Self::Family,
        Self::Protocol,
    ];

    fn read(key: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|meta| *meta as u32 == key)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mark => "mark",
            Self::InputInterface => "iif",
            Self::OutputInterface => "oif",
            Self::SocketUid => "skuid",
            Self::Family => "nfproto",
            Self::Protocol => "l4proto",
        }
    }
}

impl Connection {
    fn read(key: u32) -> Option<Self> {
        let all = [Self::Direction, Self::Mark];
        all.into_iter().find(|connection| *connection as u32 == key)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Direction => "direction",
            Self::Mark => "mark",
        }
    }
}

impl Base {
    fn read(base: u32) -> Option<Self> {
        let all = [Self::Network, Self::Transport];
        all.into_iter().find(|known| *known as u32 == base)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Transport => "transport",
        }
    }
}

impl Verdict {
    /// `NF_ACCEPT`, `NFT_RETURN`
    fn code(self) -> u32 {
        match self {
            Self::Accept => 1,
            Self::Return => (-5_i32).cast_unsigned(),
        }
    }

    fn read(code: u32) -> Option<Self> {
        let all = [Self::Accept, Self::Return];
        all.into_iter().find(|verdict| verdict.code() == code)
    }
}

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta(key) => write!(f, "[ meta load {} => reg 1 ]", key.name()),
            Self::SetMark => f.write_str("[ meta set mark with reg 1 ]"),
            Self::Connection(key) => write!(f, "[ ct load {} => reg 1 ]", key.name()),
            Self::SetConnectionMark => f.write_str("[ ct set mark with reg 1 ]"),
            Self::Payload {
                base,
                offset,
                length,
            } => {
                let base = base.name();
                write!(
                    f,
                    "[ payload load {length}b @ {base} header + {offset} => reg 1 ]"
                )
            }
            Self::SourceType => f.write_str("[ fib saddr type => reg 1 ]"),
            Self::DestinationType => f.write_str("[ fib daddr type => reg 1 ]"),
            Self::And { mask } => {
                let zero = words(&vec![0; mask.len()]);
                let mask = words(mask);
                write!(f, "[ bitwise reg 1 = ( reg 1 & {mask} ) ^ {zero} ]")
            }
            Self::Compare { equal, value } => {
                let operation = if *equal { "eq" } else { "neq" };
                write!(f, "[ cmp {operation} reg 1 {} ]", words(value))
            }
            Self::Load { value } => write!(f, "[ immediate reg 1 {} ]", words(value)),
            Self::Verdict(Verdict::Accept) => f.write_str("[ immediate reg 0 accept ]"),
            Self::Verdict(Verdict::Return) => f.write_str("[ immediate reg 0 return ]"),
            Self::Redirect => f.write_str("[ redir proto_min reg 1 flags 0x2 ]"),
            Self::HandOver => f.write_str("[ tproxy port reg 1 ]"),
            Self::Reset => f.write_str("[ reject type 1 code 0 ]"),
            Self::Foreign(name) => write!(f, "[ {name} ]"),
        }
    }
}

/// As `nft` shows registers: words in the machine's byte order.
fn words(value: &[u8]) -> String {
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        format!("0x{:08x}", u32::from_ne_bytes(word))
    };
    value.chunks(4).map(word).collect::<Vec<_>>().join(" ")
}
