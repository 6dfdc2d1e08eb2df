//! Which policies the cases reach: those that determined at least one decision.

use std::collections::BTreeMap;

use crate::app::Offline;
use crate::authorizer::Decision;
use crate::scope::Scope;

/// Every policy by client ID and id, and whether it determined a decision.
#[derive(Debug, Default)]
pub(super) struct Coverage(BTreeMap<(String, String), bool>);

impl Coverage {
    /// None of the policies of these scopes so far.
    pub(super) fn of(offline: &Offline) -> Self {
        let mut all = BTreeMap::new();
        for scope in offline.scopes.iter() {
            let ids = scope.authorizer.policy.ids().into_iter();
            all.extend(ids.map(|id| ((scope.client_id.clone(), id), false)));
        }
        Self(all)
    }

    /// Notes the policies that determined `decision`.
    pub(super) fn note(&mut self, scope: Option<&Scope>, decision: &Decision) {
        let Some((scope, opinion)) = scope.zip(decision.facts.opinion.as_ref()) else { return };
        for id in &opinion.grounds.determining {
            if let Some(is_covered) = self.0.get_mut(&(scope.client_id.clone(), id.clone())) {
                *is_covered = true;
            }
        }
    }

    /// How many percent of the policies, rounded down; without a policy there is nothing to miss.
    pub(super) fn percent(&self) -> usize {
        (self.covered() * 100).checked_div(self.0.len()).unwrap_or(100)
    }

    /// The figures, and each policy that determined nothing.
    pub(super) fn lines(&self) -> Vec<String> {
        let (covered, all, percent) = (self.covered(), self.0.len(), self.percent());
        let mut lines =
            vec![format!("{covered} of {all} policies determined a decision, {percent}%")];
        let missed = self.0.iter().filter(|(_, is_covered)| !**is_covered);
        lines.extend(missed.map(|((client_id, id), _)| format!("never {client_id}: {id}")));
        lines
    }

    fn covered(&self) -> usize {
        self.0.values().filter(|is_covered| **is_covered).count()
    }
}
