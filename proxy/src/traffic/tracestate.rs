//! Our member of W3C `tracestate`, in which time and attempts travel from sidecar to sidecar, and
//! through apps that forward it: `outrider=t1500.a1.i7f3a-2`.
//!
//! `t`: milliseconds that are left; missing: no limit. `a`: which attempt this is, from 1. `i`: where
//! the sidecar that wrote it keeps the rest ([`super::context`]); of no meaning to another. Letters
//! that we do not know are skipped: newer sidecars may write more.
//!
//! Others' members pass as they are, behind ours (Trace Context, section 3.3: at most 32 members;
//! 512 characters, of which those above 128 go first, then those at the end).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::ContextId;

pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const KEY: &[u8] = b"outrider=";
const MEMBERS_MAX: usize = 32;
const LENGTH_MAX: usize = 512;
/// A longer member is the first to go where there are too many characters.
const LONG: usize = 128;
/// 115 days: the digits of `t` that are read.
const DIGITS_MAX: usize = 10;

/// See the module. `remaining` is whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub remaining: Option<Duration>,
    /// At least 1; above 1 the request is a retry.
    pub attempt: u32,
    pub context: Option<ContextId>,
}

impl Member {
    /// Ours, if there is one that can be read. Others may not write it: what cannot be read is
    /// dropped, as section 4.3 of Trace Context has it.
    pub fn find(headers: &HeaderMap) -> Option<Self> {
        let value = members(headers).find_map(|member| member.strip_prefix(KEY))?;
        Self::parse(value)
    }

    /// What stands behind `outrider=`.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = std::str::from_utf8(value).ok()?;
        let (mut remaining, mut attempt, mut context) = (None, None, None);
        for field in value.split('.') {
            let (letter, rest) = field.split_at_checked(1)?;
            match letter {
                "t" if remaining.is_none() => remaining = Some(number(rest)?),
                "a" if attempt.is_none() => attempt = Some(number(rest)?),
                "i" if context.is_none() => context = Some(ContextId::parse(rest)?),
                "t" | "a" | "i" => return None,
                _ => {}
            }
        }
        Some(Self {
            remaining: remaining.map(Duration::from_millis),
            attempt: u32::try_from(attempt?)
                .ok()
                .filter(|attempt| *attempt > 0)?,
            context,
        })
    }

    /// Writes it to the left of others' members, in place of any of ours. One allocation.
    pub fn put(&self, headers: &mut HeaderMap) {
        let mut text = Text::new();
        self.write(&mut text);
        keep_others(headers, &mut text);
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            headers.insert(TRACESTATE, value);
        }
    }

    fn write(&self, text: &mut Text) {
        text.push(KEY);
        if let Some(remaining) = self.remaining {
            text.push(b"t");
            text.number(whole_milliseconds(remaining), 10);
            text.push(b".");
        }
        text.push(b"a");
        text.number(self.attempt.into(), 10);
        if let Some(context) = self.context {
            text.push(b".i");
            text.number(context.slot().into(), 16);
            text.push(b"-");
            text.number(context.generation().into(), 16);
        }
    }
}

/// The list that is being written. What has no room is left out.
struct Text {
    bytes: [u8; LENGTH_MAX],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self {
            bytes: [0; LENGTH_MAX],
            length: 0,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn has_room(&self, length: usize) -> bool {
        self.length + length <= LENGTH_MAX
    }

    fn push(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(part);
            self.length = end;
        }
    }

    /// In lowercase; a few times faster than to format it.
    fn number(&mut self, number: u64, base: u64) {
        let (mut digits, mut start, mut rest) = ([0; 20], 20, number);
        loop {
            start -= 1;
            digits[start] = b"0123456789abcdef"[(rest % base) as usize];
            rest /= base;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[start..]);
    }
}

/// Rounded down, and no more than is read.
fn whole_milliseconds(time: Duration) -> u64 {
    let most = 10u64.pow(DIGITS_MAX as u32) - 1;
    u64::try_from(time.as_millis()).map_or(most, |time| time.min(most))
}

