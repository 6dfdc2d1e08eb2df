//! Which trace a call belongs to, as header fields say it.
//!
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/) comes first, then
//! [B3](https://github.com/openzipkin/b3-propagation) in one field, then B3 in several. A field that is
//! there twice, or is not exactly what its specification has, says nothing.

use std::fmt;

use aws_lc_rs::rand;

/// The id of a trace.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct TraceId([u8; 16]);

/// The id of a span within a trace.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct SpanId([u8; 8]);

macro_rules! id {
    ($name:ident, $bytes:literal) => {
        impl $name {
            /// A new one; `None` if the system has no randomness.
            pub fn random() -> Option<Self> {
                let mut bytes = [0; $bytes];
                rand::fill(&mut bytes).ok()?;
                Self::of(bytes)
            }

            /// Zeros are no id.
            pub(super) fn of(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            fn parse(hex: &str) -> Option<Self> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(hex, &mut bytes).ok()?;
                Self::of(bytes)
            }

            /// Its bytes, as OTLP has them.
            pub const fn bytes(self) -> [u8; $bytes] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; 2 * $bytes];
                hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
                f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(TraceId, 16);
id!(SpanId, 8);

/// What a caller says of its trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Incoming {
    /// It has one.
    Within {
        /// The trace.
        trace: TraceId,
        /// The caller's span in it.
        span: SpanId,
        /// Whether it is sampled; `None`: that is left to us (B3 only).
        sampled: Option<bool>,
    },
    /// It has none, and says whether there should be one (B3 only).
    Asked(bool),
}

impl Incoming {
    /// What `fields`, with names in lower case, say.
    pub fn among<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Option<Self> {
        let mut found = Fields::default();
        for (name, value) in fields {
            match name {
                b"traceparent" => found.traceparent.note(value),
                b"b3" => found.b3.note(value),
                b"x-b3-traceid" => found.trace.note(value),
                b"x-b3-spanid" => found.span.note(value),
                b"x-b3-sampled" => found.sampled.note(value),
                b"x-b3-flags" => found.flags.note(value),
                _ => {}
            }
        }
        found.traceparent().or_else(|| found.b3()).or_else(|| found.several())
    }
}

/// The value of a field that may be there once.
#[derive(Clone, Copy, Default)]
enum Once<'a> {
    #[default]
    Absent,
    One(&'a [u8]),
    Several,
}

impl<'a> Once<'a> {
    fn note(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::One(value),
            Self::One(_) | Self::Several => Self::Several,
        };
    }

    fn text(self) -> Option<&'a str> {
        match self {
            Self::One(value) => str::from_utf8(value).ok(),
            Self::Absent | Self::Several => None,
        }
    }
}

#[derive(Default)]
struct Fields<'a> {
    traceparent: Once<'a>,
    b3: Once<'a>,
    trace: Once<'a>,
    span: Once<'a>,
    sampled: Once<'a>,
    flags: Once<'a>,
}

impl Fields<'_> {
    /// `version-trace-parent-flags`; a later version may have more after that (section 3.2).
    fn traceparent(&self) -> Option<Incoming> {
        let text = self.traceparent.text()?;
        // Only lower-case digits are allowed, other than in B3.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let mut parts = text.split('-');
        let (version, trace) = (octet(parts.next()?)?, TraceId::parse(parts.next()?)?);
        let (span, flags) = (SpanId::parse(parts.next()?)?, octet(parts.next()?)?);
        let has_more = parts.next().is_some();
        let is_known = version != 0xff && !(version == 0 && has_more);
        is_known.then_some(Incoming::Within { trace, span, sampled: Some(flags & 1 == 1) })
    }

    /// `trace-span-sampled-parent`, of which the last two may be left out; or only `sampled`.
    fn b3(&self) -> Option<Incoming> {
        let text = self.b3.text()?;
        let mut parts = text.split('-');
        let first = parts.next()?;
        let Some(span) = parts.next() else { return sampled(first).map(Incoming::Asked) };
        let sampled = match parts.next() {
            Some(text) => Some(sampled(text)?),
            None => None,
        };
        if parts.next().is_some_and(|parent| SpanId::parse(parent).is_none())
            || parts.next().is_some()
        {
            return None;
        }
        within(first, span, sampled)
    }

    fn several(&self) -> Option<Incoming> {
        let is_debug = self.flags.text() == Some("1");
        let sampled = match self.sampled {
            Once::Absent => is_debug.then_some(true),
            _ => Some(is_debug || sampled(self.sampled.text()?)?),
        };
        match (self.trace, self.span) {
            (Once::Absent, Once::Absent) => sampled.map(Incoming::Asked),
            _ => within(self.trace.text()?, self.span.text()?, sampled),
        }
    }
}

