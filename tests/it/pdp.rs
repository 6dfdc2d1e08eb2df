//! `placet.v1.PolicyDecisionPoint`, asked by a real client over the socket of a whole Placet.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use placet::app::App;
use placet::clock::Clock;
use placet::proto::{
    Action, EvaluateBatchRequest, EvaluateBatchResponse, EvaluateRequest, EvaluateResponse, Open,
    Resource, SearchRequest, SearchResponse, Semantic, Subject,
};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const POLICY: &str = r#"
    permit(principal in Group::"staff", action == Action::"read", resource is Account)
        when { resource has level && resource.level == 3 };
    permit(principal == User::"alice", action == Action::"write", resource == Account::"1");
    forbid(principal, action == Action::"close", resource) when { resource.absent };
"#;

const ENTITIES: &str = r#"[
    {"uid": {"type": "Account", "id": "1"}, "attrs": {}, "parents": []},
    {"uid": {"type": "Account", "id": "2"}, "attrs": {}, "parents": []},
    {"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]},
    {"uid": {"type": "User", "id": "bob"}, "attrs": {}, "parents": []}
]"#;

/// A running Placet with the scopes `orders`, which answers applications, and `closed`.
struct Running {
    folder: tempfile::TempDir,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let hash = digest(&SHA256, b"secret");
        let hash = format!("sha256:{}\n", hex::encode(hash.as_ref()));
        for scope in ["orders", "closed"] {
            write(&format!("keys/{scope}"), &key);
            write(&format!("keys/{scope}.callers"), &hash);
        }
        write("p.cedar", POLICY);
        write("e.json", ENTITIES);
        let socket = folder.path().join("grpc.sock");
        let scope = |client_id: &str, api: &str| {
            serde_json::json!({
                "clientId": client_id,
                "policy": {"files": ["p.cedar"], "entities": "e.json"},
                "jwtResponse": {"tokenLifetimeSeconds": 60, "audience": client_id},
                "api": {api: true},
            })
        };
        let settings = serde_json::json!({
            "listen": {
                "grpc": format!("unix:{}", socket.display()),
                "http": "127.0.0.1:0",
                "admin": "127.0.0.1:0",
            },
            "secretStores": [{"id": "f", "type": "file", "default": true, "details": {"directory": "keys"}}],
            "scopes": [scope("orders", "authzen"), scope("closed", "check")],
            "decisionLog": {"sink": "none"},
        });
        write("placet.yaml", &settings.to_string());
        let app = App::build(folder.path().join("placet.yaml"), Clock::System, None).await.unwrap();
        let stop = CancellationToken::new();
        let (_never, reload) = tokio::sync::mpsc::channel(1);
        let run = app.run(stop.clone(), reload);
        let task = tokio::spawn(async move {
            let _held = _never;
            run.await.unwrap();
        });
        let running = Self { folder, stop, task };
        running.until_callers_are_known().await;
        running
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("grpc.sock")
    }

    async fn until_callers_are_known(&self) {
        let waiting = async {
            for credentials in ["orders:secret", "closed:secret"] {
                while let Err(status) = evaluate(&self.socket(), credentials, question()).await
                    && status.code() == Code::Unavailable
                {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn channel(socket: &Path) -> Channel {
    let address = format!("unix://{}", socket.display());
    Endpoint::from_shared(address).unwrap().connect().await.unwrap()
}

/// One call with these credentials.
async fn call<Q, A>(
    socket: &Path,
    method: &'static str,
    credentials: &str,
    message: Q,
) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel(socket).await);
    grpc.ready().await.unwrap();
    let mut request = Request::new(message);
    if !credentials.is_empty() {
        let basic = format!("Basic {}", STANDARD.encode(credentials));
        request.metadata_mut().insert("authorization", basic.parse().unwrap());
    }
    let path = http::uri::PathAndQuery::from_static(method);
    let codec = ProstCodec::<Q, A>::default();
    Ok(grpc.unary(request, path, codec).await?.into_inner())
}

async fn evaluate(
    socket: &Path,
    credentials: &str,
    question: EvaluateRequest,
) -> Result<EvaluateResponse, Status> {
    call(socket, "/placet.v1.PolicyDecisionPoint/Evaluate", credentials, question).await
}

fn number(value: f64) -> prost_types::Value {
    prost_types::Value { kind: Some(Kind::NumberValue(value)) }
}

fn level(level: f64) -> Option<Struct> {
    Some(Struct { fields: [("level".to_owned(), number(level))].into() })
}

/// Whether alice may read account 1, of level 3.
fn question() -> EvaluateRequest {
    let text = str::to_owned;
    EvaluateRequest {
        subject: Some(Subject { r#type: text("User"), id: text("alice"), properties: None }),
        action: Some(Action { name: text("read"), properties: None }),
        resource: Some(Resource { r#type: text("Account"), id: text("1"), properties: level(3.0) }),
        context: None,
        sign: false,
    }
}

fn of(account: &str) -> EvaluateRequest {
    let id = account.to_owned();
    let resource = Resource { r#type: String::new(), id, properties: level(3.0) };
    EvaluateRequest { resource: Some(resource), ..EvaluateRequest::default() }
}

fn acting(action: &str) -> EvaluateRequest {
    let action = Action { name: action.to_owned(), properties: None };
    EvaluateRequest { action: Some(action), ..question() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_three_calls_answer_as_over_http() {
    let placet = Running::start().await;
    let socket = placet.socket();
    let asked = |question| evaluate(&socket, "orders:secret", question);

    let yes = asked(question()).await.unwrap();
    assert_eq!(yes, EvaluateResponse { decision: true, ..EvaluateResponse::default() });
    let signed = asked(EvaluateRequest { sign: true, ..question() }).await.unwrap();
    assert!(signed.decision && signed.token.split('.').count() == 3 && !signed.id.is_empty());
    let no = asked(acting("open")).await.unwrap();
    assert_eq!((no.decision, no.reason.as_str(), no.token.as_str()), (false, "no_permit", ""));
    let fault = asked(acting("close")).await.unwrap_err();
    assert_eq!((fault.code(), fault.message()), (Code::Internal, "policy_error"));

    for (semantic, expected) in [
        (Semantic::ExecuteAll, vec![true, false, true]),
        (Semantic::DenyOnFirstDeny, vec![true, false]),
        (Semantic::PermitOnFirstPermit, vec![true]),
    ] {
        let request = EvaluateBatchRequest {
            defaults: Some(question()),
            evaluations: vec![of("1"), acting("close"), of("2")],
            semantic: semantic.into(),
        };
        let path = "/placet.v1.PolicyDecisionPoint/EvaluateBatch";
        let answer: EvaluateBatchResponse =
            call(&socket, path, "orders:secret", request).await.unwrap();
        let given: Vec<bool> = answer.evaluations.iter().map(|answer| answer.decision).collect();
        assert_eq!(given, expected, "{semantic:?}");
        if let Some(failed) = answer.evaluations.get(1) {
            assert_eq!(failed.error.as_ref().unwrap().status, 500);
        }
    }

    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let EvaluateRequest { subject, action, resource, context, .. } = question();
        let open = Open::Resource.into();
        let request = SearchRequest { open, subject, action, resource, context, token, limit: 1 };
        let path = "/placet.v1.PolicyDecisionPoint/Search";
        let page: SearchResponse = call(&socket, path, "orders:secret", request).await.unwrap();
        assert_eq!(page.results.len(), 1);
        found.extend(page.results);
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["1", "2"]);
    placet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_is_a_status() {
    let placet = Running::start().await;
    let socket = placet.socket();
    for (credentials, code) in [
        ("", Code::Unauthenticated),
        ("orders:wrong", Code::Unauthenticated),
        ("others:secret", Code::Unauthenticated),
        ("closed:secret", Code::PermissionDenied),
    ] {
        let refused = evaluate(&socket, credentials, question()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{credentials}: {refused}");
    }
    let mut deep = number(1.0);
    for _ in 0..40 {
        deep = prost_types::Value { kind: Some(Kind::ListValue(ListValue { values: vec![deep] })) };
    }
    let deep = Some(Struct { fields: [("a".to_owned(), deep)].into() });
    let infinite = Some(Struct { fields: [("a".to_owned(), number(f64::INFINITY))].into() });
    for (malformed, message) in [
        (EvaluateRequest::default(), "`subject` is missing"),
        (EvaluateRequest { resource: Some(Resource::default()), ..question() }, "`resource.type`"),
        (EvaluateRequest { context: deep, ..question() }, "nests deeper"),
        (EvaluateRequest { context: infinite, ..question() }, "is not json"),
    ] {
        let refused = evaluate(&socket, "orders:secret", malformed).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(message), "{refused}");
    }
    let path = "/placet.v1.PolicyDecisionPoint/Search";
    let unspecified = SearchRequest::default();
    let refused = call::<_, SearchResponse>(&socket, path, "orders:secret", unspecified).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let path = "/placet.v1.PolicyDecisionPoint/Nothing";
    let refused = call::<_, EvaluateResponse>(&socket, path, "orders:secret", question()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    placet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_service() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let placet = Running::start().await;
    let mut client = ServerReflectionClient::new(channel(&placet.socket()).await);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let asked = tokio_stream::once(request);
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"placet.v1.PolicyDecisionPoint"), "{names:?}");
    drop(answers);
    drop(client);
    placet.stop().await;
}
