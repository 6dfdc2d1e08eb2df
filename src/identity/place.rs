//! Where a credential stands: header fields, cookies and query parameters.
//!
//! The first place that is present decides, and it must hold exactly one value. A proxy joins
//! repeated fields with a comma (Envoy does so for cookies too), so a comma counts as a repetition:
//! otherwise we would judge one of two tokens and the upstream might believe the other.

use std::borrow::Cow;
use std::collections::BTreeSet;

use percent_encoding::percent_decode;

use super::refusal::BadToken;
use super::settings::{IdentitySettings, Place};
use crate::request::{Reads, Request};

/// Every place that anyone reads, in order of first mention.
#[derive(Debug)]
pub(super) struct Places(Vec<Source>);

/// Who reads the credentials of a place that have one prefix.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// No other readers have it.
    pub(super) number: usize,
    /// By their index.
    pub(super) issuers: BTreeSet<usize>,
    pub(super) api_keys: bool,
}

/// Who is to read a place.
#[derive(Clone, Copy)]
enum Reader {
    /// The issuer of this index.
    Issuer(usize),
    ApiKeys,
}

/// One header field, cookie or query parameter, and who reads it: for a prefix and its readers each;
/// the first prefix that fits is taken. Only headers have prefixes.
#[derive(Debug)]
struct Source {
    place: Place,
    prefixes: Vec<(String, Readers)>,
}

/// A credential as it was presented, and the readers of its place.
#[derive(Debug)]
pub(super) struct Credential<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) readers: &'a Readers,
}

impl Places {
    /// The issuers' places in their order, then that of the API keys.
    pub(super) fn new(settings: &IdentitySettings) -> Self {
        let mut places = Self(Vec::new());
        for (index, issuer) in settings.issuers.iter().enumerate() {
            for place in &issuer.from {
                places.add(place, Reader::Issuer(index));
            }
        }
        if let Some(keys) = &settings.api_keys {
            places.add(&keys.place, Reader::ApiKeys);
        }
        places
    }

    /// What the first place present in `request` holds; none when no place is present.
    pub(super) fn find<'a>(
        &'a self,
        request: &'a Request,
    ) -> Result<Option<Credential<'a>>, BadToken> {
        self.0.iter().find_map(|source| source.read(request).transpose()).transpose()
    }

    /// What of a request is read.
    pub(super) fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        for source in &self.0 {
            match &source.place {
                Place::Header { name, .. } => drop(reads.headers.insert(name.to_ascii_lowercase())),
                Place::Cookie { .. } => drop(reads.headers.insert("cookie".to_owned())),
                Place::Query { .. } => reads.query = true,
            }
        }
        reads
    }

    fn add(&mut self, place: &Place, reader: Reader) {
        let (bare, prefix) = place.bare();
        let number = self.0.iter().map(|source| source.prefixes.len()).sum();
        match self.0.iter_mut().find(|source| source.place == bare) {
            Some(source) => source.add(prefix, number, reader),
            None => {
                let mut source = Source { place: bare, prefixes: Vec::new() };
                source.add(prefix, number, reader);
                self.0.push(source);
            }
        }
    }
}

impl Readers {
    fn add(&mut self, reader: Reader) {
        match reader {
            Reader::Issuer(index) => drop(self.issuers.insert(index)),
            Reader::ApiKeys => self.api_keys = true,
        }
    }
}

impl Source {
    /// Adds a reader of credentials with `prefix`, whose readers get `number` if it is their first.
    fn add(&mut self, prefix: &str, number: usize, reader: Reader) {
        let known = self.prefixes.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(prefix));
        match known {
            Some((_, readers)) => readers.add(reader),
            None => {
                let mut readers = Readers { number, ..Readers::default() };
                readers.add(reader);
                self.prefixes.push((prefix.to_owned(), readers));
            }
        }
    }

    fn read<'a>(&'a self, request: &'a Request) -> Result<Option<Credential<'a>>, BadToken> {
        let value = match &self.place {
            Place::Header { name, .. } => {
                only(&self.place, request.headers.all(name).map(Cow::Borrowed))?
            }
            Place::Cookie { name } => {
                let lines = request.headers.all("cookie");
                let pairs = lines.flat_map(|line| line.split(|&b| b == b';' || b == b','));
                let values = pairs.filter_map(|pair| cookie_value(pair, name.as_bytes()));
                only(&self.place, values.map(Cow::Borrowed))?
            }
            Place::Query { name } => {
                // Some servers part at `;` too: what they would see must not differ.
                let pairs = request.raw_query().split(['&', ';']);
                only(&self.place, pairs.filter_map(|pair| query_value(pair, name)))?
            }
        };
        let Some(value) = value else { return Ok(None) };
        let found = self.prefixes.iter().find_map(|(prefix, readers)| {
            Some(Credential { text: after(prefix, &value)?, readers })
        });
        found.map(Some).ok_or_else(|| BadToken::Prefix { place: self.place.clone() })
    }
}

/// The single one of `values`, which stand at `place`, as text without a comma.
pub(super) fn only<'a>(
    place: &Place,
    mut values: impl Iterator<Item = Cow<'a, [u8]>>,
) -> Result<Option<Cow<'a, str>>, BadToken> {
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || value.contains(&b',') {
        return Err(BadToken::Repeated { place: place.clone() });
    }
    if value.is_empty() {
        return Err(BadToken::Empty { place: place.clone() });
    }
    let text = match value {
        Cow::Borrowed(bytes) => str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    text.map(Some).ok_or_else(|| BadToken::NotText { place: place.clone() })
}

