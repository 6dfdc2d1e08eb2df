//! One call to the collector: OTLP/HTTP, or OTLP/gRPC, which is a message with five bytes before it, over
//! HTTP/2, and a status after the answer.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, Limited};
use prost::Message;
use reqwest::Url;
use zeroize::Zeroizing;

use super::{FieldValue, OtlpSettings, Protocol};
use crate::envoy::framing;
use crate::remote::{ClientError, LazyClient, Shown};
use crate::secrets::Unreadable;

/// A longer answer is no answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }

    const fn grpc_path(self) -> [&'static str; 2] {
        match self {
            Self::Traces => ["opentelemetry.proto.collector.trace.v1.TraceService", "Export"],
            Self::Metrics => ["opentelemetry.proto.collector.metrics.v1.MetricsService", "Export"],
        }
    }
}

/// Where one signal is sent.
pub(super) struct Collector {
    url: Url,
    client: LazyClient,
    settings: OtlpSettings,
}

/// Why something did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the value of the header `{name}` can't be used: {source}")]
    Field { name: String, source: Unreadable },
    #[error("the token to present can't be used: {0}")]
    Token(Unreadable),
    #[error("`{url}` can't be reached: check the address, the protocol and the network")]
    Unreachable { url: Shown, source: reqwest::Error },
    #[error("`{url}` did not answer within {timeout:?}")]
    Late { url: Shown, timeout: Duration },
    #[error("`{url}` answered with the status {status}, not 200")]
    Status { url: Shown, status: u16 },
    #[error("`{url}` answered with the gRPC status {code}, not 0")]
    Grpc { url: Shown, code: u16 },
    #[error("`{url}` answered with what is no answer of OTLP: check the protocol")]
    Answer { url: Shown },
}

impl ExportError {
    /// Whether the same may arrive a little later, as OTLP has it.
    pub(super) const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Late { .. } => true,
            Self::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Self::Grpc { code, .. } => matches!(code, 1 | 4 | 8 | 10 | 11 | 14 | 15),
            Self::Client(_) | Self::Field { .. } | Self::Token(_) | Self::Answer { .. } => false,
        }
    }
}

impl Collector {
    pub(super) fn new(signal: Signal, settings: OtlpSettings) -> Self {
        let mut url = settings.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            match settings.protocol {
                Protocol::Grpc => segments.clear().extend(signal.grpc_path()),
                Protocol::Http => segments.pop_if_empty().extend(["v1", signal.name()]),
            };
        }
        let client = LazyClient::new(&url, settings.ca_file.clone()).staying();
        let client = match settings.protocol {
            Protocol::Grpc => client.over_http2(),
            Protocol::Http => client,
        };
        Self { url, client, settings }
    }

    /// Sends `message`, and returns the answer.
    pub(super) async fn send<A: Message + Default>(
        &self,
        message: &impl Message,
    ) -> Result<A, ExportError> {
        let timeout = self.settings.timeout;
        let late = |_| ExportError::Late { url: self.shown(), timeout };
        let sent = tokio::time::timeout(timeout, self.call(message)).await;
        let answer = sent.map_err(late).flatten();
        if matches!(answer, Err(ExportError::Unreachable { .. } | ExportError::Client(_))) {
            self.client.forget();
        }
        A::decode(answer?).map_err(|_| ExportError::Answer { url: self.shown() })
    }

    /// The message that is answered.
    async fn call(&self, message: &impl Message) -> Result<Bytes, ExportError> {
        let (media_type, body) = match self.settings.protocol {
            Protocol::Grpc => ("application/grpc", framing::framed(message)),
            Protocol::Http => ("application/x-protobuf", message.encode_to_vec().into()),
        };
        let mut request =
            self.client.client()?.post(self.url.clone()).headers(self.fields().await?);
        request = request.header(header::CONTENT_TYPE, media_type).body(body);
        if self.settings.protocol == Protocol::Grpc {
            request = request.header(header::TE, "trailers");
        }
        let unreachable = |source: reqwest::Error| ExportError::Unreachable {
            url: self.shown(),
            source: source.without_url(),
        };
        let response: http::Response<reqwest::Body> =
            request.send().await.map_err(unreachable)?.into();
        let (head, body) = response.into_parts();
        let no_answer = || ExportError::Answer { url: self.shown() };
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| no_answer())?;
        if head.status != 200 {
            return Err(ExportError::Status { url: self.shown(), status: head.status.as_u16() });
        }
        match self.settings.protocol {
            Protocol::Http => Ok(body.to_bytes()),
            Protocol::Grpc => {
                let code = body.trailers().and_then(status).or_else(|| status(&head.headers));
                match code.ok_or_else(no_answer)? {
                    0 => framing::message(body.to_bytes()).map_err(|_| no_answer()),
                    code => Err(ExportError::Grpc { url: self.shown(), code }),
                }
            }
        }
    }

    /// What the settings have sent with it.
    async fn fields(&self) -> Result<HeaderMap, ExportError> {
        let mut fields = HeaderMap::new();
        for (name, value) in &self.settings.headers {
            let field = |source| ExportError::Field { name: name.to_string(), source };
            let (origin, problem) = ("settings".to_owned(), "is no field's value".to_owned());
            let mut value = match value {
                FieldValue::Plain(text) => HeaderValue::from_str(text),
                FieldValue::Credential(source) => {
                    HeaderValue::from_str(source.field_value().await.map_err(field)?.expose())
                }
            }
            .map_err(|_| field(Unreadable { origin, problem }))?;
            value.set_sensitive(true);
            fields.insert(name.clone(), value);
        }
        if let Some(token) = &self.settings.token {
            let token = token.text().await.map_err(ExportError::Token)?;
            let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
            // A token is visible ASCII.
            if let Ok(mut value) = HeaderValue::from_str(&bearer) {
                value.set_sensitive(true);
                fields.insert(header::AUTHORIZATION, value);
            }
        }
        Ok(fields)
    }

    fn shown(&self) -> Shown {
        Shown::new(&self.url)
    }
}

