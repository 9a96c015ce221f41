//! Whatever others have written: ours reads back, stands first, and the list has its limits.
#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use outrider_proxy::traffic::tracestate::{Member, TRACESTATE};

fuzz_target!(|values: Vec<&[u8]>| {
    let mut headers = HeaderMap::new();
    for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
        headers.append(TRACESTATE, value);
    }
    let ours = Member::find(&headers).unwrap_or(Member {
        remaining: Some(Duration::from_millis(1500)),
        attempt: 1,
        context: None,
    });
    ours.put(&mut headers);
    let list = headers[TRACESTATE].as_bytes();
    assert!(list.starts_with(b"outrider=") && list.len() <= 512);
    assert!(list.split(|b| *b == b',').count() <= 32);
    assert_eq!(headers.get_all(TRACESTATE).iter().count(), 1);
    assert_eq!(Member::find(&headers), Some(ours));
});