/// The rest of `value` after `prefix`, whose case does not matter (RFC 9110 section 11.1).
fn after<'a>(prefix: &str, value: &Cow<'a, str>) -> Option<Cow<'a, str>> {
    match value {
        Cow::Borrowed(value) => {
            let (head, rest) = value.split_at_checked(prefix.len())?;
            head.eq_ignore_ascii_case(prefix).then_some(Cow::Borrowed(rest))
        }
        Cow::Owned(value) => {
            let (head, rest) = value.split_at_checked(prefix.len())?;
            head.eq_ignore_ascii_case(prefix).then(|| Cow::Owned(rest.to_owned()))
        }
    }
}

/// The value of the cookie-pair `pair` if it is named `name`. Without `=` it has the name and no
/// value, so that it still counts as present.
fn cookie_value<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut halves = pair.splitn(2, |&b| b == b'=');
    let key = halves.next()?.trim_ascii();
    (key == name).then(|| halves.next().unwrap_or_default())
}

/// The decoded value of the query's `pair` if its decoded name is `name`: a name in another spelling
/// is the same name to whoever reads it next.
fn query_value<'a>(pair: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let key: Cow<'_, [u8]> = percent_decode(key.as_bytes()).into();
    (*key == *name.as_bytes()).then(|| percent_decode(value.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::fixture;
    use crate::identity::settings::IssuerSettings;

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
        let mut request = Request::default();
        for (name, value) in fields {
            request.headers.push(name, *value);
        }
        find_in(places, &request)
    }

    fn find_in(
        places: &[Vec<Place>],
        request: &Request,
    ) -> Result<Option<(String, Vec<usize>)>, BadToken> {
        let issuers = places.iter().map(|from| IssuerSettings {
            from: from.clone(),
            ..fixture::issuer("https://a.example")
        });
        let settings = IdentitySettings { issuers: issuers.collect(), ..fixture::settings() };
        let places = Places::new(&settings);
        let found = places.find(request)?;
        Ok(found.map(|found| {
            assert!(!found.readers.api_keys);
            (found.text.into_owned(), found.readers.issuers.iter().copied().collect())
        }))
    }

    fn find_query(name: &str, query: &str) -> Result<Option<(String, Vec<usize>)>, BadToken> {
        let place = Place::Query { name: name.to_owned() };
        let request = Request { target: format!("/a?{query}"), ..Request::default() };
        find_in(&[vec![place]], &request)
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
    #[test]
    fn a_query_parameter_is_found_once_under_any_spelling_of_its_name() {
        let place = || Place::Query { name: "access_token".to_owned() };
        let find = |query| find_query("access_token", query);
        for query in [
            "access_token=t",
            "a=1&access_token=t&b=2",
            "access%5Ftoken=t",
            "%61ccess_token=%74",
            "Access_token=x&access_token=t",
            "a=access_token=x&access_token=t",
            "a=1;access_token=t",
        ] {
            assert_eq!(find(query), token("t", &[0]), "{query}");
        }
        for query in
            ["", "a=1", "Access_token=t", "access_tokens=t", "access_token%20=t", "a=access_token"]
        {
            assert_eq!(find(query), Ok(None), "{query}");
        }
        for query in [
            "access_token=t&access_token=t",
            "access_token=t&access%5ftoken=u",
            "access_token=t;access_token=u",
            "access_token&access_token=t",
            "access_token=t,u",
            "access_token=t%2Cu",
        ] {
            assert_eq!(find(query), Err(BadToken::Repeated { place: place() }), "{query}");
        }
        for query in ["access_token=", "access_token", "access_token&a=1"] {
            assert_eq!(find(query), Err(BadToken::Empty { place: place() }), "{query}");
        }
        assert_eq!(find("access_token=%ff"), Err(BadToken::NotText { place: place() }));
        // A plus is a plus: a form's decoding would make a space of it.
        assert_eq!(find("access_token=a+b%3D"), token("a+b=", &[0]));
    }

    #[test]
    fn a_header_comes_before_a_query_where_it_is_named_first() {
        let query = Place::Query { name: "access_token".to_owned() };
        let places = [vec![header("authorization", "Bearer "), query]];
        let mut request = Request { target: "/?access_token=q".to_owned(), ..Request::default() };
        assert_eq!(find_in(&places, &request), token("q", &[0]));
        request.headers.push("authorization", "Bearer h");
        assert_eq!(find_in(&places, &request), token("h", &[0]));
    }

    proptest! {
        #[test]
        fn what_stands_once_in_a_query_is_read_back_exactly(
            value in "[!-~&&[^,]]{1,40}",
            before in "[a-z=;&]{0,10}",
        ) {
            let all = percent_encoding::NON_ALPHANUMERIC;
            let encoded = percent_encoding::utf8_percent_encode(&value, all);
            let query = format!("{before}&T={encoded}");
            prop_assert_eq!(find_query("T", &query), token(&value, &[0]));
            let twice = format!("{query}&T={encoded}");
            prop_assert!(find_query("T", &twice).is_err());
        }
    }
}
