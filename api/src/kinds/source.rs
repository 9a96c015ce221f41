//! `sources[]` of a rule: a discriminated union, one field for each `type`.

use ipnet::IpNet;
use outrider_certs::spiffe::SpiffeId;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::{field, text};
use crate::authorization::{self, IpBlock};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
pub enum Source {
    ServiceAccount {
        /// `None`: the policy's own.
        namespace: Option<String>,
        /// `None`: every one of the namespace (`*`).
        name: Option<String>,
    },
    Namespace(String),
    Spiffe(#[schemars(with = "String")] SpiffeId),
    IpBlock(#[schemars(with = "WrittenIpBlock")] IpBlock),
}

impl Source {
    /// What it means in a policy of `namespace`.
    #[must_use]
    pub fn resolve(&self, namespace: &str) -> authorization::Source {
        match self {
            Self::ServiceAccount {
                namespace: own,
                name,
            } => {
                let namespace = own.as_deref().unwrap_or(namespace).to_owned();
                match name.clone() {
                    Some(name) => authorization::Source::ServiceAccount { namespace, name },
                    None => authorization::Source::Namespace(namespace),
                }
            }
            Self::Namespace(namespace) => authorization::Source::Namespace(namespace.clone()),
            Self::Spiffe(id) => authorization::Source::Spiffe(id.clone()),
            Self::IpBlock(block) => authorization::Source::IpBlock(block.clone()),
        }
    }
}

// In lists without a bound a rule in CEL would cost more than the API server allows.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("maxProperties" = 2, "oneOf" = [
    {"properties": {"type": {"enum": ["ServiceAccount"]}}, "required": ["serviceAccount"]},
    {"properties": {"type": {"enum": ["Namespace"]}}, "required": ["namespace"]},
    {"properties": {"type": {"enum": ["SPIFFE"]}}, "required": ["spiffe"]},
    {"properties": {"type": {"enum": ["IPBlock"]}}, "required": ["ipBlock"]}
]))]
struct Written {
    /// Which of the fields beside it is given.
    r#type: Type,
    /// Who is this ServiceAccount.
    #[serde(default, deserialize_with = "field::present")]
    service_account: Option<WrittenServiceAccount>,
    /// Every ServiceAccount of this namespace.
    #[schemars(with = "Option<text::Label>")]
    #[serde(default, deserialize_with = "field::some_label")]
    namespace: Option<String>,
    /// Who has this SPIFFE ID.
    #[schemars(with = "Option<text::Spiffe>")]
    #[serde(default, deserialize_with = "field::some_from_str")]
    spiffe: Option<SpiffeId>,
    /// Whose connection comes from these addresses.
    #[serde(default, deserialize_with = "field::present")]
    ip_block: Option<WrittenIpBlock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
enum Type {
    ServiceAccount,
    Namespace,
    #[serde(rename = "SPIFFE")]
    Spiffe,
    #[serde(rename = "IPBlock")]
    IpBlock,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenServiceAccount {
    /// Its namespace. Default: the policy's own.
    #[schemars(with = "Option<text::Label>")]
    #[serde(default, deserialize_with = "field::some_label")]
    namespace: Option<String>,
    /// A DNS subdomain, or `*` for every one.
    #[schemars(with = "text::SubdomainOrAny")]
    #[serde(deserialize_with = "account_name")]
    name: AccountName,
}

type AccountName = Option<String>;

/// A name, whole and with dots if it has some, or `*` alone. Anything else with a `*` is no name.
fn account_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AccountName, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == "*" {
        return Ok(None);
    }
    crate::names::check_subdomain(&name).map_err(|error| {
        let expected = "expected the name of a ServiceAccount, or \"*\" for every one";
        D::Error::custom(format!("{name:?} {error}; {expected}"))
    })?;
    Ok(Some(name))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenIpBlock {
    /// An address and a prefix length.
    #[schemars(with = "text::Block")]
    #[serde(deserialize_with = "field::net")]
    cidr: IpNet,
    /// Blocks within `cidr` that are not meant.
    #[schemars(with = "Vec<text::Block>")]
    #[serde(default, deserialize_with = "field::nets")]
    except: Vec<IpNet>,
}

impl TryFrom<Written> for Source {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let wrong = |field: &str| {
            Err(format!(
                "expected exactly the field \"{field}\" beside type {:?}",
                written.r#type
            ))
        };
        let given = (
            written.service_account,
            written.namespace,
            written.spiffe,
            written.ip_block,
        );
        match (written.r#type, given) {
            (Type::ServiceAccount, (Some(account), None, None, None)) => Ok(Self::ServiceAccount {
                namespace: account.namespace,
                name: account.name,
            }),
            (Type::Namespace, (None, Some(namespace), None, None)) => {
                Ok(Self::Namespace(namespace))
            }
            (Type::Spiffe, (None, None, Some(id), None)) => Ok(Self::Spiffe(id)),
            (Type::IpBlock, (None, None, None, Some(block))) => {
                let block = IpBlock::new(block.cidr, block.except);
                block.map(Self::IpBlock).map_err(|error| error.to_string())
            }
            (Type::ServiceAccount, _) => wrong("serviceAccount"),
            (Type::Namespace, _) => wrong("namespace"),
            (Type::Spiffe, _) => wrong("spiffe"),
            (Type::IpBlock, _) => wrong("ipBlock"),
        }
    }
}
