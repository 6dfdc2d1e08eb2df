//! What in a proxy's configuration lets a forged decision header pass, and which of its settings bite.
//!
//! Three steps. `document` makes trees of text. `envoy`, `istio` and `gateway` read from the trees
//! what matters into one plain `model`: filter chains, how Placet is asked, about which requests,
//! what is done to the decision header, and who verifies. `checks` judge the model.
//!
//! A text that is neither YAML nor JSON, and texts of which nothing is a configuration, are errors.
//! What is configured elsewhere (routes that come by RDS, say) is a finding and never taken for sound.
//! Every value is looked up by name and may be absent or of another type: no document makes it panic.

mod checks;
mod document;
mod envoy;
mod gateway;
mod istio;
mod model;
mod node;
mod patterns;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::scope::{DecisionHeader, HeaderNameError};
use document::Document;
use model::Chain;

/// A text to look at, and what it is called in findings.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name of the file.
    pub name: String,
    /// YAML (one document or many) or JSON.
    pub text: String,
}

/// Why there is nothing to say.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Neither YAML nor JSON.
    #[error("`{file}` is neither YAML nor JSON: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says.
        problem: String,
    },
    /// Other documents than those that are looked at.
    #[error(
        "nothing in {0} is known here: give an Envoy bootstrap or /config_dump, or manifests of Istio, Envoy Gateway or the Gateway API"
    )]
    Unknown(String),
}

/// What is to be found in the configuration, as Placet's settings have it.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The scopes; one with the defaults where no settings are given.
    pub scopes: Vec<ExpectedScope>,
    /// Whether settings were given.
    pub is_configured: bool,
}

/// What verifiers and proxies must know of a scope.
#[derive(Clone, Debug)]
pub struct ExpectedScope {
    /// The client ID; `None` where no settings are given.
    pub client_id: Option<String>,
    /// The decision header.
    pub header: DecisionHeader,
    /// `iss`.
    pub issuer: String,
    /// `aud`; empty: its tokens have none, or it is unknown.
    pub audiences: Vec<String>,
    /// How long before it signs a key is published.
    pub publish_before: Duration,
}

impl Expected {
    /// What the defaults of the settings make: for a proxy whose Placet is not known.
    pub fn by_default() -> Result<Self, HeaderNameError> {
        let scope = ExpectedScope {
            client_id: None,
            header: DecisionHeader::new("x-placet-decision", "")?,
            issuer: "placet".to_owned(),
            audiences: Vec::new(),
            publish_before: Duration::from_secs(20 * 60),
        };
        Ok(Self { scopes: vec![scope], is_configured: false })
    }

    /// The decision headers, each once.
    fn headers(&self) -> Vec<&DecisionHeader> {
        let mut headers: Vec<&DecisionHeader> = Vec::new();
        for scope in &self.scopes {
            if headers.iter().all(|header| header.name() != scope.header.name()) {
                headers.push(&scope.header);
            }
        }
        headers
    }

    /// Whether `name` is a decision header, spelled as it is.
    fn is_header(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.header.name().eq_ignore_ascii_case(name))
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Requests pass unasked, or a header that a client sent is taken for a decision.
    Error,
    /// An outage, a slow answer or a large request does harm, or a second line of defence is missing.
    Warning,
    /// Worth knowing; no harm by itself.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// Where something stands.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The listener, or the manifest's kind and name.
    pub resource: String,
    /// From the root of the document, with dots and `[index]`.
    pub path: String,
}

impl Place {
    /// The place below this one by `path`, as it is written in the document.
    fn below(&self, path: &str) -> Self {
        let dot = if self.path.is_empty() || path.starts_with('[') { "" } else { "." };
        Self { path: format!("{}{dot}{path}", self.path), ..self.clone() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for part in [&self.resource, &self.path] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

/// Something that is wrong, and what to do.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// A stable name of what is wrong.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Where.
    #[serde(rename = "where")]
    pub place: Place,
    /// What happens because of it, in one line.
    pub what: String,
    /// What to write instead; may have several lines.
    pub remedy: String,
}

/// Everything wrong with `sources`, the gravest first.
pub fn examine(sources: &[Source], expected: &Expected) -> Result<Vec<Finding>, DoctorError> {
    let mut model = model::Model::default();
    let files = sources.iter().map(document::read).collect::<Result<Vec<_>, _>>()?;
    for documents in &files {
        envoy::read(documents, &mut model);
    }
    let documents: Vec<&Document> = files.iter().flatten().collect();
    istio::read(&documents, &mut model);
    gateway::read(&documents, &mut model);
    if !documents.iter().any(|document| document.is_known()) {
        let names: Vec<_> = sources.iter().map(|source| format!("`{}`", source.name)).collect();
        return Err(DoctorError::Unknown(names.join(", ")));
    }
    model.keep_placets();
    let mut findings = checks::judge(&model, expected);
    findings.sort_by(|a, b| (a.severity, &a.place, a.code).cmp(&(b.severity, &b.place, b.code)));
    findings.dedup();
    Ok(findings)
}
