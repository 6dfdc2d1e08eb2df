//! Judges the model: each check looks for one fault, and names its remedy.

mod asking;
mod passing;
mod verifying;

use super::model::{Fault, Model, Unasked};
use super::{Expected, Finding, Place, Severity};

/// Everything that is wrong, in no order.
pub(super) fn judge(model: &Model, expected: &Expected) -> Vec<Finding> {
    let mut findings = Findings::default();
    asking::judge(model, expected, &mut findings);
    passing::judge(model, expected, &mut findings);
    verifying::judge(model, expected, &mut findings);
    for fault in &model.faults {
        findings.fault(fault);
    }
    for (place, what) in &model.unseen {
        let remedy = "add what is missing to the files you give; for Envoy, take what its admin page shows under /config_dump";
        findings.add("unseen", Severity::Note, place, what, remedy);
    }
    findings.0
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        code: &'static str,
        severity: Severity,
        place: &Place,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (what, remedy) = (what.into(), remedy.into());
        self.0.push(Finding { code, severity, place: place.clone(), what, remedy });
    }

    fn fault(&mut self, fault: &Fault) {
        self.add(fault.code, fault.severity, &fault.place, &fault.what, &fault.remedy);
    }

    /// Requests that nobody is asked about: worse where their decision header is not taken off either.
    fn unasked(&mut self, unasked: &Unasked, is_stripped: bool) {
        let (severity, and) = if is_stripped {
            (
                Severity::Warning,
                "; their decision header is stripped, so that the application gets none",
            )
        } else {
            (Severity::Error, ", with whatever decision header they came")
        };
        let what = format!("{}{and}", unasked.what);
        self.add(unasked.code, severity, &unasked.place, what, &unasked.remedy);
    }
}
