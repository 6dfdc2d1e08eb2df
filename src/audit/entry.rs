//! What is recorded of a decision: the first time, and each time that it is used again.
//!
//! Then its line is the first one, but for the few values that differ between requests that are decided the
//! same. Where these stand is looked for when it is used again for the first time. What can't be written is no line:
//! it counts as dropped, and never says of one request what was true of another.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write as _;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::record::Record;
use super::shape::{Covered, Shape};
use crate::clock::Timestamp;
use crate::json;
use crate::trace::Trace;

/// What is recorded of a decision.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub(super) counter: Counter,
    /// `None` where there is no log, no use of it, or it can't be written.
    pub(super) line: Option<Line>,
    /// Whether the decision has its line in the log, where not all allows have.
    pub(super) is_taken: bool,
    /// The decision's own id, where not all allows are logged.
    pub(super) sampled_by: String,
}

impl Entry {
    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        self.line.as_ref().map_or(0, Line::size) + self.sampled_by.len()
    }
}

/// What differs between two requests that are decided the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances<'a> {
    /// The proxy's id of the request.
    pub request_id: &'a str,
    /// The address of whoever connected to the proxy; recorded if it is an IP address.
    pub source_ip: &'a str,
    /// The identity in its certificate.
    pub source_principal: &'a str,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
}

/// The line of a decision, its end included.
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// The next one is as the first, but for what differs.
    Spliced {
        first: Box<[u8]>,
        /// What is masked in it, and so in what is put into it.
        covered: Covered,
        /// Looked for when it is written again for the first time; `None` if they can't be told.
        cuts: OnceLock<Option<Cuts>>,
    },
    /// It is made anew each time, since what differs is masked, and what it covers may differ too.
    Masked {
        record: Box<Record<'static>>,
        /// How many bytes it takes, at most.
        size: usize,
    },
}

/// Where the values of [`VARYING`] stand in a line; nowhere, if they are not shown.
type Cuts = [Range<u32>; VARYING.len()];

/// What differs, in the order of the line.
const VARYING: [Varying; 8] = [
    Varying::Time,
    Varying::RequestId,
    Varying::SourceIp,
    Varying::SourcePrincipal,
    Varying::Duration,
    Varying::Reused,
    Varying::TraceId,
    Varying::SpanId,
];

/// A value that differs.
#[derive(Clone, Copy, Debug)]
enum Varying {
    Time,
    RequestId,
    SourceIp,
    SourcePrincipal,
    Duration,
    Reused,
    TraceId,
    SpanId,
}

impl Line {
    /// The line of `record`, as `shape` has it; `None` if it can't be written.
    pub(super) fn of(mut record: Record<'_>, shape: &Shape) -> Option<Self> {
        if shape.masks_varying() {
            // Its texts are most of it.
            let size = record.json().ok()?.len() * 2;
            return Some(Self::Masked { record: Box::new(record.into_owned()), size });
        }
        let covered = shape.mask(&mut record);
        let first = shape.written(&record).ok()?.into_boxed_slice();
        Some(Self::Spliced { first, covered, cuts: OnceLock::new() })
    }

    /// The whole line, the first time.
    pub(super) fn first(&self, shape: &Shape) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Spliced { first, .. } => Some(Cow::Borrowed(first)),
            Self::Masked { record, .. } => shape.line((**record).clone()).ok().map(Cow::Owned),
        }
    }

    /// The whole line, for another request.
    pub(super) fn again(
        &self,
        shape: &Shape,
        asked: Circumstances<'_>,
        now: Timestamp,
        microseconds: u64,
    ) -> Option<Vec<u8>> {
        let (first, covered, cuts) = match self {
            Self::Spliced { first, covered, cuts } => (first, covered, cuts),
            Self::Masked { record, .. } => {
                return shape.line(varied(record, asked, now, microseconds)).ok();
            }
        };
        let mut line = Vec::with_capacity(first.len() + 256);
        let mut from = 0;
        let cuts = cuts.get_or_init(|| cuts_of(first)).as_ref()?;
        for (what, at) in VARYING.iter().zip(cuts).filter(|(_, at)| !at.is_empty()) {
            line.extend_from_slice(first.get(from..usize::try_from(at.start).ok()?)?);
            match what {
                Varying::Time => serde_json::to_writer(&mut line, &now.rfc3339()).ok()?,
                Varying::RequestId => text(&mut line, covered, asked.request_id)?,
                Varying::Duration => serde_json::to_writer(&mut line, &microseconds).ok()?,
                Varying::Reused => line.extend_from_slice(b"true"),
                Varying::SourceIp => address(&mut line, covered, asked.source_ip)?,
                Varying::SourcePrincipal => text(&mut line, covered, asked.source_principal)?,
                Varying::TraceId => quoted(&mut line, asked.trace.map(|trace| trace.id))?,
                Varying::SpanId => quoted(&mut line, asked.trace.and_then(|trace| trace.span))?,
            }
            from = usize::try_from(at.end).ok()?;
        }
        line.extend_from_slice(first.get(from..)?);
        Some(line)
    }

    /// How many bytes it takes beside itself.
    fn size(&self) -> usize {
        match self {
            Self::Spliced { first, .. } => first.len(),
            Self::Masked { size, .. } => *size,
        }
    }
}

