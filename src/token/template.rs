//! How one item of the decision claim is written.
//!
//! An item is split by its readers at the template's own characters and at the delimiter. A value
//! that held one of them could pose as another item, so in every value those characters, `%` and
//! control characters are percent-encoded: splitting first and decoding then gives back the values.

use std::fmt::Write;

use crate::route::Target;

/// A parsed `jwtCustomization.template`.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
    /// Characters that a value may not hold as they are.
    encoded: Vec<char>,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Field(Field),
}

#[derive(Clone, Debug)]
enum Field {
    AssetType,
    AssetId,
    Action,
    /// Of the asset.
    Attribute(String),
}

impl Template {
    /// Reads a template whose items `delimiter` will join (`None`: they go into an array).
    pub fn parse(text: &str, delimiter: Option<&str>) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once("{{") {
            let (name, after) =
                after.split_once("}}").ok_or_else(|| TemplateError::Unclosed(text.to_owned()))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            pieces.push(Piece::Field(field(name.trim())?));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        if !pieces.iter().any(|piece| matches!(piece, Piece::Field(_))) {
            return Err(TemplateError::NoPlaceholder(text.to_owned()));
        }
        // These stand in the escapes themselves, so that no escape keeps them apart.
        let is_in_escapes = |c: char| c == '%' || matches!(c, '0'..='9' | 'A'..='F');
        if let Some(delimiter) = delimiter.filter(|text| text.contains(is_in_escapes)) {
            return Err(TemplateError::UnsafeDelimiter(delimiter.to_owned()));
        }
        for piece in pieces.iter().skip(1).rev().skip(1) {
            if let Piece::Literal(literal) = piece
                && literal.chars().all(is_in_escapes)
            {
                return Err(TemplateError::UnsafeSeparator(literal.clone()));
            }
        }
        let mut encoded: Vec<char> = delimiter.unwrap_or_default().chars().collect();
        for piece in &pieces {
            if let Piece::Literal(literal) = piece {
                encoded.extend(literal.chars());
            }
        }
        Ok(Self { text: text.to_owned(), pieces, encoded })
    }

    /// The template as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first attribute of an asset that it names, if it names one.
    pub fn attribute(&self) -> Option<&str> {
        self.pieces.iter().find_map(|piece| match piece {
            Piece::Field(Field::Attribute(name)) => Some(name.as_str()),
            Piece::Literal(_) | Piece::Field(_) => None,
        })
    }

    /// The item for one target; `attribute` looks an attribute of its asset up.
    pub fn render<E>(
        &self,
        target: &Target,
        attribute: impl Fn(&str) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut item = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => item.push_str(literal),
                Piece::Field(Field::AssetType) => self.push(&target.asset_type, &mut item),
                Piece::Field(Field::AssetId) => self.push(&target.asset_id, &mut item),
                Piece::Field(Field::Action) => self.push(&target.action, &mut item),
                Piece::Field(Field::Attribute(name)) => self.push(&attribute(name)?, &mut item),
            }
        }
        Ok(item)
    }

    fn push(&self, value: &str, item: &mut String) {
        for character in value.chars() {
            if character == '%' || character.is_control() || self.encoded.contains(&character) {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a string can't fail.
                    let _ = write!(item, "%{byte:02X}");
                }
            } else {
                item.push(character);
            }
        }
    }
}

fn field(name: &str) -> Result<Field, TemplateError> {
    match name {
        "asset_type" => Ok(Field::AssetType),
        "asset_id" => Ok(Field::AssetId),
        "action" => Ok(Field::Action),
        other => match other.strip_prefix("attr.") {
            Some(name) if !name.is_empty() => Ok(Field::Attribute(name.to_owned())),
            _ => Err(TemplateError::UnknownPlaceholder(other.to_owned())),
        },
    }
}

