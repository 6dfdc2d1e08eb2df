//! Decision lines as OpenTelemetry's log records (`opentelemetry.proto.logs.v1`).
//!
//! The body of a record is the line, structured; its time, severity and trace are the record's own too.

use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1 as proto;
use prost::Message as _;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The path of the method that takes logs, over gRPC.
pub const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// The path that takes logs, over HTTP.
pub const HTTP_PATH: &str = "/v1/logs";

/// Who logs.
#[derive(Clone, Debug)]
pub struct Resource {
    /// `service.name`.
    pub service_name: String,
    /// `service.instance.id`.
    pub instance: String,
}

/// The lines of a batch.
pub(super) fn request(lines: &[u8], resource: &Resource) -> ExportLogsServiceRequest {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let records = lines.filter_map(|line| record(&serde_json::from_slice(line).ok()?));
    let attributes = [
        ("service.name", resource.service_name.as_str()),
        ("service.instance.id", &resource.instance),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let attributes = attributes.map(|(key, text)| attribute(key.to_owned(), &text.into()));
    let resource = proto::Resource { attributes: attributes.to_vec(), ..Default::default() };
    let scope =
        InstrumentationScope { name: "placet.decision_log".to_owned(), ..Default::default() };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records: records.collect(),
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

/// How many records the server refused, and what it says of them.
pub(super) fn refused(answer: &[u8]) -> (u64, String) {
    let answer = ExportLogsServiceResponse::decode(answer).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    let refused = u64::try_from(partial.rejected_log_records).unwrap_or_default();
    (refused, partial.error_message)
}

fn record(line: &Value) -> Option<LogRecord> {
    let members = line.as_object()?;
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let nanos = text("time").and_then(nanos).unwrap_or_default();
    let (severity, severity_text) = match text("outcome") {
        Some("deny") => (SeverityNumber::Warn, "WARN"),
        _ => (SeverityNumber::Info, "INFO"),
    };
    let is_shadow = members.contains_key("enforced");
    let id = |name| text(name).and_then(|id| hex::decode(id).ok()).unwrap_or_default();
    Some(LogRecord {
        time_unix_nano: nanos,
        observed_time_unix_nano: nanos,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        event_name: if is_shadow { "placet.shadow" } else { "placet.decision" }.to_owned(),
        body: Some(any(line)),
        trace_id: id("traceId"),
        span_id: id("spanId"),
        ..LogRecord::default()
    })
}

fn nanos(time: &str) -> Option<u64> {
    OffsetDateTime::parse(time, &Rfc3339).ok()?.unix_timestamp_nanos().try_into().ok()
}

fn any(value: &Value) -> AnyValue {
    let value =
        match value {
            Value::Null => None,
            Value::Bool(value) => Some(Any::BoolValue(*value)),
            Value::Number(number) => Some(number.as_i64().map_or_else(
                || Any::DoubleValue(number.as_f64().unwrap_or_default()),
                Any::IntValue,
            )),
            Value::String(text) => Some(Any::StringValue(text.clone())),
            Value::Array(items) => {
                Some(Any::ArrayValue(ArrayValue { values: items.iter().map(any).collect() }))
            }
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| attribute(name.clone(), value));
                Some(Any::KvlistValue(KeyValueList { values: members.collect() }))
            }
        };
    AnyValue { value }
}

fn attribute(key: String, value: &Value) -> KeyValue {
    KeyValue { key, value: Some(any(value)), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_record_of_its_time_severity_and_trace() {
        let resource = Resource { service_name: "placet".to_owned(), instance: "one".to_owned() };
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let line = format!(
            r#"{{"time":"2027-01-15T08:00:00.250Z","outcome":"deny","traceId":"{trace}","spanId":"b7ad6b7169203331","durationUs":7,"sampleRate":1.0,"http":{{"path":"/a"}}}}"#
        );
        let request = request(format!("{line}\n{{}}\n").as_bytes(), &resource);
        let records = &request.resource_logs[0].scope_logs[0].log_records;
        assert_eq!(records.len(), 2);
        let record = &records[0];
        assert_eq!(record.time_unix_nano, 1_800_000_000_250_000_000);
        assert_eq!(record.severity_text, "WARN");
        assert_eq!((hex::encode(&record.trace_id).as_str(), record.span_id.len()), (trace, 8));
        let Some(Any::KvlistValue(body)) = record.body.as_ref().and_then(|it| it.value.clone())
        else {
            panic!("no structure")
        };
        let value = |key: &str| {
            let member = body.values.iter().find(|member| member.key == key).unwrap();
            member.value.clone().unwrap().value.unwrap()
        };
        assert_eq!(value("durationUs"), Any::IntValue(7));
        assert_eq!(value("sampleRate"), Any::DoubleValue(1.0));
        assert!(matches!(value("http"), Any::KvlistValue(_)));
        assert_eq!(records[1].severity_text, "INFO");
    }
}
