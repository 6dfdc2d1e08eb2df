//! A credential of ours in the settings: never written out.

use std::path::Path;

use super::joined;
use crate::config::report::Report;
use crate::secrets::{Secret, Source, reference};

/// Exactly one of: a reference in the settings, a file, an environment variable.
pub(super) fn credential(
    path: &str,
    given: [(&str, Option<&str>); 3],
    base: &Path,
    report: &mut Report,
) -> Option<Source> {
    let [(name, reference), (file_name, file), (env_name, env)] = given;
    match (reference, file, env) {
        (Some(text), None, None) if text.contains("{{") => {
            let resolved = resolve(text, report);
            report.keep(format_args!("{path}.{name}"), resolved).map(Source::Literal)
        }
        (Some(_), None, None) => {
            report.error(
                format_args!("{path}.{name}"),
                format_args!(
                    "a credential must not stand in the settings: use {file_name}, {env_name} or {{{{storeId=ENV_VAR,key=NAME}}}}"
                ),
            );
            None
        }
        (None, Some(file), None) => Some(Source::File(joined(base, file))),
        (None, None, Some(env)) => Some(Source::Env(env.to_owned())),
        _ => {
            report.error(
                path,
                format_args!("needs exactly one of {name}, {file_name} and {env_name}"),
            );
            None
        }
    }
}

/// What a credential in the settings stands for. Another machine's environment is not known: there any
/// variable is taken for set.
pub(super) fn resolve(
    text: &str,
    report: &Report,
) -> Result<Secret<String>, reference::ReferenceError> {
    let is_elsewhere = report.is_elsewhere;
    reference::resolve(text, &|name| match is_elsewhere {
        true => Some("(of another machine)".to_owned()),
        false => std::env::var(name).ok(),
    })
}
