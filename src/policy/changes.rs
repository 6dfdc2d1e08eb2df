//! What a policy may change in a request, its response and its denial.
//!
//! A policy is the operator's own, and may still not touch what other promises rest on: the
//! decision header in any spelling, what frames a message, and what Envoy itself acts on. So
//! [`Mutations`] and [`CustomDenial`] come only out of their checks; a change that fails them is a
//! fault of the policy, and a fault denies.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Header names that no policy may set, add or remove beside those that HTTP and Envoy own.
#[derive(Clone, Debug, Default)]
pub struct Protected(BTreeSet<String>);

impl Protected {
    /// Protects `names`, in lower case.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(str::to_owned).collect())
    }

    /// The name in lower case, if a policy may touch it.
    fn admit(&self, name: &str) -> Result<String, ChangeFault> {
        let lower = name.to_ascii_lowercase();
        if http::HeaderName::try_from(&lower).is_err() {
            return Err(ChangeFault::Name(shown(name)));
        }
        if self.0.contains(&lower) || is_owned(&lower) {
            return Err(ChangeFault::Protected(lower));
        }
        Ok(lower)
    }

    fn admit_all(&self, headers: &mut [(String, String)]) -> Result<(), ChangeFault> {
        for (name, value) in headers {
            *name = self.admit(name)?;
            if !is_value(value) {
                return Err(ChangeFault::Value(name.clone()));
            }
        }
        Ok(())
    }
}

/// The changes a policy wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Request headers to set, in place of any the client sent.
    pub headers: Vec<(String, String)>,
    /// Request headers that must not travel upstream.
    pub remove_headers: Vec<String>,
    /// Headers to add to the response.
    pub response_headers: Vec<(String, String)>,
    /// Query parameters to set, not encoded.
    pub query: Vec<(String, String)>,
    /// Query parameters to remove, not encoded.
    pub remove_query: Vec<String>,
    /// Dynamic metadata for the proxy's later filters.
    pub metadata: Map<String, Value>,
}

/// Changes to a permitted request and its response, checked; header names are in lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mutations(Changes);

impl Mutations {
    /// Checks `changes`.
    ///
    /// # Errors
    /// When one touches a header that is not a policy's to touch, or is no HTTP.
    pub fn new(mut changes: Changes, protected: &Protected) -> Result<Self, ChangeFault> {
        protected.admit_all(&mut changes.headers)?;
        protected.admit_all(&mut changes.response_headers)?;
        for name in &mut changes.remove_headers {
            *name = protected.admit(name)?;
        }
        Ok(Self(changes))
    }

    /// The changes.
    pub fn changes(&self) -> &Changes {
        &self.0
    }
}

/// The answer a policy wants given to a denied request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The HTTP status, 300 to 599: a redirect is a denial too, a success is not.
    pub status: Option<u16>,
    /// Added to the answer.
    pub headers: Vec<(String, String)>,
    /// In place of the standard body.
    pub body: Option<String>,
    /// Dynamic metadata for the proxy's later filters.
    pub metadata: Map<String, Value>,
}

/// How a policy wants its no answered, checked; header names are in lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CustomDenial(Answer);

impl CustomDenial {
    /// Checks `answer`.
    ///
    /// # Errors
    /// When its status is none of a denial, or a header is not a policy's to set or is no HTTP.
    pub fn new(mut answer: Answer, protected: &Protected) -> Result<Self, ChangeFault> {
        if let Some(status) = answer.status.filter(|status| !is_denial(*status)) {
            return Err(ChangeFault::Status(status));
        }
        protected.admit_all(&mut answer.headers)?;
        Ok(Self(answer))
    }

    /// The answer.
    pub fn answer(&self) -> &Answer {
        &self.0
    }
}

/// Why a change is not a policy's to make.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChangeFault {
    /// No header name.
    #[error("`{0}` is not a header name")]
    Name(String),
    /// A header that is not a policy's to touch.
    #[error("the header `{0}` is not a policy's to change")]
    Protected(String),
    /// No header value. The value is not quoted: it may be a secret.
    #[error("the value of the header `{0}` is not one that HTTP allows")]
    Value(String),
    /// No status of a denial.
    #[error("`{0}` is not the status of a denial: use a known one from 300 to 599")]
    Status(u16),
}

/// Envoy refuses a status it has no name for.
fn is_denial(status: u16) -> bool {
    let is_named =
        http::StatusCode::from_u16(status).is_ok_and(|status| status.canonical_reason().is_some());
    (300..=599).contains(&status) && status != 418 && is_named
}

/// Headers that address or frame a message, belong to one connection, or tell Envoy what to do.
fn is_owned(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "connection"
            | "content-length"
            | "expect"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    ) || name.starts_with("x-envoy-")
}

fn is_value(text: &str) -> bool {
    http::HeaderValue::from_str(text).is_ok()
}

fn shown(name: &str) -> String {
    name.escape_debug().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    fn protected() -> Protected {
        Protected::new(["x-placet-decision", "x_placet_decision"])
    }

    #[test]
    fn what_is_not_a_policys_to_touch_is_refused_everywhere() {
        for name in [
            "x-placet-decision",
            "X-Placet-Decision",
            "x_placet_decision",
            "host",
            "Content-Length",
            "transfer-encoding",
            "connection",
            "x-envoy-original-path",
            ":path",
            ":authority",
            "",
            "a b",
            "a\r\nb",
            "é",
        ] {
            for changes in [
                Changes { headers: one(name, "1"), ..Changes::default() },
                Changes { response_headers: one(name, "1"), ..Changes::default() },
                Changes { remove_headers: vec![name.to_owned()], ..Changes::default() },
            ] {
                assert!(Mutations::new(changes, &protected()).is_err(), "{name:?}");
            }
            let answer = Answer { headers: one(name, "1"), ..Answer::default() };
            assert!(CustomDenial::new(answer, &protected()).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_value_that_splits_a_message_is_refused() {
        for value in ["a\r\nx: y", "a\n", "\0", "a\u{7f}"] {
            let changes = Changes { headers: one("x-a", value), ..Changes::default() };
            let fault = ChangeFault::Value("x-a".to_owned());
            assert_eq!(Mutations::new(changes, &protected()), Err(fault), "{value:?}");
        }
    }

    #[test]
    fn a_denial_has_the_status_of_one() {
        let status = |status| {
            CustomDenial::new(Answer { status: Some(status), ..Answer::default() }, &protected())
        };
        for good in [301, 302, 303, 307, 308, 400, 401, 403, 404, 429, 500, 503] {
            assert!(status(good).is_ok(), "{good}");
        }
        for bad in [0, 100, 200, 204, 299, 399, 418, 499, 599, 600, 999, u16::MAX] {
            assert_eq!(status(bad), Err(ChangeFault::Status(bad)), "{bad}");
        }
    }

    #[test]
    fn what_is_good_is_kept_with_its_names_folded() {
        let changes = Changes {
            headers: one("X-Role", "admin é"),
            remove_headers: vec!["Authorization".to_owned()],
            ..Changes::default()
        };
        let mutations = Mutations::new(changes, &protected()).unwrap();
        assert_eq!(mutations.changes().headers, one("x-role", "admin é"));
        assert_eq!(mutations.changes().remove_headers, ["authorization"]);
    }
}
