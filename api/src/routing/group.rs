//! Matches that one place in an index of paths leads to, found by what else they ask for.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::iter::once;

use http::HeaderName;

use super::conditions;
use super::router::RouteRequest;
use crate::model::{RouteMatch, ValueMatch};

/// Up to so many are looked at one by one, which is no slower than to ask for them.
const FEW: usize = 4;
/// The most that a request is asked before its matches are looked at: what a group costs has this
/// bound, whatever its matches ask for.
const QUESTIONS_MAX: usize = 8;

/// Indices of matches. A match stands in one of its lists: by the value that it wants in answer to
/// one of the questions, or among the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// In order.
    rest: Vec<usize>,
    questions: Vec<Question>,
    /// The first of all.
    least: Option<usize>,
}

#[derive(Clone, Debug)]
struct Question {
    about: About,
    /// By what a request must answer; each list in order.
    wanted: HashMap<Box<[u8]>, Vec<usize>>,
}

/// What a match may want one exact value of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum About {
    Method,
    Header(HeaderName),
    Query(String),
}

impl Group {
    /// `index` must be higher than those before.
    pub(super) fn add(&mut self, index: usize) {
        self.least.get_or_insert(index);
        self.rest.push(index);
    }

    /// Divides the matches by what they ask for, once all are here.
    pub(super) fn divide(&mut self, matches: &[RouteMatch]) {
        if self.rest.len() <= FEW {
            return;
        }
        let mut counts: HashMap<Wish<'_>, usize> = HashMap::new();
        for wish in self.rest.iter().flat_map(|index| wishes(&matches[*index])) {
            *counts.entry(wish).or_insert(0) += 1;
        }
        self.questions = selective(counts.keys());
        for index in std::mem::take(&mut self.rest) {
            let asked = wishes(&matches[index]).filter_map(|(about, value)| {
                let place = self.questions.iter().position(|one| one.about == about)?;
                Some((counts[&(about, value)], place, value))
            });
            match asked.min() {
                Some((_, place, value)) => self.questions[place].add(value, index),
                None => self.rest.push(index),
            }
        }
        // Where others told every match apart better.
        self.questions
            .retain(|question| !question.wanted.is_empty());
    }

    /// Whether it holds a match that comes before this one.
    pub(super) fn is_before(&self, first: Option<usize>) -> bool {
        is_before(self.least, first)
    }

    /// The lists in which matches are that the request may fit; all others it does not.
    pub(super) fn lists<'g>(
        &'g self,
        request: &RouteRequest<'_>,
        query: &str,
    ) -> impl Iterator<Item = &'g [usize]> {
        let answered = self.questions.iter().filter_map(move |question| {
            let answer = question.about.answer(request, query)?;
            question.wanted.get(&*answer).map(Vec::as_slice)
        });
        once(self.rest.as_slice()).chain(answered)
    }
}

/// Whether there is one (`least`) that comes before another, where there is that.
pub(super) fn is_before(least: Option<usize>, first: Option<usize>) -> bool {
    least.is_some_and(|least| first.is_none_or(|first| least < first))
}

/// One exact value that a match wants of a request.
type Wish<'m> = (About, &'m [u8]);

/// The questions that tell the most matches apart: those to which the most different answers are
/// wanted.
fn selective<'w, 'm: 'w>(different: impl Iterator<Item = &'w Wish<'m>>) -> Vec<Question> {
    let mut answers: HashMap<&About, usize> = HashMap::new();
    for (about, _) in different {
        *answers.entry(about).or_insert(0) += 1;
    }
    let mut abouts: Vec<(&About, usize)> = answers.into_iter().collect();
    abouts.sort_unstable_by_key(|(_, answers)| Reverse(*answers));
    abouts.truncate(QUESTIONS_MAX);
    let question = |(about, _): (&About, usize)| Question {
        about: about.clone(),
        wanted: HashMap::new(),
    };
    abouts.into_iter().map(question).collect()
}

impl Question {
    fn add(&mut self, value: &[u8], index: usize) {
        match self.wanted.get_mut(value) {
            Some(list) => list.push(index),
            None => {
                self.wanted.insert(value.into(), vec![index]);
            }
        }
    }
}

