//! Where a credential stands: header fields and cookies.
//!
//! The first place that is present decides, and it must hold exactly one value. A proxy joins
//! repeated fields with a comma (Envoy does so for cookies too), so a comma counts as a repetition:
//! otherwise we would judge one of two tokens and the upstream might believe the other.

use super::refusal::BadToken;
use super::settings::{IssuerSettings, Place};
use crate::request::Headers;

/// Every place any issuer reads, in order of first mention.
#[derive(Debug)]
pub(super) struct Places(Vec<Source>);

/// One header field or cookie, and who reads it.
#[derive(Debug)]
enum Source {
    /// A prefix and its readers each; the first prefix that fits is taken.
    Header {
        name: String,
        prefixes: Vec<(String, Vec<usize>)>,
    },
    Cookie {
        name: String,
        readers: Vec<usize>,
    },
}

/// A token as it was presented, and the issuers (by index) that read its place.
#[derive(Debug)]
pub(super) struct Credential<'a> {
    pub(super) token: &'a str,
    pub(super) readers: &'a [usize],
}

impl Places {
    pub(super) fn new(issuers: &[IssuerSettings]) -> Self {
        let mut places = Self(Vec::new());
        for (reader, settings) in issuers.iter().enumerate() {
            for place in &settings.from {
                places.add(place, reader);
            }
        }
        places
    }

    /// What the first place present in `headers` holds; none when no place is present.
    pub(super) fn find<'a>(
        &'a self,
        headers: &'a Headers,
    ) -> Result<Option<Credential<'a>>, BadToken> {
        self.0.iter().find_map(|source| source.read(headers).transpose()).transpose()
    }

    fn add(&mut self, place: &Place, reader: usize) {
        match place {
            Place::Header { name, prefix } => {
                let name = name.to_ascii_lowercase();
                let known = self.0.iter_mut().find_map(|source| match source {
                    Source::Header { name: known, prefixes } if *known == name => Some(prefixes),
                    _ => None,
                });
                match known {
                    Some(prefixes) => add_reader(prefixes, prefix, reader),
                    None => {
                        let prefixes = vec![(prefix.clone(), vec![reader])];
                        self.0.push(Source::Header { name, prefixes });
                    }
                }
            }
            Place::Cookie { name } => {
                let known = self.0.iter_mut().find_map(|source| match source {
                    Source::Cookie { name: known, readers } if known == name => Some(readers),
                    _ => None,
                });
                match known {
                    Some(readers) => readers.push(reader),
                    None => {
                        let (name, readers) = (name.clone(), vec![reader]);
                        self.0.push(Source::Cookie { name, readers });
                    }
                }
            }
        }
    }
}

impl Source {
    fn read<'a>(&'a self, headers: &'a Headers) -> Result<Option<Credential<'a>>, BadToken> {
        match self {
            Self::Header { name, prefixes } => {
                let Some(value) = self.only(headers.all(name))? else { return Ok(None) };
                let (token, readers) = prefixes
                    .iter()
                    .find_map(|(prefix, readers)| Some((after(prefix, value)?, readers)))
                    .ok_or_else(|| BadToken::Prefix { place: self.place() })?;
                Ok(Some(Credential { token, readers }))
            }
            Self::Cookie { name, readers } => {
                let pairs =
                    headers.all("cookie").flat_map(|line| line.split(|&b| b == b';' || b == b','));
                let values = pairs.filter_map(|pair| cookie_value(pair, name.as_bytes()));
                let token = self.only(values)?;
                Ok(token.map(|token| Credential { token, readers }))
            }
        }
    }

    /// The single one of `values`, as text without a comma.
    fn only<'a>(
        &self,
        mut values: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<&'a str>, BadToken> {
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() || value.contains(&b',') {
            return Err(BadToken::Repeated { place: self.place() });
        }
        if value.is_empty() {
            return Err(BadToken::Empty { place: self.place() });
        }
        let text = std::str::from_utf8(value);
        text.map(Some).map_err(|_| BadToken::NotText { place: self.place() })
    }

    fn place(&self) -> Place {
        match self {
            Self::Header { name, .. } => {
                Place::Header { name: name.clone(), prefix: String::new() }
            }
            Self::Cookie { name, .. } => Place::Cookie { name: name.clone() },
        }
    }
}

