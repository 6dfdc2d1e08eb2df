//! Ranges of addresses, and which of them an address is within.
//!
//! Policies that begin with `context.source.ip.isInRange(ip("10.0.0.0/8"))` differ in the range: the
//! address says which of them can go on, in one look for each length of prefix there is. Cedar reads
//! what is written, and no text but Cedar's own is read here: what it refuses is no range.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use cedar_policy_core::ast::{Expr, ExprKind, Literal, PartialValue, Value, ValueKind};
use cedar_policy_core::extensions::Extensions;
use ipnet::IpNet;

/// Policies, by number, under the ranges they ask for.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    numbers: HashMap<IpNet, Vec<usize>>,
    /// Of the prefixes, in bits.
    lengths: BTreeSet<u8>,
}

impl Ranges {
    pub(super) fn insert(&mut self, range: IpNet, number: usize) {
        self.lengths.insert(range.prefix_len());
        self.numbers.entry(range.trunc()).or_default().push(number);
    }

    /// Those whose range `net` is within.
    pub(super) fn around(&self, net: IpNet) -> impl Iterator<Item = usize> {
        let lengths = self.lengths.range(..=net.prefix_len());
        let wider = lengths.filter_map(move |length| IpNet::new(net.addr(), *length).ok());
        wider.filter_map(|range| self.numbers.get(&range.trunc())).flatten().copied()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        self.numbers.values().flatten().copied()
    }
}

/// What a condition writes as `ip("…")`.
pub(super) fn written(expr: &Expr) -> Option<IpNet> {
    let ExprKind::ExtensionFunctionApp { fn_name, args } = expr.expr_kind() else { return None };
    let [text] = args.as_slice() else { return None };
    let ExprKind::Lit(Literal::String(text)) = text.expr_kind() else { return None };
    let function = Extensions::all_available().func(fn_name).ok()?;
    match function.call(&[text.as_str().into()]) {
        Ok(PartialValue::Value(value)) => address(&value),
        Ok(PartialValue::Residual(_)) | Err(_) => None,
    }
}

/// The address or range that `value` is, if it is one.
pub(super) fn address(value: &Value) -> Option<IpNet> {
    let ValueKind::ExtensionValue(_) = value.value_kind() else { return None };
    let call = value.to_string();
    let text = call.strip_prefix("ip(\"")?.strip_suffix("\")")?;
    let Some((address, length)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(IpNet::from);
    };
    IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()
}
