//! The canonical path: one form for routes, policy and `htu`.
//!
//! Envoy hands over the request target as the client wrote it, and the application behind it may
//! decode it in its own way. A path that two readers could understand differently is therefore not
//! repaired but refused ([`BadPath`], HTTP 400). What remains has one form only: escapes of
//! unreserved characters are decoded, all other escapes are upper-case (RFC 3986 section 6.2.2),
//! nothing is trimmed and nothing is case-folded. Each refusal can be lifted singly, per scope,
//! where an application needs it ([`Allowances`]).

use std::fmt;

use percent_encoding::percent_decode_str;

/// What a scope accepts although it is ambiguous in general (`paths.allow`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Allowances {
    /// `%2F` within a segment.
    pub encoded_slash: bool,
    /// Empty segments: `//`.
    pub double_slash: bool,
    /// `;` within a segment.
    pub semicolon: bool,
    /// `%25` followed by two hexadecimal digits.
    pub double_encoding: bool,
}

/// A path in its one canonical form. It begins with `/` and holds visible ASCII only.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CanonicalPath(String);

impl CanonicalPath {
    /// Brings `raw`, a request target without its query, into canonical form.
    pub fn parse(raw: &str, allow: Allowances) -> Result<Self, BadPath> {
        let Some(rest) = raw.strip_prefix('/') else {
            return Err(if raw.is_empty() { BadPath::Empty } else { BadPath::NotAbsolute });
        };
        let mut canonical = String::with_capacity(raw.len());
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_some() && !allow.double_slash {
                return Err(BadPath::DoubleSlash);
            }
            canonical.push('/');
            let start = canonical.len();
            canonicalize(segment, allow, &mut canonical)?;
            let written = canonical.get(start..).unwrap_or_default();
            if has_escaped_escape(written) && !allow.double_encoding {
                return Err(BadPath::DoubleEncoding);
            }
            if has_dot_segment(written) {
                return Err(BadPath::DotSegment);
            }
        }
        Ok(Self(canonical))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments between the slashes, still escaped. `/` has one empty segment, `/a/` has two.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.strip_prefix('/').unwrap_or(&self.0).split('/')
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path has no canonical form.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPath {
    /// No path at all, as in a `CONNECT` request.
    #[error("the path is empty")]
    Empty,
    /// `*`, an absolute URI, or an authority.
    #[error("the request target does not begin with `/`")]
    NotAbsolute,
    /// `//`.
    #[error("the path has an empty segment (`//`)")]
    DoubleSlash,
    /// `.` or `..`, escaped or not.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// `%2F`.
    #[error("the path has an escaped slash (`%2F`)")]
    EncodedSlash,
    /// `\` or `%5C`.
    #[error("the path has a backslash")]
    Backslash,
    /// `%25` and two hexadecimal digits.
    #[error("the path has an escape that is escaped itself (`%25..`)")]
    DoubleEncoding,
    /// `;`.
    #[error("the path has a `;`")]
    Semicolon,
    /// `#`.
    #[error("the path has a `#`")]
    Fragment,
    /// A control character or a byte outside ASCII, raw or escaped.
    #[error("the path has a control or non-ASCII byte")]
    NotPrintable,
    /// `%` without two hexadecimal digits behind it.
    #[error("the path has a `%` without two hexadecimal digits")]
    BrokenEscape,
}

/// The fully decoded text of a canonical segment.
pub fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

fn canonicalize(segment: &str, allow: Allowances, out: &mut String) -> Result<(), BadPath> {
    let mut bytes = segment.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        bytes = rest;
        match byte {
            b'%' => {
                let [high, low, rest @ ..] = rest else { return Err(BadPath::BrokenEscape) };
                push_escape(hex(*high)? << 4 | hex(*low)?, allow, out)?;
                bytes = rest;
            }
            b'\\' => return Err(BadPath::Backslash),
            b';' if !allow.semicolon => return Err(BadPath::Semicolon),
            b'#' => return Err(BadPath::Fragment),
            byte if byte.is_ascii_graphic() => out.push(char::from(byte)),
            _ => return Err(BadPath::NotPrintable),
        }
    }
    Ok(())
}