fn add_reader(prefixes: &mut Vec<(String, Vec<usize>)>, prefix: &str, reader: usize) {
    match prefixes.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(prefix)) {
        Some((_, readers)) => readers.push(reader),
        None => prefixes.push((prefix.to_owned(), vec![reader])),
    }
}

/// The rest of `value` after `prefix`, whose case does not matter (RFC 9110 section 11.1).
fn after<'a>(prefix: &str, value: &'a str) -> Option<&'a str> {
    let (head, rest) = value.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The value of the cookie-pair `pair` if it is named `name`. Without `=` it has the name and no
/// value, so that it still counts as present.
fn cookie_value<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut halves = pair.splitn(2, |&b| b == b'=');
    let key = halves.next()?.trim_ascii();
    (key == name).then(|| halves.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixture;

    fn header(name: &str, prefix: &str) -> Place {
        Place::Header { name: name.to_owned(), prefix: prefix.to_owned() }
    }

    fn cookie(name: &str) -> Place {
        Place::Cookie { name: name.to_owned() }
    }

    /// Where an issuer each reads from `places`, what `fields` hold: token and readers, or a cause.
    fn find(
        places: &[Vec<Place>],
        fields: &[(&str, &[u8])],
    ) -> Result<Option<(String, Vec<usize>)>, BadToken> {
        let issuers: Vec<_> = places
            .iter()
            .map(|from| IssuerSettings {
                from: from.clone(),
                ..fixture::issuer("https://a.example")
            })
            .collect();
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name, *value);
        }
        let places = Places::new(&issuers);
        let found = places.find(&headers)?;
        Ok(found.map(|found| (found.token.to_owned(), found.readers.to_vec())))
    }

    fn token(token: &str, readers: &[usize]) -> Result<Option<(String, Vec<usize>)>, BadToken> {
        Ok(Some((token.to_owned(), readers.to_vec())))
    }

    #[test]
    fn a_header_holds_a_token_behind_its_prefix() {
        let bearer = [vec![header("Authorization", "Bearer ")]];
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let value = format!("{scheme} abc");
            assert_eq!(find(&bearer, &[("Authorization", value.as_bytes())]), token("abc", &[0]));
        }
        assert_eq!(find(&bearer, &[]), Ok(None));
        assert_eq!(find(&bearer, &[("x-authorization", b"Bearer abc")]), Ok(None));
        // Nothing is trimmed: a second space is the token's, which is then no token.
        assert_eq!(find(&bearer, &[("authorization", b"Bearer  abc")]), token(" abc", &[0]));
        assert_eq!(find(&bearer, &[("authorization", b"Bearer abc ")]), token("abc ", &[0]));
    }

    #[test]
    fn a_header_that_holds_something_else_is_bad() {
        let bearer = [vec![header("authorization", "Bearer ")]];
        let place = || header("authorization", "");
        for value in
            ["Basic YTpi", "Bearer", "Bearer\tabc", " Bearer abc", "Bear", "Bearerabc", "é"]
        {
            let found = find(&bearer, &[("authorization", value.as_bytes())]);
            assert_eq!(found, Err(BadToken::Prefix { place: place() }), "{value}");
        }
        let found = find(&bearer, &[("authorization", b"")]);
        assert_eq!(found, Err(BadToken::Empty { place: place() }));
        let found = find(&bearer, &[("authorization", b"Bearer \xff")]);
        assert_eq!(found, Err(BadToken::NotText { place: place() }));
    }

    #[test]
    fn a_place_present_twice_is_bad() {
        let bearer = [vec![header("authorization", "Bearer ")]];
        let repeated = || Err(BadToken::Repeated { place: header("authorization", "") });
        let (a, b): (&[u8], &[u8]) = (b"Bearer a", b"Bearer b");
        assert_eq!(find(&bearer, &[("authorization", a), ("Authorization", b)]), repeated());
        assert_eq!(find(&bearer, &[("authorization", a), ("authorization", a)]), repeated());
        assert_eq!(find(&bearer, &[("authorization", b"Bearer a,Bearer b")]), repeated());
        assert_eq!(find(&bearer, &[("authorization", b"Bearer a,")]), repeated());
        assert_eq!(find(&bearer, &[("authorization", a), ("x-other", b)]), token("a", &[0]));
    }

    #[test]
    fn a_cookie_is_found_on_any_line_but_only_once() {
        let session = [vec![cookie("session")]];
        let repeated = || Err(BadToken::Repeated { place: cookie("session") });
        for line in [
            "session=t",
            "a=1; session=t",
            "a=1;session=t;b=2",
            "a=1,session=t",
            "a; session=t",
            "Session=x; session=t",
        ] {
            assert_eq!(find(&session, &[("cookie", line.as_bytes())]), token("t", &[0]), "{line}");
        }
        for line in [
            "session=t; session=t",
            "session=t,session=u",
            "session=t; session",
            "session =t;\tsession=u",
        ] {
            assert_eq!(find(&session, &[("cookie", line.as_bytes())]), repeated(), "{line}");
        }
        assert_eq!(
            find(&session, &[("cookie", b"session=t"), ("cookie", b"session=u")]),
            repeated()
        );
        assert_eq!(
            find(&session, &[("cookie", b"a=1"), ("cookie", b"session=u")]),
            token("u", &[0])
        );
        for line in ["a=1", "sessions=t", "xsession=t", "a=session=t", ""] {
            assert_eq!(find(&session, &[("cookie", line.as_bytes())]), Ok(None), "{line}");
        }
        let empty = || Err(BadToken::Empty { place: cookie("session") });
        assert_eq!(find(&session, &[("cookie", b"session=")]), empty());
        assert_eq!(find(&session, &[("cookie", b"session")]), empty());
        let found = find(&session, &[("cookie", b"session=\xff")]);
        assert_eq!(found, Err(BadToken::NotText { place: cookie("session") }));
        assert_eq!(find(&session, &[("cookie", b"a=\xff; session=t")]), token("t", &[0]));
    }

    #[test]
    fn the_first_place_present_decides() {
        let both = [vec![header("authorization", "Bearer "), cookie("session")]];
        let (bearer, basic): (&[u8], &[u8]) = (b"Bearer a", b"Basic a");
        let session = ("cookie", b"session=s".as_slice());
        assert_eq!(find(&both, &[session, ("authorization", bearer)]), token("a", &[0]));
        assert_eq!(find(&both, &[session]), token("s", &[0]));
        let found = find(&both, &[session, ("authorization", basic)]);
        assert_eq!(found, Err(BadToken::Prefix { place: header("authorization", "") }));
    }

    #[test]
    fn each_issuer_has_its_own_cookie() {
        let places = [vec![cookie("a")], vec![cookie("b")]];
        assert_eq!(find(&places, &[("cookie", b"a=s")]), token("s", &[0]));
        assert_eq!(find(&places, &[("cookie", b"b=s")]), token("s", &[1]));
    }

    #[test]
    fn issuers_share_places() {
        let places = [
            vec![header("authorization", "Bearer "), cookie("session")],
            vec![header("Authorization", "bearer "), header("authorization", "DPoP ")],
            vec![cookie("session"), header("x-token", "")],
        ];
        assert_eq!(find(&places, &[("authorization", b"Bearer a")]), token("a", &[0, 1]));
        assert_eq!(find(&places, &[("authorization", b"dpop a")]), token("a", &[1]));
        assert_eq!(find(&places, &[("cookie", b"session=s")]), token("s", &[0, 2]));
        assert_eq!(find(&places, &[("x-token", b"Bearer x")]), token("Bearer x", &[2]));
    }
}
