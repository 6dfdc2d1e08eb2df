//! The template of a key id (`kid`).
//!
//! Checked when the settings load, so that rendering can't fail. `key_version` is what lets two
//! versions of one key live in a JWKS under different ids.

use super::KeyError;

/// A checked `keyId` template: text and the placeholders `client_id`, `key_version`, `thumbprint`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyIdTemplate(Vec<Part>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(String),
    ClientId,
    KeyVersion,
    Thumbprint,
}

impl KeyIdTemplate {
    /// Reads a template such as `{{client_id}}-{{key_version}}`.
    ///
    /// # Errors
    /// If it is empty, names an unknown placeholder, or has a control character or a brace outside
    /// a placeholder.
    pub fn parse(template: &str) -> Result<Self, KeyError> {
        if template.is_empty() {
            return Err(KeyError::EmptyKeyId);
        }
        if template.chars().any(char::is_control) {
            return Err(KeyError::KeyIdCharacters { template: template.to_owned() });
        }
        let unbalanced = || KeyError::KeyIdBraces { template: template.to_owned() };
        let mut parts = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let (text, tail) = match rest.split_once("{{") {
                Some((text, tail)) => (text, Some(tail)),
                None => (rest, None),
            };
            if text.contains(['{', '}']) {
                return Err(unbalanced());
            }
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            let Some(tail) = tail else { break };
            let (name, tail) = tail.split_once("}}").ok_or_else(unbalanced)?;
            parts.push(placeholder(name)?);
            rest = tail;
        }
        Ok(Self(parts))
    }

    /// The key id of one key version.
    pub fn render(&self, client_id: &str, key_version: &str, thumbprint: &str) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::ClientId => client_id,
                Part::KeyVersion => key_version,
                Part::Thumbprint => thumbprint,
            })
            .collect()
    }
}

fn placeholder(name: &str) -> Result<Part, KeyError> {
    match name {
        "client_id" => Ok(Part::ClientId),
        "key_version" => Ok(Part::KeyVersion),
        "thumbprint" => Ok(Part::Thumbprint),
        _ => Err(KeyError::KeyIdPlaceholder { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> String {
        KeyIdTemplate::parse(template).unwrap().render("orders", "7", "abc")
    }

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(render("{{client_id}}-{{key_version}}"), "orders-7");
        assert_eq!(render("{{thumbprint}}"), "abc");
        assert_eq!(render("fixed"), "fixed");
        assert_eq!(render("{{client_id}}{{client_id}}é"), "ordersordersé");
    }

    #[test]
    fn a_value_is_not_a_template() {
        let template = KeyIdTemplate::parse("{{client_id}}").unwrap();
        assert_eq!(template.render("{{thumbprint}}", "1", "abc"), "{{thumbprint}}");
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for unknown in ["{{clientId}}", "{{ client_id }}", "{{}}", "{{{client_id}}}"] {
            let error = KeyIdTemplate::parse(unknown).unwrap_err();
            assert!(matches!(error, KeyError::KeyIdPlaceholder { .. }), "{unknown}: {error}");
        }
        for unbalanced in ["{{client_id", "{{client_id}", "client_id}}", "{client_id}", "a{b", "a}"]
        {
            let error = KeyIdTemplate::parse(unbalanced).unwrap_err();
            assert!(matches!(error, KeyError::KeyIdBraces { .. }), "{unbalanced}: {error}");
        }
        assert!(matches!(KeyIdTemplate::parse(""), Err(KeyError::EmptyKeyId)));
        let error = KeyIdTemplate::parse("a\nb").unwrap_err();
        assert!(matches!(error, KeyError::KeyIdCharacters { .. }));
        assert!(!error.to_string().contains('\n'), "an error text is one line");
    }

    #[test]
    fn the_error_shows_the_placeholders_as_they_are_typed() {
        let text = KeyIdTemplate::parse("{{x}}").unwrap_err().to_string();
        assert!(text.starts_with("`x` is no placeholder"), "{text}");
        assert!(text.contains("`{{client_id}}`, `{{key_version}}` or `{{thumbprint}}`"), "{text}");
    }
}
