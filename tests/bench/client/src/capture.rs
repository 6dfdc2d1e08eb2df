//! A CheckRequest as Envoy sends it for a GET of a signed-in user, and the issuer of its token.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::google::protobuf::Timestamp;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::rand_core::OsRng;
use prost::Message;
use serde_json::{Value, json};

const KEY_ID: &str = "idp-1";

/// Long enough for any run.
const TOKEN_SECONDS: u64 = 6 * 3600;

/// Writes `idp.jwks.json`, and a message `NAME.bin` for each case `NAME=METHOD,PATH,SCOPE`.
#[expect(clippy::disallowed_methods, reason = "tokens must be good for the server's own clock")]
pub(crate) fn prepare(directory: &Path, cases: &[&str]) -> Result<(), Box<dyn Error>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let key = SigningKey::random(&mut OsRng);
    fs::create_dir_all(directory)?;
    fs::write(directory.join("idp.jwks.json"), jwks(&key).to_string())?;
    let token = token(&key, now);
    for case in cases {
        let (name, request) = case.split_once('=').ok_or_else(|| unreadable(case))?;
        let [method, path, scope] =
            request.split(',').collect::<Vec<_>>().try_into().map_err(|_| unreadable(case))?;
        let message = check_request(method, path, scope, &token, now);
        fs::write(directory.join(format!("{name}.bin")), message.encode_to_vec())?;
    }
    Ok(())
}

fn unreadable(case: &str) -> String {
    format!("`{case}` is no case: write NAME=METHOD,PATH,SCOPE")
}

fn jwks(key: &SigningKey) -> Value {
    let point = key.verifying_key().to_encoded_point(false);
    let coordinate = |bytes: Option<_>| bytes.map(|bytes| BASE64.encode(bytes));
    json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
        "x": coordinate(point.x()), "y": coordinate(point.y()),
    }]})
}

fn token(key: &SigningKey, now: u64) -> String {
    let header = json!({"alg": "ES256", "kid": KEY_ID, "typ": "JWT"});
    let claims = json!({
        "iss": "https://idp.example/", "sub": "alice@example.org", "aud": ["orders-api"],
        "iat": now, "exp": now + TOKEN_SECONDS, "scope": "orders:read orders:write",
        "groups": ["eng", "oncall"], "email": "alice@example.org",
    });
    let [header, claims] = [header, claims].map(|part| BASE64.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let signature: Signature = key.sign(signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(signature.to_bytes()))
}

/// Seventeen headers, four of them pseudo headers, as Envoy counts them.
fn check_request(method: &str, path: &str, scope: &str, token: &str, now: u64) -> CheckRequest {
    let authorization = format!("Bearer {token}");
    let headers = [
        (":authority", "orders.example.com"),
        (":method", method),
        (":path", path),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("authorization", &authorization),
        ("cache-control", "no-cache"),
        ("referer", "https://www.example.com/orders"),
        ("sec-fetch-mode", "cors"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("user-agent", "curl/7.88.1"),
        ("x-envoy-external-address", "192.0.2.2"),
        ("x-forwarded-for", "192.0.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "8e7853a1-6a0b-4ac8-84f7-83e939b4bb0f"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let http = HttpRequest {
        id: "4276809336591076463".to_owned(),
        method: method.to_owned(),
        headers: headers.map(owned).into(),
        path: path.to_owned(),
        host: "orders.example.com".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        ..HttpRequest::default()
    };
    let time = Timestamp { seconds: now.cast_signed(), nanos: 82_597_000 };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer("192.0.2.2", 49_220)),
            destination: Some(peer("127.0.0.1", 10_000)),
            request: Some(Request { time: Some(time), http: Some(http) }),
            context_extensions: HashMap::from([
                ("placet.scope".to_owned(), scope.to_owned()),
                ("virtual_host".to_owned(), "local".to_owned()),
            ]),
            ..AttributeContext::default()
        }),
    }
}

fn peer(address: &str, port: u32) -> Peer {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    let address = Address { address: Some(AddressKind::SocketAddress(socket)) };
    Peer { address: Some(address), ..Peer::default() }
}
