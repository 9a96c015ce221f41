//! `docs/reference/annotations.md` says what the code says: the table of annotations is made here.
//!
//! Where this fails, the code has changed: `UPDATE_REFERENCE=1 cargo test -p outrider-api --test
//! annotations` writes the page anew.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use outrider_api::annotations::{Annotation, Effect};

const PAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/reference/annotations.md"
);
/// What is written by hand, before the table and after it.
const HEAD: &str = include_str!("head.md");
const TAIL: &str = include_str!("tail.md");

#[test]
fn the_page_says_what_the_code_says() {
    let page = page();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap();
    let differs = page.lines().zip(written.lines()).find(|(a, b)| a != b);
    assert!(
        page == written,
        "docs/reference/annotations.md has drifted, first here: {differs:#?}; \
         UPDATE_REFERENCE=1 writes it anew"
    );
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| annotation | value | default | | changes |\n|---|---|---|---|---|\n");
    for annotation in Annotation::ALL {
        let effect = match annotation.effect() {
            Effect::AtCreation => "new pods",
            Effect::AtOnce => "at once",
        };
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {effect} |",
            annotation.key(),
            annotation.expected(),
            annotation.default_text(),
            annotation.meaning(),
        );
    }
    page.push_str(TAIL);
    page
}
