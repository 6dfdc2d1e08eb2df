//! The route that a path is of, found segment by segment.
//!
//! The patterns of all routes are one tree. A path goes down it by its segments, a literal one and a
//! variable side by side, and of all routes it comes to the first counts. The cost follows the path's
//! length and how many patterns it fits, not how many routes there are.

use std::collections::HashMap;

use super::{Pattern, Segment};

/// Routes, by number, at the ends of their patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    root: Node,
}

#[derive(Clone, Debug)]
struct Node {
    literals: HashMap<String, Self>,
    one: Option<Box<Self>>,
    /// Routes whose pattern ends here, in order.
    ends: Vec<usize>,
    /// Routes whose pattern ends here with `{x*}`, in order.
    rests: Vec<usize>,
    /// The first of all routes that are here and below.
    first: usize,
}

impl Default for Node {
    fn default() -> Self {
        let (literals, one) = (HashMap::new(), None);
        Self { literals, one, ends: Vec::new(), rests: Vec::new(), first: usize::MAX }
    }
}

impl Table {
    /// Adds the route of the next `number`.
    pub(super) fn insert(&mut self, number: usize, pattern: &Pattern) {
        let mut node = &mut self.root;
        for segment in &pattern.segments {
            node.first = node.first.min(number);
            node = match segment {
                Segment::Literal(literal) => node.literals.entry(literal.clone()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
                Segment::Rest => {
                    node.rests.push(number);
                    return;
                }
            };
        }
        node.first = node.first.min(number);
        node.ends.push(number);
    }

    /// The first route that `fits` of those whose pattern matches a path of these segments.
    pub(super) fn first(&self, segments: &[&str], fits: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut found = usize::MAX;
        self.root.find(segments, fits, &mut found);
        (found != usize::MAX).then_some(found)
    }
}

impl Node {
    /// Lowers `found` to the first route that fits, here and below. It goes no deeper than the patterns do.
    fn find(&self, segments: &[&str], fits: &impl Fn(usize) -> bool, found: &mut usize) {
        if self.first >= *found {
            return;
        }
        let lower = |found: &mut usize, routes: &[usize]| {
            let mut earlier = routes.iter().take_while(|route| **route < *found);
            if let Some(route) = earlier.find(|route| fits(**route)) {
                *found = *route;
            }
        };
        let Some((segment, rest)) = segments.split_first() else {
            return lower(found, &self.ends);
        };
        if !self.rests.is_empty() && segments.iter().all(|segment| !segment.is_empty()) {
            lower(found, &self.rests);
        }
        if let Some(node) = self.literals.get(*segment) {
            node.find(rest, fits, found);
        }
        if let Some(node) = self.one.as_ref().filter(|_| !segment.is_empty()) {
            node.find(rest, fits, found);
        }
    }
}
