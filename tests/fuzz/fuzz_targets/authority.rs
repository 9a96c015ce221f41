//! What is taken for a Service's name has one canonical form, which names the same Service.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_api::names::parse_authority;

fuzz_target!(|authority: &str| {
    let Ok((service, port)) = parse_authority(authority, "shop") else { return };
    let canonical = match port {
        Some(port) => format!("{service}:{port}"),
        None => service.to_string(),
    };
    assert_eq!(parse_authority(&canonical, "elsewhere"), Ok((service, port)));
});
