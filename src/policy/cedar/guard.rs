//! One look at a value, for all policies whose conditions begin with it.
//!
//! Policies that begin with `principal.claims.role == "r"` differ in what they compare the claim with:
//! the value itself says which of them can go on, as an address does of those that begin with a range
//! of addresses. Where it can't be had, each of them is evaluated and says so.

use std::collections::HashMap;

use cedar_policy_core::ast::{Expr, Literal, Value, ValueKind};
use cedar_policy_core::evaluator::Evaluator;

use super::leading::{Names, Wanted, depth, has_depth};
use super::ranges::{Ranges, address};

/// A value that policies begin by looking at.
#[derive(Debug)]
pub(super) struct Guard {
    before: Vec<Expr>,
    value: Expr,
    /// How many entities are opened for it.
    pub(super) depth: usize,
}

/// What a guard finds.
#[derive(Debug)]
pub(super) enum Look {
    Value(Value),
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
        }
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