/// Where `line` differs from the line of another request.
fn cuts_of(line: &[u8]) -> Option<Cuts> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Members<'a> {
        #[serde(borrow)]
        time: Option<&'a RawValue>,
        request_id: Option<&'a RawValue>,
        duration_us: Option<&'a RawValue>,
        reused: Option<&'a RawValue>,
        http: Option<Http<'a>>,
        trace_id: Option<&'a RawValue>,
        span_id: Option<&'a RawValue>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Http<'a> {
        #[serde(borrow)]
        source_ip: Option<&'a RawValue>,
        source_principal: Option<&'a RawValue>,
    }
    let members: Members<'_> = serde_json::from_slice(line).ok()?;
    let http = members.http.unwrap_or_default();
    // It is a part of the line.
    let at = |value: Option<&RawValue>| {
        let Some(value) = value.map(RawValue::get) else { return Some(0..0) };
        let start = value.as_ptr().addr().checked_sub(line.as_ptr().addr())?;
        Some(u32::try_from(start).ok()?..u32::try_from(start + value.len()).ok()?)
    };
    Some([
        at(members.time)?,
        at(members.request_id)?,
        at(http.source_ip)?,
        at(http.source_principal)?,
        at(members.duration_us)?,
        at(members.reused)?,
        at(members.trace_id)?,
        at(members.span_id)?,
    ])
}

/// A text of a request, as JSON.
fn text(line: &mut Vec<u8>, covered: &Covered, text: &str) -> Option<()> {
    if covered.is_empty() {
        json::write_text(line, text).ok()
    } else {
        serde_json::to_writer(line, &covered.cover(text)).ok()
    }
}

/// An address in its one form, as JSON; what is none is not shown.
fn address(line: &mut Vec<u8>, covered: &Covered, text: &str) -> Option<()> {
    let ip = text.parse().ok();
    match ip {
        Some(ip) if !covered.is_empty() => {
            let ip: IpAddr = ip;
            serde_json::to_writer(line, &covered.cover(&ip.to_string())).ok()
        }
        // It has one form only.
        Some(IpAddr::V4(_)) => json::write_text(line, text).ok(),
        ip => quoted(line, ip),
    }
}

/// What holds nothing that JSON escapes, or nothing.
fn quoted(line: &mut Vec<u8>, value: Option<impl Display>) -> Option<()> {
    line.push(b'"');
    value.map_or(Ok(()), |value| write!(line, "{value}")).ok()?;
    line.push(b'"');
    Some(())
}

/// The record of another request.
fn varied<'a>(
    record: &Record<'a>,
    asked: Circumstances<'a>,
    now: Timestamp,
    microseconds: u64,
) -> Record<'a> {
    let mut record = Record { reused: true, ..record.clone() };
    record.time = now.rfc3339().into();
    record.request_id = asked.request_id.into();
    record.duration_us = microseconds;
    record.trace(asked.trace);
    if let Some(http) = &mut record.http {
        let ip: Option<IpAddr> = asked.source_ip.parse().ok();
        http.source_ip = ip.map(|ip| ip.to_string()).unwrap_or_default().into();
        http.source_principal = asked.source_principal.into();
    }
    record
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::audit::{Http, Principal};
    use crate::clock::Clock;
    use crate::fixture::NOW;
    use crate::metrics::Metrics;
    use crate::trace::Tracer;

    #[test]
    fn it_reads_as_the_record_of_each_request() {
        let record = |id: &'static str, ip: &'static str, principal: &'static str, took| Record {
            time: NOW.rfc3339().into(),
            request_id: id.into(),
            duration_us: took,
            http: Some(Http {
                method: "GET".into(),
                path: r#"/"},{"#.into(),
                source_ip: ip.into(),
                source_principal: principal.into(),
                ..Http::default()
            }),
            principal: Some(Principal { id: "\"\n".into(), ..Principal::default() }),
            outcome: "allow",
            ..Record::default()
        };
        let shape = Shape::default();
        let line = Line::of(record("first", "192.0.2.1", "spiffe://a", 7), &shape).unwrap();
        let (tracer, _) = Tracer::new(1.0, Metrics::new(), Clock::Fixed(NOW));
        let sampled = tracer.join(None);
        let unsampled = sampled.map(|trace| Trace { span: None, ..trace });
        for (id, ip, principal, trace) in [
            ("", "", "", None),
            (r#","reused":false,"x":""#, "2001:db8::1", "\u{1}\"\\é", sampled),
            ("3", "192.0.2.9", "", unsampled),
        ] {
            let (request_id, source_ip, source_principal) = (id, ip, principal);
            let asked = Circumstances { request_id, source_ip, source_principal, trace };
            let written = line.again(&shape, asked, NOW, 3).unwrap();
            let (end, json) = written.split_last().unwrap();
            assert_eq!(*end, b'\n');
            let written: Value = serde_json::from_slice(json).unwrap();
            let mut expected = Record { reused: true, ..record(id, ip, principal, 3) };
            expected.trace(trace);
            let expected: Value = serde_json::from_slice(&expected.json().unwrap()).unwrap();
            assert_eq!(written, expected);
        }
    }
}