fn status(fields: &HeaderMap) -> Option<u16> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Response;
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    };

    use super::*;

    fn collector(signal: Signal, endpoint: &str, protocol: Protocol) -> Collector {
        let settings = OtlpSettings {
            endpoint: endpoint.parse().unwrap(),
            protocol,
            headers: Vec::new(),
            token: None,
            ca_file: None,
            timeout: Duration::from_secs(5),
        };
        Collector::new(signal, settings)
    }

    #[test]
    fn each_signal_has_its_place() {
        const SERVICE: &str = "opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
        for (endpoint, protocol, expected) in [
            ("https://c.example:4317", Protocol::Grpc, format!("https://c.example:4317/{SERVICE}")),
            ("https://c.example/x/", Protocol::Grpc, format!("https://c.example/{SERVICE}")),
            ("https://c.example", Protocol::Http, "https://c.example/v1/metrics".to_owned()),
            ("https://c.example/x", Protocol::Http, "https://c.example/x/v1/metrics".to_owned()),
            ("https://c.example/x/", Protocol::Http, "https://c.example/x/v1/metrics".to_owned()),
        ] {
            assert_eq!(collector(Signal::Metrics, endpoint, protocol).url.as_str(), expected);
        }
    }

    /// What comes of an answer with this status, this gRPC status and this body.
    async fn answered(
        protocol: Protocol,
        status: u16,
        grpc: Option<&'static str>,
        body: Vec<u8>,
    ) -> Result<ExportTraceServiceResponse, ExportError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Router::new().fallback(move || async move {
            let response = Response::builder().status(status);
            let response = grpc.iter().fold(response, |it, code| it.header("grpc-status", *code));
            response.body(axum::body::Body::from(body)).unwrap()
        });
        let serving = tokio::spawn(async { axum::serve(listener, server).await });
        let collector = collector(Signal::Traces, &endpoint, protocol);
        let answer = collector.send(&ExportTraceServiceRequest::default()).await;
        serving.abort();
        answer
    }

    #[tokio::test]
    async fn only_an_answer_of_otlp_says_that_it_arrived() {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, ..Default::default() };
        let good = ExportTraceServiceResponse { partial_success: Some(partial) };
        let (plain, framed) = (good.encode_to_vec(), framing::framed(&good).to_vec());
        let (http, grpc) = (Protocol::Http, Protocol::Grpc);
        assert_eq!(answered(http, 200, None, plain.clone()).await.unwrap(), good);
        assert_eq!(answered(grpc, 200, Some("0"), framed.clone()).await.unwrap(), good);
        for (protocol, status, code, body, said, is_transient) in [
            (http, 400, None, vec![], "with the status 400", false),
            (http, 503, None, vec![], "with the status 503", true),
            (http, 307, None, vec![], "with the status 307", false),
            (http, 200, None, b"<html>".to_vec(), "no answer of OTLP", false),
            (http, 200, None, vec![0; MAX_ANSWER_BYTES + 1], "no answer of OTLP", false),
            (grpc, 200, Some("8"), vec![], "with the gRPC status 8", true),
            (grpc, 200, Some("3"), vec![], "with the gRPC status 3", false),
            (grpc, 200, None, framed, "no answer of OTLP", false),
            (grpc, 200, Some("0"), plain, "no answer of OTLP", false),
            (grpc, 502, None, vec![], "with the status 502", true),
        ] {
            let error = answered(protocol, status, code, body).await.unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.is_transient(), is_transient, "{error}");
        }
    }
}