/// B3's ids: a trace's may have half its length.
fn within(trace: &str, span: &str, sampled: Option<bool>) -> Option<Incoming> {
    let trace = match trace.len() {
        16 => TraceId::parse(&format!("{:016}{trace}", 0))?,
        _ => TraceId::parse(trace)?,
    };
    Some(Incoming::Within { trace, span: SpanId::parse(span)?, sampled })
}

/// B3's word for it; `d` is debug, `true` and `false` are older.
fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn octet(text: &str) -> Option<u8> {
    let mut byte = [0];
    hex::decode_to_slice(text, &mut byte).ok()?;
    let [byte] = byte;
    Some(byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn among(fields: &[(&str, &str)]) -> Option<Incoming> {
        Incoming::among(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    fn expected(sampled: Option<bool>) -> Option<Incoming> {
        let (trace, span) = (TraceId::parse(TRACE).unwrap(), SpanId::parse(SPAN).unwrap());
        Some(Incoming::Within { trace, span, sampled })
    }

    #[test]
    fn each_form_is_read() {
        let of = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("fe", false)] {
            assert_eq!(among(&[("traceparent", &of(flags))]), expected(Some(sampled)), "{flags}");
        }
        let later = format!("cc-{TRACE}-{SPAN}-01-what-comes");
        assert_eq!(among(&[("traceparent", &later)]), expected(Some(true)));
        for (end, sampled) in [
            ("", None),
            ("-1", Some(true)),
            ("-d", Some(true)),
            ("-0", Some(false)),
            ("-1-05e3ac9a4f6e3b90", Some(true)),
        ] {
            assert_eq!(among(&[("b3", &format!("{TRACE}-{SPAN}{end}"))]), expected(sampled));
        }
        let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
        for (field, sampled) in [
            (("x-b3-sampled", "1"), Some(true)),
            (("x-b3-sampled", "false"), Some(false)),
            (("x-b3-flags", "1"), Some(true)),
            (("x-b3-flags", "0"), None),
            (("x-other", "1"), None),
        ] {
            assert_eq!(among(&[ids[0], ids[1], field]), expected(sampled), "{field:?}");
        }
    }

    #[test]
    fn b3_may_only_ask() {
        assert_eq!(among(&[("b3", "0")]), Some(Incoming::Asked(false)));
        assert_eq!(among(&[("b3", "d")]), Some(Incoming::Asked(true)));
        assert_eq!(among(&[("x-b3-sampled", "0")]), Some(Incoming::Asked(false)));
        assert_eq!(among(&[("x-b3-flags", "1")]), Some(Incoming::Asked(true)));
    }

    #[test]
    fn half_a_trace_id_is_one_with_zeros_before_it() {
        let Some(Incoming::Within { trace, .. }) =
            among(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1")])
        else {
            panic!("no trace")
        };
        assert_eq!(trace.to_string(), "0000000000000000a3ce929d0e0e4736");
    }

    #[test]
    fn the_first_that_holds_counts() {
        let (w3c, other) = (format!("00-{TRACE}-{SPAN}-01"), format!("{SPAN}-{SPAN}-0"));
        assert_eq!(among(&[("b3", &other), ("traceparent", &w3c)]), expected(Some(true)));
        let b3 = format!("{TRACE}-{SPAN}-0");
        for bad in ["", "00", "garbage"] {
            assert_eq!(among(&[("traceparent", bad), ("b3", &b3)]), expected(Some(false)));
        }
    }

    #[test]
    fn what_is_not_exactly_so_says_nothing() {
        let zeros = "0".repeat(32);
        for bad in [
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!(" 00-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(among(&[("traceparent", &bad)]), None, "{bad}");
        }
        let w3c = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(among(&[("traceparent", &w3c), ("traceparent", &w3c)]), None, "twice");
        for bad in ["", "x", &format!("{TRACE}-{SPAN}-x"), &format!("{TRACE}-{SPAN}-1-x"), TRACE] {
            assert_eq!(among(&[("b3", bad)]), None, "{bad}");
        }
        assert_eq!(among(&[("x-b3-traceid", TRACE)]), None);
        assert_eq!(
            among(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "x")]),
            None
        );
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read_or_passed_over(
            name in "(traceparent|b3|x-b3-(traceid|spanid|sampled|flags))",
            value in "[0-9a-fA-F,d-]{0,70}|.{0,70}",
        ) {
            let _ = among(&[(&name, &value)]);
        }

        #[test]
        fn what_is_written_is_read(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in any::<u8>()) {
            let text = format!("00-{}-{}-{flags:02x}", hex::encode(trace), hex::encode(span));
            let expected = TraceId::of(trace).zip(SpanId::of(span)).map(|(trace, span)| {
                Incoming::Within { trace, span, sampled: Some(flags & 1 == 1) }
            });
            prop_assert_eq!(among(&[("traceparent", &text)]), expected);
        }
    }
}