/// Writes the escaped byte `value`.
fn push_escape(value: u8, allow: Allowances, out: &mut String) -> Result<(), BadPath> {
    match value {
        b'/' if !allow.encoded_slash => return Err(BadPath::EncodedSlash),
        b'\\' => return Err(BadPath::Backslash),
        _ if !value.is_ascii() || value.is_ascii_control() => return Err(BadPath::NotPrintable),
        _ => {}
    }
    if is_unreserved(value) {
        out.push(char::from(value));
    } else {
        out.push('%');
        for digit in [value >> 4, value & 0xF] {
            out.extend(char::from_digit(digit.into(), 16).map(|digit| digit.to_ascii_uppercase()));
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Result<u8, BadPath> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
        .ok_or(BadPath::BrokenEscape)
}

/// Whether decoding once leaves an escape. Asked of the canonical form: the digits behind a `%25`
/// may have been escaped themselves.
fn has_escaped_escape(canonical: &str) -> bool {
    let is_escape = |rest: &str| match rest.as_bytes() {
        [high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    };
    canonical.contains('%') && canonical.split("%25").skip(1).any(is_escape)
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a reader that decodes `%2F`, or drops what follows a `;`, could see a dot segment here.
fn has_dot_segment(segment: &str) -> bool {
    segment.contains('.')
        && segment
            .split("%2F")
            .map(|part| part.split([';']).next().unwrap_or(part))
            .map(|part| part.split("%3B").next().unwrap_or(part))
            .any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Allowances = Allowances {
        encoded_slash: true,
        double_slash: true,
        semicolon: true,
        double_encoding: true,
    };

    fn parse(raw: &str) -> Result<String, BadPath> {
        CanonicalPath::parse(raw, Allowances::default()).map(|path| path.0)
    }

    #[test]
    fn keeps_plain_paths_as_they_are() {
        for path in ["/", "/a", "/a/", "/A", "/a.b/..c/...", "/a-b_c~d", "/a:b@c!$&'()*+,=", "/%20"]
        {
            assert_eq!(parse(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn decodes_unreserved_escapes_and_raises_the_others() {
        assert_eq!(parse("/%61%2d%7E").as_deref(), Ok("/a-~"));
        assert_eq!(parse("/a%3ab%25x").as_deref(), Ok("/a%3Ab%25x"));
    }

    #[test]
    fn refuses_what_two_readers_could_understand_differently() {
        let cases = [
            ("", BadPath::Empty),
            ("*", BadPath::NotAbsolute),
            ("http://a/b", BadPath::NotAbsolute),
            ("//a", BadPath::DoubleSlash),
            ("/a//b", BadPath::DoubleSlash),
            ("/a//", BadPath::DoubleSlash),
            ("/.", BadPath::DotSegment),
            ("/a/..", BadPath::DotSegment),
            ("/a/../b", BadPath::DotSegment),
            ("/a/%2e%2E/b", BadPath::DotSegment),
            ("/a/.%2e/b", BadPath::DotSegment),
            ("/..%3Bx/b", BadPath::DotSegment),
            ("/a%2fb", BadPath::EncodedSlash),
            ("/a%2Fb", BadPath::EncodedSlash),
            ("/a\\b", BadPath::Backslash),
            ("/a%5cb", BadPath::Backslash),
            ("/%252e", BadPath::DoubleEncoding),
            ("/%25%32e", BadPath::DoubleEncoding),
            ("/%252%65", BadPath::DoubleEncoding),
            ("/%25%32%65%25%32%65/b", BadPath::DoubleEncoding),
            ("/a%25%41%42", BadPath::DoubleEncoding),
            ("/a;x=1", BadPath::Semicolon),
            ("/..;/b", BadPath::Semicolon),
            ("/a#f", BadPath::Fragment),
            ("/a\0", BadPath::NotPrintable),
            ("/a b", BadPath::NotPrintable),
            ("/a%00", BadPath::NotPrintable),
            ("/a%0d%0ab", BadPath::NotPrintable),
            ("/a%7f", BadPath::NotPrintable),
            ("/é", BadPath::NotPrintable),
            ("/%C3%A9", BadPath::NotPrintable),
            ("/%ff", BadPath::NotPrintable),
            ("/%", BadPath::BrokenEscape),
            ("/%2", BadPath::BrokenEscape),
            ("/%zz", BadPath::BrokenEscape),
        ];
        for (raw, expected) in cases {
            assert_eq!(parse(raw), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn each_allowance_lifts_one_refusal_only() {
        let cases = [
            ("/a%2fb", "/a%2Fb", Allowances { encoded_slash: true, ..Default::default() }),
            ("//a//", "//a//", Allowances { double_slash: true, ..Default::default() }),
            ("/a;x", "/a;x", Allowances { semicolon: true, ..Default::default() }),
            ("/%252e", "/%252e", Allowances { double_encoding: true, ..Default::default() }),
        ];
        for (raw, canonical, allow) in cases {
            assert_eq!(CanonicalPath::parse(raw, allow).unwrap().as_str(), canonical);
            for (other, _, _) in cases.iter().filter(|(other, ..)| *other != raw) {
                assert!(CanonicalPath::parse(other, allow).is_err(), "{other} with {allow:?}");
            }
        }
        for raw in ["/a%2f..%2fb", "/..;x/b", "/..%2f", "/.;", "/a%5cb"] {
            assert!(CanonicalPath::parse(raw, ALL).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_trailing_slash_is_a_segment() {
        let segments = |raw| {
            let path = CanonicalPath::parse(raw, ALL).unwrap();
            path.segments().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(segments("/"), [""]);
        assert_eq!(segments("/a"), ["a"]);
        assert_eq!(segments("/a/"), ["a", ""]);
        assert_eq!(segments("//a"), ["", "a"]);
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_a_fixed_point(raw in "/([a-zA-Z0-9./;\\\\]|%25|%2[eEfF0]|%3[0-9]|%){0,12}") {
            for allow in [Allowances::default(), ALL] {
                if let Ok(path) = CanonicalPath::parse(&raw, allow) {
                    prop_assert_eq!(&CanonicalPath::parse(path.as_str(), allow).unwrap(), &path);
                }
            }
        }

        #[test]
        fn nothing_unsafe_survives(raw in any::<String>()) {
            if let Ok(path) = CanonicalPath::parse(&raw, Allowances::default()) {
                prop_assert!(path.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                for segment in path.segments() {
                    let text = decoded(segment);
                    prop_assert!(text != "." && text != ".." && !text.contains(['/', '\\', '\0']));
                }
            }
        }
    }
}
