//! The strict parser: what it refuses, each with its own cause, and what it accepts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use outrider_certs::spiffe::{SpiffeId, SpiffeIdError as E, TrustDomain};
use proptest::prelude::*;

fn refused(cases: &[(&str, E)]) {
    for (text, expected) in cases {
        assert_eq!(text.parse::<SpiffeId>().as_ref(), Err(expected), "{text:?}");
    }
}

#[test]
fn a_bad_scheme_or_character_has_its_own_cause() {
    refused(&[
        ("", E::Scheme),
        ("spiffe:/shop.example/ns/shop/sa/order", E::Scheme),
        ("SPIFFE://shop.example/ns/shop/sa/order", E::Scheme),
        ("https://shop.example/ns/shop/sa/order", E::Scheme),
        (" spiffe://shop.example/ns/shop/sa/order", E::Scheme),
        (
            "spiffe://shop.example/ns/shop%2fsa/order",
            E::PercentEncoding,
        ),
        (
            "spiffe://shop.example/ns/shop/sa/%6frder",
            E::PercentEncoding,
        ),
        ("spiffe://Shop.example/ns/shop/sa/order", E::Uppercase('S')),
        ("spiffe://shop.example/ns/shop/sa/ordeR", E::Uppercase('R')),
        ("spiffe://shop.example/ns/shop/sa/order?a=b", E::Query),
        ("spiffe://shop.example?/ns/shop/sa/order", E::Query),
        ("spiffe://shop.example/ns/shop/sa/order#a", E::Fragment),
        ("spiffe://shop.example/ns/shop/sa/order\0", E::Control(0)),
        (
            "spiffe://shop.example\0.evil/ns/shop/sa/order",
            E::Control(0),
        ),
        (
            "spiffe://shop.example/ns/shop/sa/order\n",
            E::Control(b'\n'),
        ),
        ("spiffe://shop.example/ns/shop/sa/or der", E::Control(b' ')),
        ("spiffe://shöp.example/ns/shop/sa/order", E::NonAscii('ö')),
        ("spiffe://shop.example/ns/shop/sa/оrder", E::NonAscii('о')),
        ("spiffe://shop。example/ns/shop/sa/order", E::NonAscii('。')),
    ]);
}

#[test]
fn a_bad_authority_has_its_own_cause() {
    let long_domain = format!("spiffe://{}/ns/shop/sa/order", "a".repeat(256));
    refused(&[
        ("spiffe://root@shop.example/ns/shop/sa/order", E::UserInfo),
        ("spiffe://a:b@shop.example/ns/shop/sa/order", E::UserInfo),
        ("spiffe://shop.example:443/ns/shop/sa/order", E::Port),
        ("spiffe://shop.example:/ns/shop/sa/order", E::Port),
        ("spiffe://[::1]/ns/shop/sa/order", E::Port),
        ("spiffe:///ns/shop/sa/order", E::TrustDomainEmpty),
        ("spiffe://", E::TrustDomainEmpty),
        (
            "spiffe://shop!example/ns/shop/sa/order",
            E::TrustDomainCharacter('!'),
        ),
        (
            "spiffe://shop\\example/ns/shop/sa/order",
            E::TrustDomainCharacter('\\'),
        ),
        (&long_domain, E::TrustDomainTooLong(256)),
    ]);
}

#[test]
fn a_bad_path_has_its_own_cause() {
    let long = format!("spiffe://{}/ns/shop/sa/order", "a".repeat(2048));
    let label = "a".repeat(64);
    let long_namespace = format!("spiffe://shop.example/ns/{label}/sa/order");
    refused(&[
        ("spiffe://shop.example/ns/../sa/order", E::RelativeSegment),
        ("spiffe://shop.example/ns/./sa/order", E::RelativeSegment),
        ("spiffe://shop.example/ns/shop/sa/..", E::RelativeSegment),
        ("spiffe://shop.example//ns/shop/sa/order", E::EmptySegment),
        ("spiffe://shop.example/ns//sa/order", E::EmptySegment),
        ("spiffe://shop.example/ns/shop/sa/order/", E::EmptySegment),
        ("spiffe://shop.example/", E::EmptySegment),
        ("spiffe://shop.example", E::Path),
        ("spiffe://shop.example/shop/order", E::Path),
        ("spiffe://shop.example/ns/shop/sa", E::Path),
        ("spiffe://shop.example/ns/shop/sa/order/x", E::Path),
        ("spiffe://shop.example/sa/shop/ns/order", E::Path),
        (
            "spiffe://shop.example/ns/a.b/sa/order",
            E::Namespace("a.b".into()),
        ),
        (
            "spiffe://shop.example/ns/-a/sa/order",
            E::Namespace("-a".into()),
        ),
        (
            "spiffe://shop.example/ns/a_b/sa/order",
            E::Namespace("a_b".into()),
        ),
        (&long_namespace, E::Namespace(label.clone())),
        (
            "spiffe://shop.example/ns/shop/sa/a_b",
            E::ServiceAccount("a_b".into()),
        ),
        (
            "spiffe://shop.example/ns/shop/sa/a..b",
            E::ServiceAccount("a..b".into()),
        ),
        (
            "spiffe://shop.example/ns/shop/sa/a-",
            E::ServiceAccount("a-".into()),
        ),
        (
            "spiffe://shop.example/ns/shop/sa/a*",
            E::ServiceAccount("a*".into()),
        ),
        (&long, E::TooLong(long.len())),
    ]);
}

