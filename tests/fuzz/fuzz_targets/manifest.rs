//! Every problem has a place within the text, and is no longer than somebody reads.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use outrider_api::manifest::parse;

fuzz_target!(|text: &str| {
    let Err(problems) = parse(Path::new("fuzz.yaml"), text) else { return };
    assert!(!problems.is_empty());
    let lines = text.split('\n').count() as u32 + 1;
    for problem in problems {
        assert!((1..=lines).contains(&problem.location.line), "{problem}");
        assert!(!problem.message.is_empty());
    }
});
