//! The record of a decision that is used again: what is the same each time is written, masked and left out
//! once.

use std::io::Write as _;
use std::net::IpAddr;

use prometheus_client::metrics::counter::Counter;
use serde_json::{Map, Value};

use super::shape::{Covered, Shape};
use crate::clock::Timestamp;
use crate::proto::DecisionRecord;
use crate::trace::Trace;

/// What is recorded of a decision each time it is used again.
#[derive(Clone, Debug, Default)]
pub struct Repeated {
    pub(super) counter: Counter,
    /// `None` where there is no log.
    pub(super) line: Option<Line>,
    /// The decision's own id, where not all allows are logged.
    pub(super) sampled_by: String,
}

impl Repeated {
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

/// A line that is the same but for its circumstances.
#[derive(Clone, Debug)]
pub(super) enum Line {
    Spliced(Box<Spliced>),
    /// It is made anew each time, since what differs is masked, and what it covers may differ too.
    Masked(Box<DecisionRecord>),
}

/// The two halves of a line that are the same each time, as members of an object, and what stands between
/// them.
#[derive(Clone, Debug)]
pub(super) struct Spliced {
    http: String,
    rest: String,
    /// What is masked in the halves, and so in what stands between them.
    covered: Covered,
    shows: Shows,
}

/// Which of the fields that differ are shown.
#[expect(clippy::struct_excessive_bools, reason = "one for each field")]
#[derive(Clone, Copy, Debug)]
struct Shows {
    time: bool,
    request_id: bool,
    duration: bool,
    http: bool,
    source_ip: bool,
    source_principal: bool,
    trace_id: bool,
    span_id: bool,
}

impl Line {
    /// The line of `record`, as `shape` has it.
    pub(super) fn of(record: DecisionRecord, shape: &Shape) -> Option<Self> {
        let mut record = DecisionRecord { reused: true, ..record };
        if shape.masks_varying() {
            return Some(Self::Masked(Box::new(record)));
        }
        for varying in [
            Some(&mut record.request_id),
            record.http.as_mut().map(|http| &mut http.source_principal),
        ] {
            varying.into_iter().for_each(String::clear);
        }
        let covered = shape.mask(&mut record);
        let Value::Object(mut rest) = shape.pruned(&record).ok()? else { return None };
        let mut http = Map::new();
        if let Some(Value::Object(members)) = rest.get_mut("http") {
            http = std::mem::take(members);
        }
        rest.retain(|name, _| {
            !matches!(
                name.as_str(),
                "time" | "requestId" | "durationUs" | "http" | "traceId" | "spanId"
            )
        });
        http.retain(|name, _| !matches!(name.as_str(), "sourceIp" | "sourcePrincipal"));
        let shows = Shows {
            time: shape.shows("time"),
            request_id: shape.shows("requestId"),
            duration: shape.shows("durationUs"),
            http: shape.shows("http"),
            source_ip: shape.shows("http.sourceIp"),
            source_principal: shape.shows("http.sourcePrincipal"),
            trace_id: shape.shows("traceId"),
            span_id: shape.shows("spanId"),
        };
        let (http, rest) = (members(&http)?, members(&rest)?);
        Some(Self::Spliced(Box::new(Spliced { http, rest, covered, shows })))
    }

    /// The whole line, for one request.
    pub(super) fn write(
        &self,
        shape: &Shape,
        asked: Circumstances<'_>,
        now: Timestamp,
        microseconds: u64,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Spliced(spliced) => spliced.write(asked, now, microseconds),
            Self::Masked(record) => shape.line(varied(record, asked, now, microseconds)).ok(),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Spliced(spliced) => spliced.http.len() + spliced.rest.len(),
            // Its texts are most of it.
            Self::Masked(record) => prost::Message::encoded_len(&**record) * 2,
        }
    }
}

