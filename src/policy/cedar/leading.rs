//! What a condition asks first, where a head could have asked it, or where one look answers many.
//!
//! `when { principal in Group::"staff" && … }` narrows as the head would. `when { principal.claims.role
//! == "r" && … }` names a value, so that one look at the claim tells which of many policies go on; as
//! does an address, of which a range is asked.
//! Only what is evaluated before anything that could fail is taken for a head, and a value that can't
//! be had lets every policy go on that looks for it: where a beginning does not hold, the policy as a
//! whole is false, and neither decides nor errs.

use cedar_policy_core::ast::{
    BinaryOp, EntityType, EntityUID, Expr, ExprKind, Literal, Policy, Var,
};
use ipnet::IpNet;

use super::ranges::written;

/// How a condition begins.
#[derive(Debug, Default)]
pub(super) struct Beginning<'p> {
    pub(super) asks: Vec<(Var, Asks<'p>)>,
    pub(super) names: Option<Names<'p>>,
}

/// What is asked of the principal, the action or the resource.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asks<'p> {
    Is(&'p EntityType),
    Equal(&'p EntityUID),
    Within(&'p EntityUID),
}

/// `a has b && a.b == "wanted"`.
#[derive(Debug)]
pub(super) struct Names<'p> {
    /// What must hold before the value is looked at.
    pub(super) before: Vec<&'p Expr>,
    pub(super) value: &'p Expr,
    pub(super) wanted: Wanted<'p>,
}

/// What is asked of a value.
#[derive(Debug)]
pub(super) enum Wanted<'p> {
    Equal(&'p Literal),
    /// `a.b.isInRange(ip("192.0.2.0/24"))`.
    InRange(IpNet),
}

impl<'p> Beginning<'p> {
    /// How the condition of `policy` begins.
    pub(super) fn of(policy: &'p Policy) -> Self {
        let mut beginning = Self::default();
        let mut before: Vec<&Expr> = Vec::new();
        // What is evaluated next is last.
        let mut ahead: Vec<&Expr> = policy.non_scope_constraints().into_iter().collect();
        while let Some(expr) = ahead.pop() {
            match expr.expr_kind() {
                ExprKind::And { left, right } => ahead.extend([&**right, &**left]),
                ExprKind::Lit(Literal::Bool(true)) => {}
                ExprKind::HasAttr { expr: of, .. } | ExprKind::ExtHasAttr { expr: of, .. }
                    if depth(of).is_some() =>
                {
                    before.push(expr);
                }
                _ => {
                    // A `has` of one of the four can't fail; any other might.
                    let asked = asked(expr).filter(|_| !before.iter().any(|has| can_fail(has)));
                    let Some(asked) = asked else {
                        beginning.names =
                            named(expr).map(|(value, wanted)| Names { before, value, wanted });
                        break;
                    };
                    beginning.asks.push(asked);
                }
            }
        }
        beginning
    }

    /// What is asked of `var`.
    pub(super) fn asks(&self, var: Var) -> impl Iterator<Item = Asks<'p>> + Clone {
        self.asks.iter().filter(move |(of, _)| *of == var).map(|(_, asks)| *asks)
    }
}

/// How many entities `expr` opens, if it is an attribute of an attribute … of one of the four.
pub(super) fn depth(expr: &Expr) -> Option<usize> {
    let (mut root, mut depth) = (expr, 0);
    while let ExprKind::GetAttr { expr, .. } = root.expr_kind() {
        root = expr;
        depth += 1;
    }
    matches!(root.expr_kind(), ExprKind::Var(_)).then_some(depth)
}

/// How many entities the `has` opens.
pub(super) fn has_depth(has: &Expr) -> Option<usize> {
    match has.expr_kind() {
        ExprKind::HasAttr { expr, .. } => Some(depth(expr)? + 1),
        ExprKind::ExtHasAttr { expr, attrs } => Some(depth(expr)? + attrs.len()),
        _ => None,
    }
}

fn can_fail(has: &Expr) -> bool {
    !matches!(has.expr_kind(), ExprKind::HasAttr { expr, .. } if depth(expr) == Some(0))
}

fn named(expr: &Expr) -> Option<(&Expr, Wanted<'_>)> {
    let (value, wanted) = match expr.expr_kind() {
        ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } => match arg2.expr_kind() {
            ExprKind::Lit(wanted) => (&**arg1, Wanted::Equal(wanted)),
            _ => return None,
        },
        _ => {
            let (address, range) = in_range(expr)?;
            (address, Wanted::InRange(range))
        }
    };
    depth(value).filter(|depth| *depth > 0)?;
    Some((value, wanted))
}

/// The address and the range of `a.isInRange(ip("…"))`.
pub(super) fn in_range(expr: &Expr) -> Option<(&Expr, IpNet)> {
    let ExprKind::ExtensionFunctionApp { fn_name, args } = expr.expr_kind() else { return None };
    let [address, range] = args.as_slice() else { return None };
    (fn_name.to_string() == "isInRange").then_some(())?;
    Some((address, written(range)?))
}

fn asked(expr: &Expr) -> Option<(Var, Asks<'_>)> {
    match expr.expr_kind() {
        ExprKind::Is { expr, entity_type } => Some((entity(expr)?, Asks::Is(entity_type))),
        ExprKind::BinaryApp { op, arg1, arg2 } => {
            let ExprKind::Lit(Literal::EntityUID(uid)) = arg2.expr_kind() else { return None };
            match op {
                BinaryOp::Eq => Some((entity(arg1)?, Asks::Equal(uid))),
                BinaryOp::In => Some((entity(arg1)?, Asks::Within(uid))),
                _ => None,
            }
        }
        _ => None,
    }
}

fn entity(expr: &Expr) -> Option<Var> {
    match expr.expr_kind() {
        ExprKind::Var(var) if *var != Var::Context => Some(*var),
        _ => None,
    }
}
