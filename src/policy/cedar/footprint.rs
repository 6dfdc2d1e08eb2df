//! What policies look at: read from their conditions at load, so that a request brings no more.
//!
//! Cedar reads an attribute only by a name written in a policy, and takes nothing out of a set: so a
//! field that no policy names can't be seen, and only entities reached through named attributes can
//! be met. Where a condition hands on a whole (`context` itself, all claims), all of it is brought.

use std::collections::BTreeSet;

use cedar_policy_core::ast::{BinaryOp, EntityUID, Expr, ExprKind, Literal, Policy, Var};
use ipnet::IpNet;

use super::leading::in_range;
use crate::request::{AddressRead, Reads};

/// Which fields of an open record are looked at.
#[derive(Clone, Debug, Default)]
pub(super) enum Fields {
    /// Not even the record itself.
    #[default]
    Unseen,
    /// These.
    Named(BTreeSet<String>),
    /// Possibly any.
    All,
}

impl Fields {
    pub(super) fn is_seen(&self) -> bool {
        !matches!(self, Self::Unseen)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Unseen => false,
            Self::Named(names) => names.contains(name),
            Self::All => true,
        }
    }

    fn add(&mut self, field: Option<&str>) {
        match (field, &mut *self) {
            (_, Self::All) => {}
            (Some(name), Self::Named(names)) => {
                names.insert(name.to_owned());
            }
            (Some(name), Self::Unseen) => *self = Self::Named([name.to_owned()].into()),
            (None, _) => *self = Self::All,
        }
    }
}

/// What of a request is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Wants {
    pub(super) method: bool,
    pub(super) host: bool,
    pub(super) path: bool,
    pub(super) body: bool,
    pub(super) query: Fields,
    pub(super) headers: Fields,
    pub(super) ip: bool,
    /// Whether more of it is looked at than which of `ranges` it is within.
    ip_itself: bool,
    ranges: BTreeSet<IpNet>,
    pub(super) peer: bool,
    pub(super) time: bool,
    pub(super) issuer: bool,
    pub(super) claims: Fields,
    /// Whether a condition, not a head, asks what something is `in`.
    pub(super) ancestors: bool,
}

impl Wants {
    /// What is left for conditions that look at no [`Reach::particulars`].
    pub(super) fn without_particulars(&self) -> Self {
        Self { ip: false, claims: Fields::Unseen, ..self.clone() }
    }

    /// The same, to tell requests apart by; `None` where that would tell every one apart.
    pub(super) fn reads(&self) -> Option<Reads> {
        let headers = match &self.headers {
            Fields::Unseen => BTreeSet::new(),
            Fields::Named(names) => names.clone(),
            Fields::All => return None,
        };
        let source_ip = match (self.ip, self.ip_itself) {
            (false, _) => AddressRead::Unread,
            (true, true) => AddressRead::Whole,
            (true, false) => AddressRead::within(&self.ranges),
        };
        let reads = Reads { headers, query: self.query.is_seen(), body: self.body, source_ip };
        (!self.time).then_some(reads)
    }

    /// Adds what `context.a.b` looks at, `path` being `[a, b]`.
    fn add_context(&mut self, path: &[&str]) {
        match path {
            [] => {
                self.add_context(&["http"]);
                self.add_context(&["source"]);
                self.time = true;
            }
            ["http"] => {
                for field in ["method", "host", "path", "query", "headers", "body"] {
                    self.add_context(&["http", field]);
                }
            }
            ["source"] => (self.ip, self.ip_itself, self.peer) = (true, true, true),
            ["http", "method", ..] => self.method = true,
            ["http", "host", ..] => self.host = true,
            ["http", "path", ..] => self.path = true,
            ["http", "body", ..] => self.body = true,
            ["http", "query", rest @ ..] => self.query.add(rest.first().copied()),
            ["http", "headers", rest @ ..] => self.headers.add(rest.first().copied()),
            ["source", "ip", ..] => (self.ip, self.ip_itself) = (true, true),
            ["source", "principal", ..] => self.peer = true,
            ["time", ..] => self.time = true,
            _ => {}
        }
    }

    /// Adds what `x.a.b` looks at when `x` may be the principal, or anything that leads to it.
    fn add_principal(&mut self, path: &[&str]) {
        self.issuer |= path.contains(&"issuer");
        for (place, _) in path.iter().enumerate().filter(|(_, name)| **name == "claims") {
            self.claims.add(path.get(place + 1).copied());
        }
    }
}

/// How far one policy's condition looks.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Entities the condition names.
    pub(super) literals: Vec<EntityUID>,
    /// How many entities one after the other it opens: 1 for `principal.a`, 2 for `principal.a.b`.
    pub(super) depth: usize,
    /// Whether it looks at the resource.
    pub(super) resource: bool,
    /// Whether it looks at the action.
    pub(super) action: bool,
    /// Whether it looks at anything of the request but who sends it.
    pub(super) circumstances: bool,
    /// Whether it looks at the principal's claims or address, which are brought for those alone
    /// that do.
    pub(super) particulars: bool,
}

impl Reach {
    /// Whether the condition is the same for every action on a resource, and not for every resource.
    pub(super) fn is_of_resource_alone(&self) -> bool {
        self.resource && !self.action
    }
}

/// What all policies together look at.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    pub(super) wants: Wants,
    /// Every attribute name in a condition.
    pub(super) names: BTreeSet<String>,
    /// Whether a condition reads tags, whose names are not known before.
    pub(super) tags: bool,
    /// The longest of all reaches.
    pub(super) depth: usize,
}