impl Spliced {
    fn write(
        &self,
        asked: Circumstances<'_>,
        now: Timestamp,
        microseconds: u64,
    ) -> Option<Vec<u8>> {
        let shows = self.shows;
        let mut line = Vec::with_capacity(self.http.len() + self.rest.len() + 256);
        line.push(b'{');
        if shows.time {
            line.extend_from_slice(br#""time":""#);
            line.extend_from_slice(now.rfc3339().as_bytes());
            line.push(b'"');
        }
        if shows.request_id {
            name(&mut line, r#""requestId":"#);
            self.text(&mut line, asked.request_id)?;
        }
        if shows.duration {
            name(&mut line, r#""durationUs":"#);
            serde_json::to_writer(&mut line, &microseconds).ok()?;
        }
        if shows.http {
            name(&mut line, r#""http":{"#);
            line.extend_from_slice(self.http.as_bytes());
            if shows.source_ip {
                name(&mut line, r#""sourceIp":""#);
                self.address(&mut line, asked.source_ip)?;
                line.push(b'"');
            }
            if shows.source_principal {
                name(&mut line, r#""sourcePrincipal":"#);
                self.text(&mut line, asked.source_principal)?;
            }
            line.push(b'}');
        }
        self.trace(&mut line, asked.trace)?;
        name(&mut line, &self.rest);
        line.extend_from_slice(b"}\n");
        Some(line)
    }

    fn trace(&self, line: &mut Vec<u8>, trace: Option<Trace>) -> Option<()> {
        let id = trace.map(|trace| trace.id);
        if self.shows.trace_id {
            name(line, r#""traceId":""#);
            id.map_or(Ok(()), |id| write!(line, "{id}")).ok()?;
            line.push(b'"');
        }
        if self.shows.span_id {
            name(line, r#""spanId":""#);
            let span = trace.and_then(|trace| trace.span);
            span.map_or(Ok(()), |span| write!(line, "{span}")).ok()?;
            line.push(b'"');
        }
        Some(())
    }

    fn text(&self, line: &mut Vec<u8>, text: &str) -> Option<()> {
        if self.covered.is_empty() {
            serde_json::to_writer(line, text).ok()
        } else {
            serde_json::to_writer(line, &self.covered.cover(text)).ok()
        }
    }

    fn address(&self, line: &mut Vec<u8>, text: &str) -> Option<()> {
        match text.parse() {
            Ok(ip) if !self.covered.is_empty() => {
                let ip: IpAddr = ip;
                line.extend_from_slice(self.covered.cover(&ip.to_string()).as_bytes());
            }
            // It has one form only.
            Ok(IpAddr::V4(_)) => line.extend_from_slice(text.as_bytes()),
            Ok(IpAddr::V6(ip)) => write!(line, "{ip}").ok()?,
            Err(_) => {}
        }
        Some(())
    }
}

/// The record of one request.
fn varied(
    record: &DecisionRecord,
    asked: Circumstances<'_>,
    now: Timestamp,
    microseconds: u64,
) -> DecisionRecord {
    let mut record = record.clone();
    record.time = now.rfc3339();
    record.request_id = asked.request_id.to_owned();
    record.duration_us = microseconds;
    record.trace(asked.trace);
    if let Some(http) = &mut record.http {
        let ip: Option<IpAddr> = asked.source_ip.parse().ok();
        http.source_ip = ip.map(|ip| ip.to_string()).unwrap_or_default();
        http.source_principal = asked.source_principal.to_owned();
    }
    record
}

/// Begins the next member of an object, or goes on with several; nothing where there are none.
fn name(line: &mut Vec<u8>, members: &str) {
    if !members.is_empty() && line.last() != Some(&b'{') {
        line.push(b',');
    }
    line.extend_from_slice(members.as_bytes());
}

/// Without the braces.
fn members(object: &Map<String, Value>) -> Option<String> {
    let text = serde_json::to_string(object).ok()?;
    Some(text.strip_prefix('{')?.strip_suffix('}')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::fixture::NOW;
    use crate::metrics::Metrics;
    use crate::proto::{HttpRequest, Principal};
    use crate::trace::Tracer;

    #[test]
    fn it_reads_as_the_record_of_each_request() {
        let record = |id: &str, ip: &str, principal: &str, took: u64| DecisionRecord {
            time: NOW.rfc3339(),
            request_id: id.to_owned(),
            duration_us: took,
            http: Some(HttpRequest {
                method: "GET".to_owned(),
                path: r#"/"},{"#.to_owned(),
                source_ip: ip.to_owned(),
                source_principal: principal.to_owned(),
                ..HttpRequest::default()
            }),
            principal: Some(Principal { id: "\"\n".to_owned(), ..Principal::default() }),
            outcome: "allow".to_owned(),
            ..DecisionRecord::default()
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
            let written = line.write(&shape, asked, NOW, 3).unwrap();
            let (end, json) = written.split_last().unwrap();
            assert_eq!(*end, b'\n');
            let written: Value = serde_json::from_slice(json).unwrap();
            let expected = DecisionRecord {
                reused: true,
                trace_id: trace.map(|it| it.id.to_string()).unwrap_or_default(),
                span_id: trace.and_then(|it| it.span).map(|it| it.to_string()).unwrap_or_default(),
                ..record(id, ip, principal, 3)
            };
            assert_eq!(written, serde_json::to_value(expected).unwrap());
        }
    }
}