#[test]
fn the_parts_of_a_good_id() {
    for (text, parts) in [
        (
            "spiffe://shop.example/ns/shop/sa/order",
            ["shop.example", "shop", "order"],
        ),
        ("spiffe://a/ns/b/sa/c", ["a", "b", "c"]),
        (
            "spiffe://xn--shp-sna.example/ns/0/sa/a.b-c.d",
            ["xn--shp-sna.example", "0", "a.b-c.d"],
        ),
        ("spiffe://a_b.c-d/ns/ns/sa/sa", ["a_b.c-d", "ns", "sa"]),
    ] {
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(
            [id.trust_domain_str(), id.namespace(), id.service_account()],
            parts
        );
        assert_eq!(id.trust_domain().as_ref(), parts[0]);
        assert_eq!((id.as_str(), id.to_string().as_str()), (text, text));
        let again = SpiffeId::workload(&id.trust_domain(), parts[1], parts[2]);
        assert_eq!(again, Ok(id));
    }
}

#[test]
fn the_longest_parts_are_accepted_and_one_more_is_not() {
    let domain: TrustDomain = "d".repeat(255).parse().unwrap();
    let (namespace, account) = (
        "n".repeat(63),
        format!("{}.{}", "s".repeat(126), "s".repeat(126)),
    );
    let id = SpiffeId::workload(&domain, &namespace, &account).unwrap();
    assert_eq!(
        (id.namespace(), id.service_account()),
        (namespace.as_str(), account.as_str())
    );
    assert_eq!(
        "d".repeat(256).parse::<TrustDomain>(),
        Err(E::TrustDomainTooLong(256))
    );
    assert_eq!(
        SpiffeId::workload(&domain, &"n".repeat(64), "s"),
        Err(E::Namespace("n".repeat(64)))
    );
    assert_eq!(
        SpiffeId::workload(&domain, "n", &"s".repeat(254)),
        Err(E::ServiceAccount("s".repeat(64)))
    );
}

#[test]
fn names_cannot_smuggle_a_path() {
    let domain: TrustDomain = "shop.example".parse().unwrap();
    assert_eq!(
        SpiffeId::workload(&domain, "shop/sa/admin", "x"),
        Err(E::Namespace("shop/sa/admin".into()))
    );
    assert_eq!(
        SpiffeId::workload(&domain, "shop", "admin/.."),
        Err(E::ServiceAccount("admin/..".into()))
    );
    assert_eq!(
        SpiffeId::workload(&domain, "", "x"),
        Err(E::Namespace(String::new()))
    );
    assert_eq!(
        SpiffeId::workload(&domain, "shop", ""),
        Err(E::ServiceAccount(String::new()))
    );
}

#[test]
fn bad_trust_domains_have_their_own_cause() {
    for (text, expected) in [
        ("", E::TrustDomainEmpty),
        ("Shop", E::TrustDomainCharacter('S')),
        ("a/b", E::TrustDomainCharacter('/')),
        ("a:1", E::TrustDomainCharacter(':')),
        ("spiffe://a", E::TrustDomainCharacter(':')),
        ("a b", E::TrustDomainCharacter(' ')),
        ("ä", E::TrustDomainCharacter('ä')),
    ] {
        assert_eq!(text.parse::<TrustDomain>(), Err(expected), "{text:?}");
    }
}

/// The grammar once more, written by hand and slowly.
fn naive(text: &str) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |p: &str| {
        p.chars().all(|c| lower(c) || c == '-') && p.starts_with(lower) && p.ends_with(lower)
    };
    let pieces: Vec<&str> = text.split('/').collect();
    let ["spiffe:", "", domain, "ns", namespace, "sa", account] = pieces[..] else {
        return false;
    };
    (1..=255).contains(&domain.len())
        && domain.chars().all(|c| lower(c) || "._-".contains(c))
        && namespace.len() <= 63
        && part(namespace)
        && account.len() <= 253
        && account.split('.').all(part)
}

proptest! {
    #[test]
    fn the_parser_agrees_with_the_grammar(text in prop_oneof![
        "spiffe://[a-z._-]{0,5}/ns/[a-z0-9.-]{0,4}/sa/[a-z0-9.-]{0,6}",
        "spiffe://[a-zA-Z.:@%]{0,5}(/[a-z.%?#]{0,3}){0,6}",
        "(spiffe://)?\\PC{0,40}",
        any::<String>(),
    ]) {
        prop_assert_eq!(text.parse::<SpiffeId>().is_ok(), naive(&text));
    }

    #[test]
    fn what_is_accepted_comes_back_unchanged(
        domain in "[a-z0-9._-]{1,40}",
        namespace in "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?",
        account in "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\\.[a-z0-9]){0,3}",
    ) {
        let id = SpiffeId::workload(&domain.parse().unwrap(), &namespace, &account).unwrap();
        prop_assert_eq!(id.as_str().parse::<SpiffeId>(), Ok(id.clone()));
        prop_assert_eq!(
            [id.trust_domain_str(), id.namespace(), id.service_account()],
            [domain.as_str(), &namespace, &account]
        );
    }
}
