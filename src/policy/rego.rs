//! Decisions by [Rego](https://www.openpolicyagent.org/docs/policy-language), for policies that
//! were written for OPA-Envoy: the same input document, the same forms of result, the same bundles.
//!
//! All is read, and checked as far as it can be, at load; an error there keeps the last good set in
//! force. At a request the one rule of `query` is evaluated. What is undefined or false denies; an
//! evaluation that fails, takes too long, or gives a result of another form is a fault, and denies
//! too. OPA's own semantics hold: a builtin that fails is undefined, not an error.

mod builtins;
mod calls;
mod footprint;
mod input;
mod load;
mod machine;
mod result;
mod syntax;

use std::path::PathBuf;
use std::sync::Arc;

use regorus::Value;

pub use self::machine::Evaluator;

use self::load::Loaded;
use self::machine::Machine;
use super::bundle::{Bundle, BundleError};
use super::changes::Protected;
use super::verdict::{Effect, Fault, Grounds, Verdict};
use super::{Context, Question};
use crate::request::{BodyFault, Descriptors, Reads};

/// Where a scope's Rego policies come from, and how they are asked.
#[derive(Clone, Debug)]
pub struct RegoSources {
    /// Bundle directories, `.tar.gz` bundles, or single `.rego` files.
    pub files: Vec<PathBuf>,
    /// JSON or YAML files that are merged into `data`.
    pub data: Vec<PathBuf>,
    /// The rule to ask, its parts with `/` between them.
    pub query: String,
    /// Whether the input has `parsed_body` and `truncated_body`.
    pub parse_body: bool,
    /// Headers that no policy may touch.
    pub protected: Protected,
    /// A bundle that was fetched, beside `files`.
    pub bundle: Option<Arc<Bundle>>,
    /// What gRPC methods take.
    pub descriptors: Option<Arc<Descriptors>>,
}

/// A compiled set of Rego policies with its data.
#[derive(Debug)]
pub struct Rego {
    machine: Machine,
    shape: input::Shape,
    protected: Protected,
    query: String,
    reads: Option<Reads>,
    rules: usize,
    revision: String,
}

impl Rego {
    /// Reads and compiles everything; all that is wrong is returned at once.
    pub fn load(sources: &RegoSources) -> Result<Self, Vec<RegoError>> {
        let Loaded { machine, shape, reads, rules, revision } = Loaded::read(sources)?;
        Ok(Self {
            machine,
            shape,
            protected: sources.protected.clone(),
            query: sources.query.clone(),
            reads,
            rules,
            revision,
        })
    }

    /// What evaluates the policies.
    pub fn evaluator(&self) -> Evaluator {
        self.machine.evaluator()
    }

    /// The same policies in the interpreter, to measure and test one against the other.
    #[must_use]
    pub fn interpreted(mut self) -> Self {
        self.machine = self.machine.interpreted();
        self
    }

    pub(super) fn revision(&self) -> &str {
        &self.revision
    }

    pub(super) fn len(&self) -> usize {
        self.rules
    }

    /// What requests are told apart by; `None` where each is to be decided.
    pub(super) fn reads(&self) -> Option<Reads> {
        self.reads.clone()
    }

    pub(super) fn decide(&self, question: &Question<'_>) -> Verdict {
        let fault = |fault| Verdict::fault(fault, &self.revision);
        let input = match self.input(question) {
            Ok(input) => input,
            Err(error) => return fault(Fault::Body(error.to_string())),
        };
        let value = match self.machine.evaluate(input, question.now) {
            Ok(value) => value,
            Err(text) => return fault(Fault::Engine(text)),
        };
        match result::read(&value, &self.protected) {
            Ok(read) => self.verdict(read),
            Err(error) => fault(Fault::Engine(error.to_string())),
        }
    }

    fn input(&self, question: &Question<'_>) -> Result<Value, BodyFault> {
        match question.context {
            Context::Http { request, path } => self.shape.http(question, request, path),
            Context::Stated(stated) => Ok(input::stated(question, stated)),
        }
    }

    fn verdict(&self, read: result::Read) -> Verdict {
        let grounds = Grounds {
            determining: vec![self.query.clone()],
            reasons: read.reasons,
            errors: Vec::new(),
            revision: self.revision.clone(),
        };
        let effect = if read.is_allowed { Effect::Permitted } else { Effect::Unmatched };
        Verdict { effect, grounds, additions: read.additions, denial: read.denial }
    }
}

/// What is wrong with Rego policies or their data.
#[derive(Debug, thiserror::Error)]
pub enum RegoError {
    /// A path of `files` is none we read.
    #[error("`{}` is neither a directory, a `.tar.gz` bundle nor a `.rego` file", .0.display())]
    Kind(PathBuf),
    /// A bundle can't be read.
    #[error("the bundle `{}` can't be used: {source}", path.display())]
    Bundle {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// A policy is not valid; regorus' own words.
    #[error("`{file}` is not valid: {message}")]
    Policy {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// A data file is not valid.
    #[error("`{file}` is not valid: {message}")]
    Data {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// Data stands where a rule does.
    #[error("`{path}` is a rule, and the data has a value there too: move one of them")]
    DataOfRule {
        /// The path of both.
        path: String,
    },
    /// Two data files give one path two values.
    #[error("`{file}` gives `{path}` a value that it has already: a path has one value")]
    Conflict {
        /// The file of the second one.
        file: String,
        /// The path within `data`.
        path: String,
    },
    /// A bundle holds what its manifest says is not its own.
    #[error("`{file}` is outside the roots of its bundle's .manifest: move it, or widen `roots`")]
    Roots {
        /// The file.
        file: String,
    },
    /// A builtin of OPA that is not provided.
    #[error("`{file}` line {line}: the builtin `{name}` is not provided: {advice}")]
    Builtin {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// The builtin.
        name: String,
        /// What to do.
        advice: &'static str,
    },
    /// A function that is nowhere defined.
    #[error("`{file}` line {line}: the function `{name}` is not defined")]
    Undefined {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// As it is called.
        name: String,
    },
    /// A builtin of ours called with another number of arguments.
    #[error(
        "`{file}` line {line}: `{name}` takes {takes} arguments: write the result as `x := {name}(…)`"
    )]
    Arguments {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// The builtin.
        name: String,
        /// How many it takes.
        takes: usize,
    },
    /// A query that is no path.
    #[error("the query `{0}` is not a path such as `envoy/authz/allow`")]
    Query(String),
    /// A query that names nothing.
    #[error("the query `{0}` names no rule of the policies: all would be denied")]
    NoRule(String),
    /// The policies as a whole do not compile.
    #[error("the policies do not compile: {0}")]
    Compile(String),
}

#[cfg(test)]
mod tests;