/// Why a template can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A placeholder that does not exist.
    #[error(
        "`{{{{{0}}}}}` is no placeholder: use {{{{asset_type}}}}, {{{{asset_id}}}}, {{{{action}}}} or {{{{attr.NAME}}}}"
    )]
    UnknownPlaceholder(String),
    /// `{{` without `}}`.
    #[error("`{0}` has a `{{{{` without its `}}}}`")]
    Unclosed(String),
    /// The delimiter could be part of an escaped value.
    #[error(
        "the delimiter `{0}` has a `%`, a digit or a letter from A to F, which also stand in escaped values: use another, such as a comma"
    )]
    UnsafeDelimiter(String),
    /// A text between two placeholders could be part of an escaped value.
    #[error(
        "`{0}` between two placeholders could be part of an escaped value: add a character such as `:`"
    )]
    UnsafeSeparator(String),
    /// Every item would be the same.
    #[error("`{0}` has no placeholder: use {{{{asset_type}}}}, {{{{asset_id}}}} or {{{{action}}}}")]
    NoPlaceholder(String),
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: &str = "{{asset_type}}:{{asset_id}}:{{action}}";

    fn rendered(template: &Template, target: &Target) -> String {
        template.render(target, |name| Err(name.to_owned())).unwrap()
    }

    fn target(asset_type: &str, asset_id: &str, action: &str) -> Target {
        Target {
            asset_type: asset_type.to_owned(),
            asset_id: asset_id.to_owned(),
            action: action.to_owned(),
        }
    }

    #[test]
    fn writes_the_seed_example() {
        let template = Template::parse(DEFAULT, Some(",")).unwrap();
        assert_eq!(rendered(&template, &target("Accounts", "A1", "Read")), "Accounts:A1:Read");
    }

    #[test]
    fn no_value_can_forge_an_item() {
        let template = Template::parse(DEFAULT, Some(",")).unwrap();
        let forged = target("Account", "1:read,Account:2", "read");
        assert_eq!(rendered(&template, &forged), "Account:1%3Aread%2CAccount%3A2:read");
        assert_eq!(rendered(&template, &target("A", "50%,\n\u{85}", "r")), "A:50%25%2C%0A%C2%85:r");
        let words = Template::parse("ü{{asset_id}}or{{action}}", None).unwrap();
        assert_eq!(rendered(&words, &target("A", "roüx,", "do")), "ü%72%6F%C3%BCx,ord%6F");
    }

    #[test]
    fn bad_templates_say_what_to_do() {
        let error = |text, delimiter| Template::parse(text, delimiter).unwrap_err().to_string();
        assert!(error("{{asset}}", None).contains("{{asset_type}}"));
        assert!(error("{{action", None).contains("}}"));
        for delimiter in ["%", "5", "A;", ",0"] {
            assert!(error(DEFAULT, Some(delimiter)).contains("escaped"), "{delimiter}");
        }
        for separator in ["{{asset_id}}5{{action}}", "{{asset_id}}%AF{{action}}"] {
            assert!(error(separator, None).contains("escaped"), "{separator}");
        }
        for fine in [
            "5{{asset_id}}",
            "{{asset_id}}A",
            "{{asset_id}}5:{{action}}",
            "{{asset_id}}a{{action}}",
        ] {
            assert!(Template::parse(fine, Some("f")).is_ok(), "{fine}");
        }
        assert!(error("x", None).contains("no placeholder"));
    }

    proptest! {
        #[test]
        fn items_split_and_decode_back(
            values in prop::collection::vec(any::<(String, String, String)>(), 1..4),
            delimiter in "[,;|zé ]{1,2}",
        ) {
            let template = Template::parse(DEFAULT, Some(&delimiter)).unwrap();
            let claim = values
                .iter()
                .map(|(a, b, c)| rendered(&template, &target(a, b, c)))
                .collect::<Vec<_>>()
                .join(&delimiter);
            let decode = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
            let read: Vec<_> = claim
                .split(delimiter.as_str())
                .map(|item| {
                    let mut fields = item.split(':').map(decode);
                    (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap())
                })
                .collect();
            prop_assert_eq!(read, values);
        }
    }
}
