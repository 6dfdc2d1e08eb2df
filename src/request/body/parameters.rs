//! The parameters of a content type or a content disposition (RFC 9110 section 5.6.6), read strictly.
//!
//! A value in quotes that holds a `\` is refused: to some readers it escapes what follows, to others
//! it is a character like any other, and the value ends elsewhere.

/// Names, in lower case, with their values, in order.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Parameters(Vec<(String, String)>);

/// More than one parameter of a name that may come once.
pub(super) struct Doubled;

impl Parameters {
    /// Reads what follows the first `;`; `None` when it can't be read, or in more than one way.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_blank = |character| matches!(character, ' ' | '\t');
        let mut parameters = Vec::new();
        let mut rest = text;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ';']);
            if rest.is_empty() {
                return Some(Self(parameters));
            }
            let (name, after) = rest.split_once('=').filter(|(name, _)| is_token(name))?;
            let value;
            if let Some(quoted) = after.strip_prefix('"') {
                let (inner, after) = quoted.split_once('"')?;
                let after = after.trim_start_matches(is_blank);
                let is_plain = !inner.contains('\\') && !inner.contains(char::is_control);
                if !is_plain || !(after.is_empty() || after.starts_with(';')) {
                    return None;
                }
                (value, rest) = (inner, after);
            } else {
                let (token, after) = after.split_once(';').unwrap_or((after, ""));
                (value, rest) = (token.trim_end_matches(is_blank), after);
                if !is_token(value) {
                    return None;
                }
            }
            parameters.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// The one value of `name`.
    pub(super) fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, Doubled> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Doubled),
        }
    }

    /// Every value of `name`.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether no other character set than UTF-8 is named.
    pub(super) fn is_utf8(&self) -> bool {
        self.all("charset")
            .all(|name| name.eq_ignore_ascii_case("utf-8") || name.eq_ignore_ascii_case("utf8"))
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_read_in_one_way() {
        let read = |text| Parameters::parse(text).map(|Parameters(pairs)| pairs);
        let pairs = |pairs: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Some(pairs.iter().map(owned).collect::<Vec<_>>())
        };
        for (text, expected) in [
            ("", pairs(&[])),
            (" ; ;", pairs(&[])),
            (" A=b", pairs(&[("a", "b")])),
            ("a=b ; c=\"d; e=f\"\t;", pairs(&[("a", "b"), ("c", "d; e=f")])),
            ("a=\"\"", pairs(&[("a", "")])),
            ("a=1;A=2", pairs(&[("a", "1"), ("a", "2")])),
            ("name=\"é\"", pairs(&[("name", "é")])),
            ("a", None),
            ("=b", None),
            ("a =b", None),
            ("a= b", None),
            ("a=b c", None),
            ("a=", None),
            ("a=\"b", None),
            ("a=\"b\"c", None),
            (r#"a="b\"; c=d""#, None),
            ("a=é", None),
            ("a=\"\u{1}\"", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_comes_back(pairs in proptest::collection::vec(("[a-z*]{1,8}", r#"[^"\\\pC]{0,12}"#), 0..5)) {
            let text: String = pairs.iter().map(|(name, value)| format!("; {name}=\"{value}\"")).collect();
            prop_assert_eq!(Parameters::parse(&text), Some(Parameters(pairs)));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Parameters::parse(&text);
        }
    }
}
