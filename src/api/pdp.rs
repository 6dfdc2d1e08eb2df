//! `placet.v1.PolicyDecisionPoint`: AuthZEN's questions over gRPC.
//!
//! A message is written out as the JSON it stands for and read like that, so that both edges ask the
//! same. An empty text is one that is missing. What is no answer is a gRPC status.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use prost_types::Struct;
use prost_types::value::Kind;
use serde_json::{Map, Number, Value};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::desk::{Answer, DEADLINE, Desk, Refusal};
use super::question::{self, Evaluations, Malformed};
use crate::authorizer::Reason;
use crate::envoy::framing;
use crate::json::JsonFault;
use crate::proto::{
    Action, Error, EvaluateBatchRequest, EvaluateBatchResponse, EvaluateRequest, EvaluateResponse,
    Open, Resource, SearchRequest, SearchResponse, Semantic, Subject,
};
use crate::scope::{CallerError, Presented, Scope};
use crate::search;

/// A larger message is refused.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// How deep a Struct may nest; as deep as JSON may.
const DEPTH: usize = 32;

/// The service.
#[derive(Clone, Debug)]
pub struct PdpService(Desk);

impl PdpService {
    /// A service that puts what it is asked to `desk`.
    pub fn new(desk: Desk) -> Self {
        Self(desk)
    }
}

impl NamedService for PdpService {
    const NAME: &'static str = "placet.v1.PolicyDecisionPoint";
}

impl Service<http::Request<Body>> for PdpService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: http::Request<Body>) -> Self::Future {
        let desk = self.0.clone();
        let deadline = framing::timeout(call.headers()).map_or(DEADLINE, |it| it.min(DEADLINE));
        let method = Method { desk, deadline };
        Box::pin(async move {
            Ok(match call.uri().path() {
                "/placet.v1.PolicyDecisionPoint/Evaluate" => {
                    unary::<EvaluateRequest, EvaluateResponse>(method, call).await
                }
                "/placet.v1.PolicyDecisionPoint/EvaluateBatch" => {
                    unary::<EvaluateBatchRequest, EvaluateBatchResponse>(method, call).await
                }
                "/placet.v1.PolicyDecisionPoint/Search" => {
                    unary::<SearchRequest, SearchResponse>(method, call).await
                }
                _ => framing::unimplemented(),
            })
        })
    }
}

async fn unary<Q, A>(method: Method, call: http::Request<Body>) -> http::Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    Method: UnaryService<Q, Response = A>,
{
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default())
        .apply_max_message_size_config(Some(MAX_MESSAGE_BYTES), None);
    grpc.unary(method, call).await
}

/// One call.
#[derive(Clone)]
struct Method {
    desk: Desk,
    deadline: Duration,
}

impl UnaryService<EvaluateRequest> for Method {
    type Response = EvaluateResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<EvaluateRequest>) -> Self::Future {
        let Self { desk, deadline } = self.clone();
        Box::pin(async move {
            let (id, scope) = caller(&desk, &request)?;
            let work = async {
                let question = question::single(&evaluation(request.into_inner())?)?;
                desk.single(&scope, &id, &question).await
            };
            let answer = desk.within(deadline, &scope, &id, work).await.map_err(status)?;
            Ok(Response::new(written(answer)))
        })
    }
}

impl UnaryService<EvaluateBatchRequest> for Method {
    type Response = EvaluateBatchResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<EvaluateBatchRequest>) -> Self::Future {
        let Self { desk, deadline } = self.clone();
        Box::pin(async move {
            let (id, scope) = caller(&desk, &request)?;
            let work = async {
                match question::evaluations(&batch(request.into_inner())?)? {
                    Evaluations::Single(single) => {
                        Ok(vec![desk.single(&scope, &id, &single).await?])
                    }
                    Evaluations::Batch(batch) => Ok(desk.batch(&scope, &id, &batch).await),
                }
            };
            let answers = desk.within(deadline, &scope, &id, work).await.map_err(status)?;
            let evaluations = answers.into_iter().map(written).collect();
            Ok(Response::new(EvaluateBatchResponse { evaluations }))
        })
    }
}

impl UnaryService<SearchRequest> for Method {
    type Response = SearchResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<SearchRequest>) -> Self::Future {
        let Self { desk, deadline } = self.clone();
        Box::pin(async move {
            let (id, scope) = caller(&desk, &request)?;
            let work = async {
                let request = request.into_inner();
                let open = match request.open() {
                    Open::Unspecified => {
                        return Err(Malformed::Missing("open".to_owned()).into());
                    }
                    Open::Subject => search::Open::Subject,
                    Open::Resource => search::Open::Asset,
                    Open::Action => search::Open::Action,
                };
                let searching = question::search(open, &searching(request)?)?;
                desk.search(&scope, &searching).await
            };
            let found = desk.within(deadline, &scope, &id, work).await.map_err(status)?;
            let next_token = found.next.map(|next| next.text()).unwrap_or_default();
            Ok(Response::new(SearchResponse { results: found.ids, next_token }))
        })
    }
}

/// The request's id, and the scope that the caller speaks for.
fn caller<Q>(desk: &Desk, request: &Request<Q>) -> Result<(String, Arc<Scope>), Status> {
    let metadata = request.metadata().as_ref();
    let values = metadata.get_all(http::header::AUTHORIZATION).iter();
    let workload = super::workload(request.extensions());
    let presented = Presented::new(values.map(HeaderValue::as_bytes), workload);
    let scope = desk.caller(presented).map_err(status)?;
    let id = metadata.get("x-request-id").and_then(|id| id.to_str().ok());
    Ok((id.unwrap_or_default().to_owned(), scope))
}

