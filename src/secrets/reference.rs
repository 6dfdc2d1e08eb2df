//! References in a store's credentials: `{{storeId=ENV_VAR,key=NAME}}`.
//!
//! A credential is either written out or is wholly one reference; there is no mixing. `ENV_VAR`,
//! the process environment, is the only store a reference can name now; others may come, which is
//! why the grammar names one. Errors never repeat the text, since it may be a mistyped credential.

use super::Secret;

/// Why a reference can't be resolved.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// Braces, but not of a reference.
    #[error(
        "a value with `{{{{` or `}}}}` must be exactly `{{{{storeId=ENV_VAR,key=NAME}}}}`: \
         correct it"
    )]
    Malformed,
    /// A store that can't be referred to.
    #[error("a reference can't name the store `{store}`: use `storeId=ENV_VAR`")]
    UnknownStore {
        /// As named.
        store: String,
    },
    /// The variable is unset or empty.
    #[error("the variable `{variable}` of a reference is not set: set it")]
    UnsetVariable {
        /// Its name.
        variable: String,
    },
}

/// The credential that `text` stands for: `text` itself when it has no double braces, else what
/// its reference names in `env`. `store=` is read as `storeId=`.
///
/// # Errors
/// If it has double braces and isn't a reference, names an unknown store, or an unset variable.
pub fn resolve(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Secret<String>, ReferenceError> {
    if !text.contains("{{") && !text.contains("}}") {
        return Ok(Secret::new(text.to_owned()));
    }
    let (store, variable) = parse(text).ok_or(ReferenceError::Malformed)?;
    if store != "ENV_VAR" {
        return Err(ReferenceError::UnknownStore { store: store.to_owned() });
    }
    env(variable)
        .filter(|value| !value.is_empty())
        .map(Secret::new)
        .ok_or_else(|| ReferenceError::UnsetVariable { variable: variable.to_owned() })
}

fn parse(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?;
    let (store, key) = inner.split_once(',')?;
    let store = store.strip_prefix("storeId=").or_else(|| store.strip_prefix("store="))?;
    let key = key.strip_prefix("key=")?;
    (is_name(store) && is_name(key)).then_some((store, key))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "VAULT_TOKEN" => Some("s.secret".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn resolved(text: &str) -> Result<String, ReferenceError> {
        resolve(text, &env).map(|secret| secret.expose().clone())
    }

    #[test]
    fn text_without_double_braces_is_itself() {
        for text in ["", "s.token", "a{b}c", "storeId=ENV_VAR,key=VAULT_TOKEN"] {
            assert_eq!(resolved(text).unwrap(), text);
        }
    }

    #[test]
    fn a_reference_is_resolved_in_both_spellings() {
        assert_eq!(resolved("{{storeId=ENV_VAR,key=VAULT_TOKEN}}").unwrap(), "s.secret");
        assert_eq!(resolved("{{store=ENV_VAR,key=VAULT_TOKEN}}").unwrap(), "s.secret");
    }

    #[test]
    fn anything_else_with_braces_is_malformed() {
        for text in [
            "{{}}",
            "{{",
            "}}",
            "{{ENV_VAR}}",
            "{{storeId=ENV_VAR}}",
            "{{storeId=ENV_VAR,key=}}",
            "{{storeId=,key=VAULT_TOKEN}}",
            "{{key=VAULT_TOKEN,storeId=ENV_VAR}}",
            "{{storeId=ENV_VAR, key=VAULT_TOKEN}}",
            "{{ storeId=ENV_VAR,key=VAULT_TOKEN }}",
            "{{storeId=ENV_VAR,key=VAULT_TOKEN,key=B}}",
            "x{{storeId=ENV_VAR,key=VAULT_TOKEN}}",
            "{{storeId=ENV_VAR,key=VAULT_TOKEN}}\n",
            "{{storeId=ENV_VAR,key=VAULT_TOKEN}",
            "{{storeid=ENV_VAR,key=VAULT_TOKEN}}",
            "{{{storeId=ENV_VAR,key=VAULT_TOKEN}}}",
        ] {
            assert_eq!(resolved(text), Err(ReferenceError::Malformed), "{text}");
        }
    }

    #[test]
    fn unknown_stores_and_unset_variables_have_errors_of_their_own() {
        assert_eq!(
            resolved("{{storeId=vault,key=X}}"),
            Err(ReferenceError::UnknownStore { store: "vault".to_owned() })
        );
        for variable in ["UNSET", "EMPTY"] {
            assert_eq!(
                resolved(&format!("{{{{storeId=ENV_VAR,key={variable}}}}}")),
                Err(ReferenceError::UnsetVariable { variable: variable.to_owned() })
            );
        }
    }

    #[test]
    fn the_error_shows_the_grammar_as_it_is_typed() {
        assert_eq!(
            ReferenceError::Malformed.to_string(),
            "a value with `{{` or `}}` must be exactly `{{storeId=ENV_VAR,key=NAME}}`: correct it"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_error_repeats_it(text in "\\PC*", inner in "[a-zA-Z=,{}]*") {
            for text in [text.clone(), format!("{{{{{inner}}}}}"), format!("s3cr3t{{{{{text}")] {
                if let Err(error) = resolve(&text, &|_| None) {
                    prop_assert!(!error.to_string().contains("s3cr3t"));
                }
            }
        }
    }
}
