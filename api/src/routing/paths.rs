//! The index of paths that a router looks into.

use std::collections::HashMap;
use std::iter::successors;

use super::group::Group;
use crate::model::RouteMatch;

const ROOT: usize = 0;

/// Exact paths and prefixes by their segments. One walk finds each that fits a path, in time that is
/// linear in the path's length, however many there are.
#[derive(Clone, Debug)]
pub(super) struct PathTree {
    /// The first is the root: the path before its first slash.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    parent: Option<usize>,
    /// By the segment that follows.
    children: HashMap<Box<str>, usize>,
    /// The matches of this very path.
    exact: Group,
    /// The matches of this path and all below it.
    prefix: Group,
}

impl Default for PathTree {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl PathTree {
    /// `index` must be higher than those before. Whether it is held: not if the path begins without
    /// a slash.
    pub(super) fn add_exact(&mut self, path: &str, index: usize) -> bool {
        let Some(segments) = path.strip_prefix('/') else {
            return false;
        };
        let node = self.node(segments);
        self.nodes[node].exact.add(index);
        true
    }

    /// The same for a prefix; that of every path is the empty text.
    pub(super) fn add_prefix(&mut self, prefix: &str, index: usize) -> bool {
        let node = match prefix.strip_prefix('/') {
            Some(segments) => self.node(segments),
            None if prefix.is_empty() => ROOT,
            None => return false,
        };
        self.nodes[node].prefix.add(index);
        true
    }

    fn node(&mut self, segments: &str) -> usize {
        let mut node = ROOT;
        for segment in segments.split('/') {
            let next = self.nodes.len();
            node = match self.nodes[node].children.get(segment) {
                Some(known) => *known,
                None => {
                    self.nodes[node].children.insert(segment.into(), next);
                    self.nodes.push(Node {
                        parent: Some(node),
                        ..Node::default()
                    });
                    next
                }
            };
        }
        node
    }

    /// Divides the matches of each path by what else they ask for, once all are here.
    pub(super) fn divide(&mut self, matches: &[RouteMatch]) {
        for node in &mut self.nodes {
            node.exact.divide(matches);
            node.prefix.divide(matches);
        }
    }

    /// What fits `path`, the most specific first.
    pub(super) fn candidates(&self, path: &str) -> impl Iterator<Item = &Group> {
        let (deepest, whole) = self.walk(path);
        let exact = whole.then(|| &self.nodes[deepest].exact);
        let upwards = successors(Some(deepest), |node| self.nodes[*node].parent);
        let prefixes = upwards.map(|node| &self.nodes[node].prefix);
        exact.into_iter().chain(prefixes)
    }

    /// How far the tree goes along `path`, and whether that is all of it.
    fn walk(&self, path: &str) -> (usize, bool) {
        let Some(segments) = path.strip_prefix('/') else {
            return (ROOT, false);
        };
        let mut node = ROOT;
        for segment in segments.split('/') {
            match self.nodes[node].children.get(segment) {
                Some(next) => node = *next,
                None => return (node, false),
            }
        }
        (node, true)
    }
}