impl Footprint {
    /// Adds what `policy` looks at.
    pub(super) fn add(&mut self, policy: &Policy) -> Reach {
        let mut reach = Reach::default();
        // Each with the number of entities that are opened on from its value. No recursion: a
        // condition of thousands of terms is that deep.
        let mut work: Vec<(&Expr, usize)> = Vec::new();
        work.extend(policy.non_scope_constraints().map(|condition| (condition, 0)));
        while let Some((expr, onward)) = work.pop() {
            let (root, path, onward) = attributes(expr, onward);
            match root.expr_kind() {
                // Whether there is one is told with which ranges it is within.
                ExprKind::Var(Var::Context) if is_has(expr) && path == ["source", "ip"] => {
                    self.wants.ip = true;
                    (reach.circumstances, reach.particulars) = (true, true);
                    continue;
                }
                ExprKind::Var(Var::Context) => {
                    self.wants.add_context(&path);
                    reach.particulars |= matches!(&*path, [] | ["source"] | ["source", "ip", ..]);
                    reach.circumstances |= !matches!(&*path, ["source", "principal", ..]);
                    continue;
                }
                ExprKind::Var(var) => {
                    reach.depth = reach.depth.max(onward);
                    reach.resource |= *var == Var::Resource;
                    reach.action |= *var == Var::Action;
                }
                ExprKind::Lit(Literal::EntityUID(uid)) => {
                    reach.depth = reach.depth.max(onward);
                    reach.literals.push(EntityUID::clone(uid));
                }
                ExprKind::Slot(slot) => {
                    reach.depth = reach.depth.max(onward);
                    reach.literals.extend(policy.env().get(slot).cloned());
                }
                _ => self.add_operands(root, onward, &mut reach, &mut work),
            }
            self.names.extend(path.iter().map(|name| (*name).to_owned()));
            self.wants.add_principal(&path);
            reach.particulars |= path.contains(&"claims");
        }
        self.depth = self.depth.max(reach.depth);
        reach
    }

    fn add_operands<'e>(
        &mut self,
        expr: &'e Expr,
        onward: usize,
        reach: &mut Reach,
        work: &mut Vec<(&'e Expr, usize)>,
    ) {
        match expr.expr_kind() {
            ExprKind::If { test_expr, then_expr, else_expr } => {
                work.extend([(&**test_expr, 0), (&**then_expr, onward), (&**else_expr, onward)]);
            }
            ExprKind::And { left, right } | ExprKind::Or { left, right } => {
                work.extend([(&**left, 0), (&**right, 0)]);
            }
            ExprKind::UnaryApp { arg, .. } => work.push((arg, 0)),
            ExprKind::BinaryApp { op, arg1, arg2 } => {
                let opened = match op {
                    BinaryOp::In | BinaryOp::HasTag => 1,
                    BinaryOp::GetTag => onward + 1,
                    _ => 0,
                };
                self.wants.ancestors |= *op == BinaryOp::In;
                self.tags |= *op == BinaryOp::GetTag;
                work.extend([(&**arg1, opened), (&**arg2, 0)]);
            }
            ExprKind::ExtensionFunctionApp { args, .. } => match source_in_range(expr) {
                Some(range) => {
                    self.wants.ip = true;
                    (reach.circumstances, reach.particulars) = (true, true);
                    self.wants.ranges.insert(range);
                }
                None => work.extend(args.iter().map(|arg| (arg, 0))),
            },
            // What is read of a yes or no fails, but first the `has` is evaluated.
            ExprKind::GetAttr { .. } | ExprKind::HasAttr { .. } | ExprKind::ExtHasAttr { .. } => {
                work.push((expr, 0));
            }
            ExprKind::Like { expr, .. } | ExprKind::Is { expr, .. } => work.push((expr, 0)),
            ExprKind::Set(items) => work.extend(items.iter().map(|item| (item, 0))),
            ExprKind::Record(fields) => {
                work.extend(fields.values().map(|field| (field, onward)));
            }
            ExprKind::Lit(_) | ExprKind::Var(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) => {}
        }
    }
}

fn is_has(expr: &Expr) -> bool {
    matches!(expr.expr_kind(), ExprKind::HasAttr { .. } | ExprKind::ExtHasAttr { .. })
}

/// The range in `context.source.ip.isInRange(ip("…"))`.
fn source_in_range(expr: &Expr) -> Option<IpNet> {
    let (address, range) = in_range(expr)?;
    let (root, path, _) = attributes(address, 0);
    let is_source =
        matches!(root.expr_kind(), ExprKind::Var(Var::Context)) && path == ["source", "ip"];
    is_source.then_some(range)
}

/// `root.a.b`, or a `has` of it: the root, `[a, b]`, and how many entities are opened from the root
/// on, when `onward` are from the whole.
pub(super) fn attributes(expr: &Expr, onward: usize) -> (&Expr, Vec<&str>, usize) {
    let (mut root, mut path, mut opened) = match expr.expr_kind() {
        ExprKind::HasAttr { expr, attr } => (&**expr, vec![attr.as_str()], 1),
        ExprKind::ExtHasAttr { expr, attrs } => {
            let path: Vec<_> = attrs.iter().rev().map(|attr| attr.as_str()).collect();
            let opened = path.len();
            (&**expr, path, opened)
        }
        _ => (expr, Vec::new(), onward),
    };
    while let ExprKind::GetAttr { expr, attr } = root.expr_kind() {
        path.push(attr);
        opened += 1;
        root = expr;
    }
    path.reverse();
    (root, path, opened)
}
