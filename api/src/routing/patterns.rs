//! The index of regular expressions that a router looks into.

use std::collections::HashMap;
use std::iter::once;

use aho_corasick::AhoCorasick;

use super::group::{Group, is_before};
use super::pattern::Pattern;
use crate::model::RouteMatch;

/// Up to so many are tried one by one, which is no slower than to look for their literals.
const FEW: usize = 4;
/// A path in which more literals are found is compared with every pattern: then there is no point in
/// looking on.
const HITS_MAX: usize = 16;

/// Regular expressions by a literal that each path has that fits them. One automaton finds all
/// literals of a path, in time that is linear in the path's length, however many there are; only the
/// patterns behind those are tried. The idea is that of RE2's FilteredRE2.
#[derive(Clone, Debug, Default)]
pub(super) struct PatternIndex {
    /// Finds the literals; `None`: they are not looked for.
    literals: Option<AhoCorasick>,
    /// By the number of the literal.
    groups: Vec<Group>,
    /// Those without a literal.
    others: Group,
    /// The first of all.
    least: Option<usize>,
}

impl PatternIndex {
    /// Indices go up.
    pub(super) fn new<'m>(
        patterns: impl Iterator<Item = (usize, &'m Pattern)>,
        matches: &[RouteMatch],
    ) -> Self {
        let patterns: Vec<(usize, Vec<String>)> = patterns
            .map(|(index, pattern)| (index, pattern.literals()))
            .collect();
        let mut index = Self {
            least: patterns.first().map(|(index, _)| *index),
            ..Self::default()
        };
        if patterns.len() > FEW {
            index.divide(&patterns);
        } else {
            let indices = patterns.iter().map(|(index, _)| *index);
            indices.for_each(|pattern| index.others.add(pattern));
        }
        let groups = index.groups.iter_mut().chain(once(&mut index.others));
        groups.for_each(|group| group.divide(matches));
        index
    }

    /// Each pattern goes to the literal that it shares with the fewest others.
    fn divide(&mut self, patterns: &[(usize, Vec<String>)]) {
        let mut shared: HashMap<&str, usize> = HashMap::new();
        for literal in patterns.iter().flat_map(|(_, literals)| literals) {
            *shared.entry(literal).or_insert(0) += 1;
        }
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut texts = Vec::new();
        for (index, literals) in patterns {
            let rarest = literals
                .iter()
                .min_by_key(|literal| (shared[literal.as_str()], usize::MAX - literal.len()));
            let Some(literal) = rarest else {
                self.others.add(*index);
                continue;
            };
            let number = *numbers.entry(literal).or_insert_with(|| {
                texts.push(literal.as_str());
                self.groups.push(Group::default());
                texts.len() - 1
            });
            self.groups[number].add(*index);
        }
        // An automaton that would be too large is none, and every pattern is tried.
        self.literals = AhoCorasick::new(texts).ok();
    }

    /// Whether it holds a match that comes before this one.
    pub(super) fn is_before(&self, first: Option<usize>) -> bool {
        is_before(self.least, first)
    }

    /// All groups in which there may be a pattern that fits `path`, each once.
    pub(super) fn candidates(&self, path: &str) -> impl Iterator<Item = &Group> {
        let hits = self.hits(path);
        let count = hits.as_ref().map_or(self.groups.len(), Hits::len);
        let nth = move |nth: usize| hits.as_ref().map_or(nth, |hits| hits.numbers[nth]);
        let found = (0..count).map(move |n| &self.groups[nth(n)]);
        once(&self.others).chain(found)
    }

    /// `None`: too many to tell.
    fn hits(&self, path: &str) -> Option<Hits> {
        let mut hits = Hits::default();
        let found = self.literals.as_ref()?.try_find_overlapping_iter(path);
        for hit in found.ok()? {
            hits.add(hit.pattern().as_usize())?;
        }
        Some(hits)
    }
}

/// The literals of a path.
#[derive(Default)]
struct Hits {
    numbers: [usize; HITS_MAX],
    count: usize,
}

impl Hits {
    fn len(&self) -> usize {
        self.count
    }

    /// `None`: there is no room.
    fn add(&mut self, number: usize) -> Option<()> {
        if !self.numbers[..self.count].contains(&number) {
            *self.numbers.get_mut(self.count)? = number;
            self.count += 1;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(patterns: &[&str]) -> PatternIndex {
        let parsed = patterns.iter().map(|written| written.parse());
        let parsed: Vec<Pattern> = parsed.collect::<Result<_, _>>().expect("patterns");
        PatternIndex::new(parsed.iter().enumerate(), &[])
    }

    /// How many groups a path leads to.
    fn count(index: &PatternIndex, path: &str) -> usize {
        index.candidates(path).count()
    }

    #[test]
    fn only_what_has_a_literal_of_the_path_is_a_candidate() {
        let numbered: Vec<String> = (0..100).map(|n| format!("/[a-z]+/v{n}/[0-9]+")).collect();
        let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
        let index = index(&numbered);
        assert_eq!(index.groups.len(), 100);
        // One, and those without a literal.
        assert_eq!(count(&index, "/shop/v7/1"), 2);
        assert_eq!(count(&index, "/shop/v77/1"), 2);
        assert_eq!(count(&index, "/shop/v100/1"), 1);
    }

    #[test]
    fn a_literal_that_all_share_is_not_the_one() {
        let users = ["orders", "bills", "carts", "mails", "names"];
        let users = users.map(|what| format!("/users/[^/]+/{what}"));
        let index = index(&users.each_ref().map(String::as_str));
        assert_eq!(index.groups.len(), users.len());
        assert_eq!(count(&index, "/users/7/carts"), 2);
    }

    #[test]
    fn a_path_with_very_many_literals_is_compared_with_all() {
        let numbered: Vec<String> = (0..40).map(|n| format!("(/[0-9]+)*/n{n}/.*")).collect();
        let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
        let index = index(&numbered);
        let path = |count: usize| (0..count).map(|n| format!("/n{n}/")).collect::<String>();
        assert_eq!(count(&index, &path(HITS_MAX)), HITS_MAX + 1);
        assert_eq!(count(&index, &path(HITS_MAX + 1)), 41);
        // The same again is not another.
        assert_eq!(count(&index, &path(1).repeat(1_000)), 2);
    }

    #[test]
    fn a_few_are_not_looked_for() {
        let index = index(&["/a/.*", "/b/.*"]);
        assert!(index.literals.is_none());
        assert_eq!(count(&index, "/a/b"), 1);
    }
}
