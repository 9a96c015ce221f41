//! The numbers of linux/netfilter/nf_tables.h and nfnetlink.h that a table, a chain and a rule need.

/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's kind
pub(super) const SUBSYSTEM: u16 = 10 << 8;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;
pub(super) const NEW_TABLE: u16 = SUBSYSTEM;
pub(super) const READ_TABLES: u16 = SUBSYSTEM | 1;
pub(super) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(super) const READ_CHAINS: u16 = SUBSYSTEM | 4;
pub(super) const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(super) const READ_RULES: u16 = SUBSYSTEM | 7;

/// `struct nfgenmsg` for both families (`NFPROTO_INET`): family, version, resource.
pub(super) const BOTH_FAMILIES: [u8; 4] = [1, 0, 0, 0];
/// The same around a batch, where the resource says whose it is, in the order of the network.
pub(super) const BATCH_FOR_NFTABLES: [u8; 4] = [0, 0, 0, 10];
/// How long these are.
pub(super) const FIXED: usize = 4;

pub(super) const TABLE_NAME: u16 = 1;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
/// `NF_ACCEPT`
pub(super) const ACCEPT: u32 = 1;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
pub(super) const LIST_ELEMENT: u16 = 1;
/// How `nft` keeps a comment among a rule's data.
pub(super) const COMMENT: u8 = 0;
