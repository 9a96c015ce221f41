//! What schemas say of fields that are text: as much of the parser's own syntax as a pattern can say.
//!
//! For `#[schemars(with = "…")]`. The parser is stricter; the schema refuses what is plainly something
//! else before it is stored.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

macro_rules! text {
    ($($(#[$meta:meta])* $name:ident = $schema:tt;)*) => {$(
        $(#[$meta])*
        pub(in crate::kinds) enum $name {}

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

text! {
    /// A DNS label (RFC 1123).
    Label = {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"};
    /// A DNS subdomain (RFC 1123).
    Subdomain = {
        "type": "string",
        "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    };
    /// A DNS subdomain, or `*`.
    SubdomainOrAny = {
        "type": "string",
        "maxLength": 253,
        "pattern": "^(\\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$"
    };
    /// The value of a label.
    LabelValue = {
        "type": "string",
        "maxLength": 63,
        "pattern": "^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$"
    };
    /// An IPv4 or IPv6 address.
    Address = {"type": "string", "minLength": 2, "maxLength": 45, "pattern": "^[0-9A-Fa-f:.]+$"};
    /// An address and the length of a prefix.
    Block = {
        "type": "string",
        "minLength": 4,
        "maxLength": 49,
        "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$"
    };
    /// SPIFFE-ID §2.1.
    Domain = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-z0-9._-]+$"};
    /// The one form of a SPIFFE ID that identities of a mesh have.
    Spiffe = {
        "type": "string",
        "maxLength": 2048,
        "pattern": "^spiffe://[a-z0-9._-]+/ns/[a-z0-9-]+/sa/[a-z0-9.-]+$"
    };
    /// An HTTP method in capitals.
    MethodName = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Z0-9_-]+$"};
    /// A DNS name, `*.` and a DNS name, or an address.
    Host = {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "pattern": "^(\\*\\.)?[0-9A-Za-z.:\\[\\]-]+$"
    };
    /// A path without a query.
    RequestPath = {"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^/[^?#;\\\\ ]*$"};
    /// A token (RFC 9110, section 5.6.2).
    Token = {
        "type": "string",
        "minLength": 1,
        "maxLength": 4096,
        "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
    };
    /// A port by number or by name.
    PortOrName = {
        "type": ["string", "integer"],
        "minimum": 1,
        "maximum": 65535,
        "maxLength": 63
    };
}
