//! One look at a value, for all policies whose conditions begin with it.
//!
//! Policies that begin with `principal.claims.role == "r"` differ in what they compare the claim with:
//! the value itself says which of them can go on. Where it can't be had, each of them is evaluated
//! and says so.

use std::collections::HashMap;

use cedar_policy_core::ast::{Expr, Literal, Value, ValueKind};
use cedar_policy_core::evaluator::Evaluator;

use super::leading::{Names, depth, has_depth};

/// A value that policies begin by looking at.
#[derive(Debug)]
pub(super) struct Guard {
    before: Vec<Expr>,
    value: Expr,
    /// How many entities are opened for it.
    pub(super) depth: usize,
}

/// Policies that look at one value, by the value they go on with.
pub(super) type Guarded = HashMap<Literal, Vec<usize>>;

/// What a guard finds.
pub(super) enum Look {
    Value(Literal),
    /// No policy that looks for a value can go on.
    Nothing,
    /// Every policy that looks for a value has to find out for itself.
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
        match look(&self.value).as_ref().map(Value::value_kind) {
            Some(ValueKind::Lit(value)) => Look::Value(value.clone()),
            // A set, a record or a date is equal to no literal.
            Some(_) => Look::Nothing,
            None => Look::Broken,
        }
    }
}