fn wishes(found: &RouteMatch) -> impl Iterator<Item = Wish<'_>> {
    let method = found.method.iter();
    let method = method.map(|method| (About::Method, method.as_bytes()));
    let headers = found.headers.iter().filter_map(|wanted| {
        let value = exact(&wanted.value)?;
        Some((About::Header(wanted.name.clone()), value))
    });
    let query = found.query.iter().filter_map(|wanted| {
        let value = exact(&wanted.value)?;
        Some((About::Query(wanted.name.clone()), value))
    });
    method.chain(headers).chain(query)
}

fn exact(value: &ValueMatch) -> Option<&[u8]> {
    match value {
        ValueMatch::Exact(text) => Some(text.as_bytes()),
        ValueMatch::Regex(_) => None,
    }
}

impl About {
    /// As [`conditions`] compare it.
    fn answer<'r>(&self, request: &RouteRequest<'r>, query: &'r str) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Method => Some(Cow::Borrowed(request.method.as_bytes())),
            Self::Header(name) => conditions::header(name, request.headers),
            Self::Query(name) => match conditions::parameter(name, query)? {
                Cow::Borrowed(text) => Some(Cow::Borrowed(text.as_bytes())),
                Cow::Owned(text) => Some(Cow::Owned(text.into_bytes())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::model::{HeaderMatch, PathMatch, QueryMatch};

    fn header(name: &'static str, value: &str) -> HeaderMatch {
        HeaderMatch {
            name: HeaderName::from_static(name),
            value: ValueMatch::Exact(value.to_owned()),
        }
    }

    fn found(method: Option<&str>, headers: Vec<HeaderMatch>) -> RouteMatch {
        RouteMatch {
            path: PathMatch::Prefix(String::new()),
            method: method.map(str::to_owned),
            headers,
            query: Vec::new(),
            rule: 0,
        }
    }

    fn group(matches: &[RouteMatch]) -> Group {
        let mut group = Group::default();
        (0..matches.len()).for_each(|index| group.add(index));
        group.divide(matches);
        group
    }

    fn looked_at(group: &Group, headers: &HeaderMap, query: &str) -> Vec<usize> {
        let request = RouteRequest {
            method: "GET",
            path_and_query: "/",
            headers,
        };
        let mut all = group.lists(&request, query).collect::<Vec<_>>().concat();
        all.sort_unstable();
        all
    }

    #[test]
    fn only_those_that_want_what_the_request_has_are_looked_at() {
        let tenant = |n| found(Some("GET"), vec![header("x-tenant", &format!("{n}"))]);
        let mut matches: Vec<RouteMatch> = (0..100).map(tenant).collect();
        matches.push(found(None, Vec::new()));
        let parameter = |n| QueryMatch {
            name: "page".to_owned(),
            value: ValueMatch::Exact(format!("{n} b")),
        };
        matches.extend((0..100).map(|n| RouteMatch {
            query: vec![parameter(n)],
            ..found(Some("GET"), Vec::new())
        }));
        let group = group(&matches);
        let mut headers = HeaderMap::new();
        assert_eq!(looked_at(&group, &headers, ""), [100]);
        headers.insert("x-tenant", HeaderValue::from_static("42"));
        assert_eq!(looked_at(&group, &headers, ""), [42, 100]);
        let query = "page=7+b&page=8+b";
        assert_eq!(looked_at(&group, &headers, query), [42, 100, 108]);
        headers.append("x-tenant", HeaderValue::from_static("43"));
        assert_eq!(looked_at(&group, &headers, ""), [100]);
    }

    #[test]
    fn a_request_is_asked_a_bounded_number_of_questions() {
        let names: Vec<String> = (0..100).map(|n| format!("x-{n}")).collect();
        let one = |name: &String| {
            let name = name.parse().expect("a name");
            let value = ValueMatch::Exact("1".to_owned());
            found(None, vec![HeaderMatch { name, value }])
        };
        let matches: Vec<RouteMatch> = names.iter().map(one).collect();
        let group = group(&matches);
        assert_eq!(group.questions.len(), QUESTIONS_MAX);
        let all = looked_at(&group, &HeaderMap::new(), "");
        assert_eq!(all.len(), 100 - QUESTIONS_MAX);
    }
}