fn evaluation(request: EvaluateRequest) -> Result<Map<String, Value>, Malformed> {
    let EvaluateRequest { subject, action, resource, context, sign } = request;
    let mut body = Map::new();
    if let Some(Subject { r#type, id, properties }) = subject {
        put(&mut body, "subject", entity([("type", r#type), ("id", id)], properties)?);
    }
    if let Some(Action { name, properties }) = action {
        put(&mut body, "action", entity([("name", name)], properties)?);
    }
    if let Some(Resource { r#type, id, properties }) = resource {
        put(&mut body, "resource", entity([("type", r#type), ("id", id)], properties)?);
    }
    if let Some(context) = context {
        put(&mut body, "context", members(context, DEPTH)?);
    }
    put(&mut body, "options", Map::from_iter([("token".to_owned(), sign.into())]));
    Ok(body)
}

fn batch(request: EvaluateBatchRequest) -> Result<Map<String, Value>, Malformed> {
    let semantic = match request.semantic() {
        Semantic::ExecuteAll => "execute_all",
        Semantic::DenyOnFirstDeny => "deny_on_first_deny",
        Semantic::PermitOnFirstPermit => "permit_on_first_permit",
    };
    let mut body = evaluation(request.defaults.unwrap_or_default())?;
    if let Some(Value::Object(options)) = body.get_mut("options") {
        options.insert("evaluations_semantic".to_owned(), semantic.into());
    }
    let items = request.evaluations.into_iter().map(|item| evaluation(item).map(Value::Object));
    let items = items.collect::<Result<Vec<Value>, _>>()?;
    body.insert("evaluations".to_owned(), items.into());
    Ok(body)
}

fn searching(request: SearchRequest) -> Result<Map<String, Value>, Malformed> {
    let SearchRequest { open: _, subject, action, resource, context, token, limit } = request;
    let sign = false;
    let mut body = evaluation(EvaluateRequest { subject, action, resource, context, sign })?;
    let mut page = Map::from_iter([("token".to_owned(), token.into())]);
    if limit > 0 {
        page.insert("limit".to_owned(), limit.into());
    }
    put(&mut body, "page", page);
    Ok(body)
}

fn entity<const N: usize>(
    texts: [(&str, String); N],
    properties: Option<Struct>,
) -> Result<Map<String, Value>, Malformed> {
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let mut entity: Map<String, Value> =
        texts.map(|(name, text)| (name.to_owned(), text.into())).collect();
    if let Some(properties) = properties {
        put(&mut entity, "properties", members(properties, DEPTH)?);
    }
    Ok(entity)
}

fn put(to: &mut Map<String, Value>, name: &str, members: Map<String, Value>) {
    to.insert(name.to_owned(), Value::Object(members));
}

/// The JSON object that `fields` stand for, which may nest `left` levels.
fn members(fields: Struct, left: usize) -> Result<Map<String, Value>, Malformed> {
    let left = left.checked_sub(1).ok_or(JsonFault::TooDeep)?;
    fields.fields.into_iter().map(|(name, field)| Ok((name, value(field, left)?))).collect()
}

fn value(value: prost_types::Value, left: usize) -> Result<Value, Malformed> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::NumberValue(number)) => self::number(number)?,
        Some(Kind::StructValue(fields)) => Value::Object(members(fields, left)?),
        Some(Kind::ListValue(list)) => {
            let left = left.checked_sub(1).ok_or(JsonFault::TooDeep)?;
            let items = list.values.into_iter().map(|item| self::value(item, left));
            items.collect::<Result<Value, Malformed>>()?
        }
    })
}

/// A whole number is one in JSON too, as far as a double tells it from its neighbours.
fn number(number: f64) -> Result<Value, Malformed> {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        return Ok((number as i64).into());
    }
    Ok(Value::Number(Number::from_f64(number).ok_or(JsonFault::Syntax)?))
}

fn written(answer: Answer) -> EvaluateResponse {
    let Answer { decision, context } = answer;
    let text = |name: &str| context.get(name).and_then(Value::as_str).unwrap_or_default();
    let error = context.get("error").and_then(Value::as_object).map(|error| Error {
        status: error
            .get("status")
            .and_then(Value::as_u64)
            .unwrap_or_default()
            .try_into()
            .unwrap_or_default(),
        message: error.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
    });
    EvaluateResponse {
        decision,
        reason: text("reason").to_owned(),
        id: text("id").to_owned(),
        token: text("token").to_owned(),
        error,
    }
}

fn status(refusal: Refusal) -> Status {
    let code = match &refusal {
        Refusal::Closed | Refusal::Unsearchable => Code::Unimplemented,
        Refusal::Caller(CallerError::Missing | CallerError::Refused) => Code::Unauthenticated,
        Refusal::NotSwitchedOn => Code::PermissionDenied,
        Refusal::Malformed(_) | Refusal::TooLarge(_) => Code::InvalidArgument,
        Refusal::Fault(Reason::Overload | Reason::LogFull) => Code::ResourceExhausted,
        Refusal::Fault(Reason::Deadline) => Code::DeadlineExceeded,
        Refusal::Caller(CallerError::NotLoaded) | Refusal::Fault(Reason::KeyUnavailable) => {
            Code::Unavailable
        }
        Refusal::Fault(_) => Code::Internal,
    };
    Status::new(code, refusal.to_string())
}
