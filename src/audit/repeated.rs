//! The record of a decision that is used again: what is the same each time is written once.

use std::io::Write as _;
use std::net::IpAddr;

use prometheus_client::metrics::counter::Counter;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::proto::DecisionRecord;
use crate::trace::Trace;

/// What is recorded of a decision each time it is used again.
#[derive(Clone, Debug, Default)]
pub struct Repeated {
    pub(super) counter: Counter,
    /// `None` where there is no log.
    pub(super) line: Option<Line>,
}

impl Repeated {
    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.http.len() + line.rest.len())
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

/// The two halves of a line that are the same each time, as members of an object.
#[derive(Clone, Debug)]
pub(super) struct Line {
    http: String,
    rest: String,
}

impl Line {
    pub(super) fn of(record: &DecisionRecord) -> Option<Self> {
        let Value::Object(mut rest) = serde_json::to_value(record).ok()? else { return None };
        for name in ["time", "requestId", "durationUs", "traceId", "spanId"] {
            rest.remove(name);
        }
        let Some(Value::Object(mut http)) = rest.remove("http") else { return None };
        for name in ["sourceIp", "sourcePrincipal"] {
            http.remove(name);
        }
        rest.insert("reused".to_owned(), true.into());
        Some(Self { http: members(&http)?, rest: members(&rest)? })
    }

    /// The whole line, for one request.
    pub(super) fn write(
        &self,
        asked: Circumstances<'_>,
        now: Timestamp,
        microseconds: u64,
    ) -> Option<Vec<u8>> {
        let mut line = Vec::with_capacity(self.http.len() + self.rest.len() + 256);
        write!(line, r#"{{"time":"{}","requestId":"#, now.rfc3339()).ok()?;
        serde_json::to_writer(&mut line, asked.request_id).ok()?;
        write!(line, r#","durationUs":{microseconds},"http":{{"#).ok()?;
        line.extend_from_slice(self.http.as_bytes());
        line.extend_from_slice(br#","sourceIp":""#);
        match asked.source_ip.parse() {
            // It has one form only.
            Ok(IpAddr::V4(_)) => line.extend_from_slice(asked.source_ip.as_bytes()),
            Ok(IpAddr::V6(ip)) => write!(line, "{ip}").ok()?,
            Err(_) => {}
        }
        line.extend_from_slice(br#"","sourcePrincipal":"#);
        serde_json::to_writer(&mut line, asked.source_principal).ok()?;
        line.extend_from_slice(b"},");
        match asked.trace {
            None => line.extend_from_slice(br#""traceId":"","spanId":"","#),
            Some(Trace { id, span: None, .. }) => {
                write!(line, r#""traceId":"{id}","spanId":"","#).ok()?;
            }
            Some(Trace { id, span: Some(span), .. }) => {
                write!(line, r#""traceId":"{id}","spanId":"{span}","#).ok()?;
            }
        }
        line.extend_from_slice(self.rest.as_bytes());
        line.extend_from_slice(b"}\n");
        Some(line)
    }
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
        let line = Line::of(&record("first", "192.0.2.1", "spiffe://a", 7)).unwrap();
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
            let written = line.write(asked, NOW, 3).unwrap();
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