fn number(text: &str) -> Option<u64> {
    let fits = (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if fits { text.parse().ok() } else { None }
}

/// Appends the members of others, as far as they have room.
fn keep_others(headers: &HeaderMap, text: &mut Text) {
    let others = || members(headers).filter(|member| !member.starts_with(KEY));
    let lengths = others()
        .take(MEMBERS_MAX - 1)
        .map(|member| member.len() + 1);
    let whole = lengths.sum();
    if whole == 0 {
        return;
    }
    let too_long = !text.has_room(whole);
    let kept = others()
        .filter(|member| !too_long || member.len() <= LONG)
        .take(MEMBERS_MAX - 1);
    for member in kept {
        if !text.has_room(1 + member.len()) {
            break;
        }
        text.push(b",");
        text.push(member);
    }
}

/// Several headers are one list (RFC 9110, section 5.3); empty members are allowed, and none.
fn members(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(TRACESTATE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| {
            let value = HeaderValue::from_str(value).expect("a header value");
            (TRACESTATE, value)
        });
        values.collect()
    }

    fn member() -> Member {
        Member {
            remaining: Some(Duration::from_millis(1500)),
            attempt: 1,
            context: ContextId::parse("7f3-2"),
        }
    }

    fn put(values: &[&str]) -> String {
        let mut headers = headers(values);
        member().put(&mut headers);
        assert_eq!(headers.get_all(TRACESTATE).iter().count(), 1);
        headers[TRACESTATE].to_str().expect("text").to_owned()
    }

    #[test]
    fn a_member_reads_as_it_was_written() {
        let mut headers = HeaderMap::new();
        member().put(&mut headers);
        assert_eq!(headers[TRACESTATE], "outrider=t1500.a1.i7f3-2");
        assert_eq!(Member::find(&headers), Some(member()));
        let bare = Member {
            remaining: None,
            attempt: 2,
            context: None,
        };
        bare.put(&mut headers);
        assert_eq!(headers[TRACESTATE], "outrider=a2");
        assert_eq!(Member::find(&headers), Some(bare));
    }

    #[test]
    fn what_cannot_be_read_is_none() {
        for value in [
            "",
            "t1500",
            "t.a1",
            "tx.a1",
            "t-1.a1",
            "t1.a0",
            "t1.a1.t2",
            "t1.a1.a1",
            "t1.a1.",
            "t12345678901.a1",
            "a99999999999",
            "t1.a1.i",
            "t1.a1.i7f3",
            "t1.a1.i-",
            "é.a1",
        ] {
            assert_eq!(Member::parse(value.as_bytes()), None, "{value:?}");
        }
    }

    #[test]
    fn letters_of_the_future_are_skipped() {
        let read = Member::parse(b"t1.zABC.a1").expect("readable");
        assert_eq!(read.remaining, Some(Duration::from_millis(1)));
    }

    #[test]
    fn it_is_found_in_any_place_of_several_headers() {
        let headers = headers(&["a=1, b=2", "c=3 ,\toutrider=t7.a1 "]);
        let found = Member::find(&headers).expect("ours");
        assert_eq!(found.remaining, Some(Duration::from_millis(7)));
    }

    #[test]
    fn the_members_of_others_stay_behind_ours() {
        let ours = "outrider=t1500.a1.i7f3-2";
        assert_eq!(
            put(&["a=1,outrider=t9.a1", " b=2,,", "outrider=old"]),
            format!("{ours},a=1,b=2")
        );
        assert_eq!(put(&["xoutrider=1"]), format!("{ours},xoutrider=1"));
    }

    #[test]
    fn the_last_of_too_many_members_go() {
        let many: Vec<String> = (0..40).map(|index| format!("k{index}=v")).collect();
        let kept = put(&[&many.join(",")]);
        assert_eq!(kept.split(',').count(), 32);
        assert!(kept.ends_with(",k30=v"));
    }

    #[test]
    fn of_too_many_characters_long_members_go_first() {
        let long = format!("long={}", "x".repeat(130));
        let short: Vec<String> = (0..25)
            .map(|index| format!("k{index:02}=0123456789"))
            .collect();
        let kept = put(&[&format!("{long},{}", short.join(","))]);
        assert!(!kept.contains("long="));
        assert!(kept.ends_with("k24=0123456789"));
        // It has room where the others are few.
        assert!(put(&[&format!("a=1,{long}")]).ends_with(&long));
    }

    proptest! {
        #[test]
        fn a_list_is_never_too_long_and_ours_is_first(values in proptest::collection::vec("[ -~]{0,300}", 0..6)) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let text = put(&values);
            prop_assert!(text.len() <= LENGTH_MAX && text.split(',').count() <= MEMBERS_MAX);
            prop_assert!(text.starts_with("outrider=t1500.a1.i7f3-2"));
            let headers = headers(&[&text]);
            prop_assert_eq!(Member::find(&headers), Some(member()));
        }

        #[test]
        fn members_read_as_they_were_written(remaining in proptest::option::of(0u64..10_000_000_000), attempt in 1u32.., slot in 0u32..8192, generation in 0u32..1 << 19) {
            let context = ContextId::parse(&format!("{slot:x}-{generation:x}"));
            prop_assert!(context.is_some());
            let member = Member { remaining: remaining.map(Duration::from_millis), attempt, context };
            let mut headers = HeaderMap::new();
            member.put(&mut headers);
            prop_assert_eq!(Member::find(&headers), Some(member));
        }
    }
}
