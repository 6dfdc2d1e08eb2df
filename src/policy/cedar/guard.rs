//! One look at a value, for all policies whose conditions begin with it.
//!
//! Policies that begin with `principal.claims.role == "r"` differ in what they compare the claim with:
//! the value itself says which of them can go on, as an address does of those that begin with a range
//! of addresses. A claim and the address are read from the request itself, before anything is built
//! for Cedar. Where the value can't be had, each of the policies is evaluated and says so.

use std::collections::HashMap;
use std::net::IpAddr;

use cedar_policy_core::ast::{Expr, ExprKind, Literal, Value, ValueKind, Var};
use cedar_policy_core::evaluator::Evaluator;
use ipnet::IpNet;

use super::context::claim;
use super::footprint::attributes;
use super::leading::{Names, Wanted, depth, has_depth};
use super::ranges::{Ranges, address};
use crate::policy::{Context, Question};

/// A value that policies begin by looking at.
#[derive(Debug)]
pub(super) struct Guard {
    before: Vec<Expr>,
    value: Expr,
    /// How many entities are opened for it.
    pub(super) depth: usize,
    place: Option<Place>,
}

/// A value that needs no Cedar to be found, of two names: `source.ip`, `claims.NAME`.
#[derive(Debug)]
struct Place {
    of: Of,
    /// For each `has` before it: how many of the two names it is asked of, and how many are there
    /// if it holds.
    before: Vec<(usize, usize)>,
}

#[derive(Debug)]
enum Of {
    /// `context.source.ip`.
    Context,
    /// `principal.claims.NAME`.
    Principal { claim: String },
}

/// What a guard finds.
#[derive(Debug)]
pub(super) enum Look {
    Value(Value),
    Address(IpAddr),
    /// No policy that looks for the value can go on.
    Nothing,
    /// Every policy that looks for the value has to find out for itself.
    Broken,
}

impl Guard {
    pub(super) fn new(names: &Names<'_>) -> Self {
        let depths = names.before.iter().map(|has| has_depth(has)).chain([depth(names.value)]);
        Self {
            before: names.before.iter().copied().cloned().collect(),
            value: names.value.clone(),
            depth: depths.flatten().max().unwrap_or_default(),
            place: Place::of(names),
        }
    }

    /// Whether [`Guard::look_at_request`] finds it.
    pub(super) fn is_of_request(&self) -> bool {
        self.place.is_some()
    }

    /// Looks without Cedar, if that is possible.
    pub(super) fn look_at_request(&self, question: &Question<'_>) -> Option<Look> {
        self.place.as_ref().map(|place| place.look(question))
    }

    pub(super) fn look(&self, evaluator: &Evaluator<'_>) -> Look {
        let look = |expr| evaluator.interpret(expr, &HashMap::new()).ok();
        for has in &self.before {
            match look(has).as_ref().map(Value::value_kind) {
                Some(ValueKind::Lit(Literal::Bool(true))) => {}
                Some(ValueKind::Lit(Literal::Bool(false))) => return Look::Nothing,
                Some(_) | None => return Look::Broken,
            }
        }
        look(&self.value).map_or(Look::Broken, Look::Value)
    }
}

impl Place {
    fn of(names: &Names<'_>) -> Option<Self> {
        let (root, path, _) = attributes(names.value, 0);
        let of = match (root.expr_kind(), &*path) {
            (ExprKind::Var(Var::Context), ["source", "ip"]) => Of::Context,
            (ExprKind::Var(Var::Principal), ["claims", name]) => {
                Of::Principal { claim: (*name).to_owned() }
            }
            _ => return None,
        };
        let before = names.before.iter().map(|has| {
            let (asked, whole, _) = attributes(has, 0);
            let new = match has.expr_kind() {
                ExprKind::ExtHasAttr { attrs, .. } => attrs.len(),
                _ => 1,
            };
            let is_on_the_way = asked == root && path.starts_with(&whole);
            is_on_the_way.then(|| Some((whole.len().checked_sub(new)?, whole.len())))?
        });
        Some(Self { of, before: before.collect::<Option<_>>()? })
    }

    /// As Cedar would: `source` is there of a request alone, `claims` always.
    fn look(&self, question: &Question<'_>) -> Look {
        let (is_begun, value) = match &self.of {
            Of::Context => match question.context {
                Context::Http { request, .. } => (true, request.source.ip.map(Look::Address)),
                Context::Stated(_) => (false, None),
            },
            Of::Principal { claim: name } => {
                (true, question.principal.claims.get(name).and_then(claim).map(Look::Value))
            }
        };
        let there = usize::from(is_begun) + usize::from(value.is_some());
        for (of, whole) in &self.before {
            match (there < *of, there < *whole) {
                (true, _) => return Look::Broken,
                (false, true) => return Look::Nothing,
                (false, false) => {}
            }
        }
        value.unwrap_or(Look::Broken)
    }
}

/// Policies that look at one value, by what they go on with.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    equal: HashMap<Literal, Vec<usize>>,
    ranges: Ranges,
}

impl Guarded {
    pub(super) fn insert(&mut self, wanted: &Wanted<'_>, number: usize) {
        match wanted {
            Wanted::Equal(literal) => {
                self.equal.entry((*literal).clone()).or_default().push(number);
            }
            Wanted::InRange(range) => self.ranges.insert(*range, number),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        self.equal.values().flatten().copied().chain(self.ranges.all())
    }

    /// Adds those that can go on.
    pub(super) fn add_to(&self, numbers: &mut Vec<usize>, look: &Look) {
        let value = match look {
            Look::Value(value) => value,
            Look::Address(address) => {
                return numbers.extend(self.ranges.around(IpNet::from(*address)));
            }
            Look::Nothing => return,
            Look::Broken => return numbers.extend(self.all()),
        };
        // A set, a record or a date is equal to no literal.
        if let ValueKind::Lit(literal) = value.value_kind() {
            numbers.extend(self.equal.get(literal).into_iter().flatten());
        }
        match address(value) {
            Some(address) => numbers.extend(self.ranges.around(address)),
            // To ask for its range is an error.
            None => numbers.extend(self.ranges.all()),
        }
    }
}
