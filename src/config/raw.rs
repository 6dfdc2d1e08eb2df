//! The settings as they are written: a serde mirror of `placet.yaml`, and its JSON Schema.
//!
//! Nothing is judged here beyond shape. Every field that the checks can miss is optional, so that
//! one missing field does not hide the next error; [`super::check`] says what is required.

mod forms;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::keys::Algorithm;

pub(super) use forms::{ListenerForm, OneOrMany, SinkForm};
use forms::{ScopesForm, present};

macro_rules! raw {
    ($(#[$meta:meta])* pub(super) struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub(super) struct $name { $($body)* }
    };
}

raw! {
    /// The settings of Placet.
    pub(super) struct Settings {
        /// The version of the settings' form: 1.
        pub(super) version: Option<u64>,
        /// The addresses to listen on.
        pub(super) listen: Listen,
        /// The Secret Management Service's stores; exactly one is the default.
        pub(super) secret_stores: Vec<Store>,
        /// The protected applications: a list, or `{directory: …}` with one scope a file.
        #[schemars(with = "ScopesForm")]
        pub(super) scopes: Vec<Scope>,
        /// Where a line for each decision goes.
        pub(super) decision_log: DecisionLog,
        /// How long start-up waits for every scope before the complete ones are served.
        pub(super) startup_grace: Option<String>,
        /// `all`: ready only while every scope is complete. `any`: once one is, after the grace.
        pub(super) readiness: Option<ReadinessRule>,
    }
}

raw! {
    /// The addresses to listen on. Each is `HOST:PORT`, `unix:/PATH`, or a map.
    pub(super) struct Listen {
        /// ext_authz, health and reflection. Default: 127.0.0.1:9191.
        pub(super) grpc: Option<ListenerForm>,
        /// JWKS. Default: 127.0.0.1:9192.
        pub(super) http: Option<ListenerForm>,
        /// /livez, /readyz, /metrics and /config. Default: 127.0.0.1:9193.
        pub(super) admin: Option<ListenerForm>,
        /// Where `placet keys activate` and `placet keys withdraw` reach this process: `unix:/PATH`,
        /// mode 0600, never TCP. Default: nowhere.
        pub(super) control: Option<String>,
    }
}

raw! {
    /// A listener with more than its address.
    pub(super) struct Listener {
        /// `HOST:PORT` or `unix:/PATH`.
        pub(super) address: Option<String>,
        /// Serve TLS.
        pub(super) tls: Option<ListenerTls>,
        /// The Unix socket's permissions, octal: "0660".
        pub(super) mode: Option<String>,
    }
}

raw! {
    /// TLS of a listener.
    pub(super) struct ListenerTls {
        /// The certificate chain, PEM.
        pub(super) certificate_file: Option<String>,
        /// Its private key, PEM.
        pub(super) key_file: Option<String>,
        /// Require client certificates issued by these authorities, PEM.
        pub(super) client_ca_file: Option<String>,
        /// The URI names a client certificate may have.
        pub(super) allowed_uri_sans: Option<Vec<String>>,
    }
}

raw! {
    /// A secret store.
    pub(super) struct Store {
        /// The id that scopes choose it by.
        pub(super) id: Option<String>,
        /// What kind of store it is.
        #[serde(rename = "type")]
        pub(super) kind: Option<StoreType>,
        /// Used by scopes that name no store. True for exactly one store.
        pub(super) default: Option<bool>,
        /// The settings of its type.
        pub(super) details: Details,
    }
}

/// The kinds of secret store.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum StoreType {
    Vault,
    File,
    Env,
    AwsSecretsManager,
    AzureKeyVault,
}

raw! {
    /// The settings of a secret store. Which ones apply depends on its type.
    pub(super) struct Details {
        /// vault: the address, or those of one cluster's nodes. awsSecretsManager: an endpoint in place
        /// of the region's.
        pub(super) address: Option<OneOrMany>,
        /// vault, awsSecretsManager: accept `http://` beyond loopback.
        pub(super) insecure_http: Option<bool>,
        /// vault: the namespace.
        pub(super) namespace: Option<String>,
        /// vault: the KV mount. Default: secret.
        pub(super) mount: Option<String>,
        /// vault: 1 or 2. Default: 2.
        pub(super) kv_version: Option<u64>,
        /// vault: the Transit mount. Default: transit.
        pub(super) transit_mount: Option<String>,
        /// vault: used by scopes with no pathToKey.
        pub(super) default_path: Option<String>,
        /// vault: how to log in.
        pub(super) auth: Option<Auth>,
        /// vault: trust.
        pub(super) tls: Option<StoreTls>,
        /// vault, awsSecretsManager, azureKeyVault: the time for one call. Default: 2s.
        pub(super) timeout: Option<String>,
        /// vault, awsSecretsManager, azureKeyVault: how often to look for a new key version. Default:
        /// 30s.
        pub(super) refresh_interval: Option<String>,
        /// file: where the key files are.
        pub(super) directory: Option<String>,
        /// env: what the variables' names begin with.
        pub(super) prefix: Option<String>,
        /// awsSecretsManager: the region. Required.
        pub(super) region: Option<String>,
        /// azureKeyVault: the vault's address, `https://NAME.vault.azure.net`. Required.
        pub(super) vault_url: Option<String>,
    }
}

raw! {
    /// A login to Vault. Which settings apply depends on the method.
    pub(super) struct Auth {
        /// How to log in.
        pub(super) method: Option<AuthMethod>,
        /// The auth method's mount. Default: the method's name.
        pub(super) mount: Option<String>,
        /// kubernetes, jwt: the role. cert: the role, if not any. appRole: the name of the role whose
        /// wrapped secret id it is.
        pub(super) role: Option<String>,
        /// token: as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(super) token: Option<String>,
        /// token: a file that holds it.
        pub(super) token_file: Option<String>,
        /// token: an environment variable that holds it.
        pub(super) token_env: Option<String>,
        /// appRole: the role id.
        pub(super) role_id: Option<String>,
        /// appRole: a file that holds the role id.
        pub(super) role_id_file: Option<String>,
        /// appRole: as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(super) secret_id: Option<String>,
        /// appRole: a file that holds the secret id.
        pub(super) secret_id_file: Option<String>,
        /// appRole: an environment variable that holds the secret id.
        pub(super) secret_id_env: Option<String>,
        /// appRole: the secret id is response-wrapped; needs `role`.
        pub(super) secret_id_wrapped: Option<bool>,
        /// kubernetes: the projected token. Default: where Kubernetes mounts it.
        pub(super) service_account_token_file: Option<String>,
        /// jwt: the token.
        pub(super) jwt_file: Option<String>,
        /// cert: the client certificate, PEM.
        pub(super) certificate_file: Option<String>,
        /// cert: its private key, PEM.
        pub(super) key_file: Option<String>,
    }
}

/// The ways to log in to Vault.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum AuthMethod {
    Token,
    AppRole,
    Kubernetes,
    Jwt,
    Cert,
}

raw! {
    /// Whom a store's client trusts.
    pub(super) struct StoreTls {
        /// Certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(super) ca_file: Option<String>,
    }
}

raw! {
    /// One protected application.
    pub(super) struct Scope {
        /// Its identifier: letters, digits, `.`, `_`, `-`; at most 128.
        pub(super) client_id: Option<String>,
        /// Takes the requests that no other scope does.
        pub(super) default: Option<bool>,
        /// Which requests are its own.
        #[serde(rename = "match")]
        pub(super) matches: ScopeMatch,
        /// Who may ask.
        pub(super) identity: Identity,
        /// Which asset and action a request is about; the first match wins.
        pub(super) routes: Vec<Route>,
        /// Paths that are refused in general and accepted here.
        pub(super) paths: Paths,
        /// Who may do what.
        pub(super) policy: Option<Policy>,
        /// Where the private key comes from.
        pub(super) jwt_signing: JwtSigning,
        /// The token.
        pub(super) jwt_response: JwtResponse,
        /// How the decision stands in the token.
        pub(super) jwt_customization: JwtCustomization,
        /// What a refused client sees.
        pub(super) deny: Deny,
        /// Let every denial pass, without a token, and only record it: for the first roll-out, since
        /// the application is not protected. Default: false.
        pub(super) dry_run: Option<bool>,
        /// What an answer tells beside itself. Default: nothing.
        pub(super) explain: Explain,
        /// Answer others than the proxy, on the http listener. Default: nobody.
        pub(super) api: Option<Api>,
    }
}

raw! {
    /// What an answer tells of its decision beside itself.
    pub(super) struct Explain {
        /// A header of the response to the client, with the decision's id and its reason code.
        pub(super) response_header: Option<String>,
        /// Dynamic metadata for Envoy's access log and later filters: id, reason, revision and
        /// determining policies. Default: false.
        pub(super) metadata: Option<bool>,
    }
}

raw! {
    /// Which requests are a scope's.
    pub(super) struct ScopeMatch {
        /// Host names; `*.` stands for one or more whole labels.
        pub(super) hosts: Vec<String>,
    }
}

raw! {
    /// Who may ask.
    pub(super) struct Identity {
        /// What a caller must bring. Default: `both` when jwt and peer are configured.
        pub(super) require: Option<Require>,
        /// The issuers whose tokens are accepted.
        pub(super) jwt: Vec<Issuer>,
        /// Accept API keys. To `require` they are what tokens are.
        pub(super) api_keys: Option<ApiKeys>,
        /// Accept the mTLS peer: its SPIFFE id, or another name in its certificate.
        pub(super) peer: Option<Peer>,
        /// Let requests without credentials be the anonymous principal. Default: false.
        pub(super) anonymous: Option<bool>,
    }
}

/// What a caller must bring.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Require {
    Jwt,
    Peer,
    Both,
    Either,
}

raw! {
    /// An issuer of incoming tokens. Without jwksUri, jwksFile and introspection its keys are found by
    /// OpenID discovery.
    pub(super) struct Issuer {
        /// The exact `iss`.
        pub(super) issuer: Option<String>,
        /// The accepted `aud` values, or `any`.
        pub(super) audiences: Option<OneOrMany>,
        /// Where its keys are fetched.
        pub(super) jwks_uri: Option<String>,
        /// A file with its keys.
        pub(super) jwks_file: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(super) insecure_http: Option<bool>,
        /// Certificate authorities to trust when its keys are fetched, PEM; only these. Default: the
        /// system's.
        pub(super) ca_file: Option<String>,
        /// A file with a bearer token to present when its keys are fetched, read anew each time: a
        /// Kubernetes API server wants one. It is shown to the host of the first address only.
        pub(super) token_file: Option<String>,
        /// Its tokens are opaque: ask it about them, in place of keys.
        pub(super) introspection: Option<Introspection>,
        /// The accepted algorithms. Default: all asymmetric ones.
        pub(super) algorithms: Option<Vec<Algorithm>>,
        /// The accepted `typ` values; `absent` stands for none. Default: JWT, at+jwt, absent.
        pub(super) types: Option<Vec<String>>,
        /// Where its tokens are found. Default: the header authorization with the prefix `Bearer `.
        pub(super) from: Option<Vec<Place>>,
        /// The claim path of the subject: names joined by dots, or a list of names. Default: sub.
        pub(super) subject: Option<OneOrMany>,
        /// The claim path of the groups. Default: groups.
        pub(super) groups: Option<OneOrMany>,
        /// Further claims: the name each has in this scope, and its path in this issuer's tokens. It
        /// replaces a claim of that name.
        pub(super) claims: std::collections::BTreeMap<String, OneOrMany>,
        /// The Cedar entity type of its principals. Default: User.
        pub(super) principal_type: Option<String>,
        /// Written before each group's name, to keep two issuers' groups apart.
        pub(super) group_prefix: Option<String>,
        /// Tolerance for `nbf` and `iat`. Default: 30s.
        pub(super) clock_skew: Option<String>,
    }
}

raw! {
    /// How an issuer is asked about its tokens (RFC 7662).
    pub(super) struct Introspection {
        /// The introspection endpoint.
        pub(super) url: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(super) insecure_http: Option<bool>,
        /// Certificate authorities to trust, PEM; only these. Default: the system's.
        pub(super) ca_file: Option<String>,
        /// The client that asks, by HTTP Basic.
        pub(super) client_id: Option<String>,
        /// Its secret, as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(super) client_secret: Option<String>,
        /// A file that holds the secret, read anew each time.
        pub(super) client_secret_file: Option<String>,
        /// An environment variable that holds the secret.
        pub(super) client_secret_env: Option<String>,
        /// How long an answer is kept, at most 1h; so long a revocation can go unseen. Default: 30s.
        pub(super) cache_ttl: Option<String>,
        /// How many answers are kept. Default: 10000.
        pub(super) cache_size: Option<u64>,
        /// The time for asking. Default: 200ms.
        pub(super) timeout: Option<String>,
    }
}

raw! {
    /// A place that holds a token: a header with an optional prefix, a cookie, or a parameter of the
    /// query.
    pub(super) struct Place {
        /// The header's name.
        pub(super) header: Option<String>,
        /// What stands before the token in the header.
        pub(super) prefix: Option<String>,
        /// The cookie's name.
        pub(super) cookie: Option<String>,
        /// The parameter's name. The query travels upstream, and into access logs.
        pub(super) query: Option<String>,
    }
}

raw! {
    /// API keys, known by their digests.
    pub(super) struct ApiKeys {
        /// The header that holds a key. Default: x-api-key.
        pub(super) header: Option<String>,
        /// What stands before the key in the header.
        pub(super) prefix: Option<String>,
        /// The parameter of the query that holds a key, in place of a header.
        pub(super) query: Option<String>,
        /// The Cedar entity type of those who present one. Default: ApiKey.
        pub(super) principal_type: Option<String>,
        /// The store that holds the list. Default: the default store.
        pub(super) secret_store: Option<String>,
        /// Where in the store. Default: the store's defaultPath.
        pub(super) path_to_key: Option<String>,
        /// The name of the secret: a map from an id to `{hash: "sha256:…", subject, groups, claims,
        /// expires}`, YAML or JSON. Default: the client ID and `.api-keys`.
        pub(super) key_name: Option<String>,
    }
}

raw! {
    /// The mTLS peer.
    pub(super) struct Peer {
        /// The SPIFFE trust domains that are accepted. Required, unless another subject counts.
        pub(super) trust_domains: Vec<String>,
        /// How the certificate comes: from the proxy's own connection, or in a header that a hop
        /// before it sets. Default: source.
        pub(super) from: Option<CertificateSource>,
        /// The addresses of those hops: `10.0.0.0/8`, `192.0.2.7`. From elsewhere the header is
        /// refused.
        pub(super) trusted_hops: Vec<String>,
        /// What names the peer. Default: spiffeId.
        pub(super) subject: Option<PeerSubject>,
    }
}

/// How a client certificate comes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum CertificateSource {
    /// `source.principal` and `source.certificate` of the proxy's own connection.
    Source,
    /// The header `Client-Cert` (RFC 9440).
    ClientCert,
    /// The header `x-forwarded-client-cert`.
    Xfcc,
}

/// What names a peer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PeerSubject {
    SpiffeId,
    UriSan,
    DnsSan,
    CommonName,
    Sha256,
}

raw! {
    /// A route: either asset and action, or bypass.
    pub(super) struct Route {
        /// Which requests it takes.
        #[serde(rename = "match")]
        pub(super) matches: RouteMatch,
        /// The asset.
        pub(super) asset: Option<Asset>,
        /// The action.
        pub(super) action: Option<String>,
        /// Forward without authentication, decision and token. Default: false.
        pub(super) bypass: Option<bool>,
    }
}

raw! {
    /// Which requests a route takes.
    pub(super) struct RouteMatch {
        /// The methods; none means any.
        pub(super) methods: Option<Vec<String>>,
        /// `{x}` is one segment; `{x*}` one or more, at the end.
        pub(super) path: Option<String>,
    }
}

raw! {
    /// An asset.
    pub(super) struct Asset {
        /// Its Cedar entity type.
        #[serde(rename = "type")]
        pub(super) kind: Option<String>,
        /// Its id; `{x}` is the path's variable.
        pub(super) id: Option<String>,
    }
}

raw! {
    /// Paths that are refused in general and accepted here.
    pub(super) struct Paths {
        /// What is accepted.
        pub(super) allow: Vec<PathAllowance>,
    }
}

/// What a path may hold although it is ambiguous.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PathAllowance {
    EncodedSlash,
    DoubleSlash,
    Semicolon,
    DoubleEncoding,
}

raw! {
    /// Who may do what. Which settings apply depends on the engine.
    pub(super) struct Policy {
        /// What decides. Default: cedar.
        pub(super) engine: Option<Engine>,
        /// cedar: the policy files, in Cedar syntax, or as a JSON policy set when the name ends in `.json`. rego: bundle directories, bundles (`.tar.gz`), or `.rego` files. Both: required.
        pub(super) files: Option<Vec<String>>,
        /// cedar: the schema.
        pub(super) schema: Option<String>,
        /// cedar: the entities.
        pub(super) entities: Option<String>,
        /// rego: data files, in JSON or YAML, merged into `data` beside what the bundles hold.
        pub(super) data: Option<Vec<String>>,
        /// rego: the rule to ask, its parts with `/` between them. Default: envoy/authz/allow.
        pub(super) query: Option<String>,
        /// rego: whether the input has `parsed_body` and `truncated_body`. Default: true.
        pub(super) parse_body: Option<bool>,
        /// authzen: the address of the evaluation endpoint, such as
        /// `https://pdp/access/v1/evaluation`. Required.
        pub(super) url: Option<String>,
        /// authzen: the time for one call, less than the proxy's own. Default: 100ms.
        pub(super) timeout: Option<String>,
        /// authzen: how long a decision is kept. Default: 0s, not at all.
        pub(super) cache_ttl: Option<String>,
        /// authzen: how many decisions are kept. Default: 10000.
        pub(super) cache_size: Option<usize>,
        /// authzen: a file with a bearer token to present, read at each call.
        pub(super) token_file: Option<String>,
        /// authzen: the user name of HTTP Basic credentials to present.
        pub(super) username: Option<String>,
        /// authzen: a file with their password, read at each call.
        pub(super) password_file: Option<String>,
        /// authzen: certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(super) ca_file: Option<String>,
        /// authzen: accept `http://` beyond loopback.
        pub(super) insecure_http: Option<bool>,
        /// authzen: speak HTTP/2 over `http://` without asking; over `https://` it is agreed on anyway.
        /// Default: false.
        pub(super) prior_knowledge: Option<bool>,
        /// authzen: request headers that are sent along. Default: none.
        pub(super) send_headers: Option<Vec<String>>,
        /// authzen: query parameters that are sent along. Default: none.
        pub(super) send_query: Option<Vec<String>>,
        /// cedar, rego: a bundle that is fetched, in place of files.
        pub(super) bundle: Option<PolicyBundle>,
        /// A second policy set, evaluated and compared, never enforced.
        pub(super) shadow: Option<Shadow>,
    }
}

raw! {
    /// A bundle of policies (`.tar.gz`) that is fetched, and again whenever it changes.
    pub(super) struct PolicyBundle {
        /// Its address.
        pub(super) url: Option<String>,
        /// How often to look for another one. Default: 60s.
        pub(super) poll_interval: Option<String>,
        /// A file with a bearer token to present, read at each look.
        pub(super) token_file: Option<String>,
        /// Certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(super) ca_file: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(super) insecure_http: Option<bool>,
        /// Who must have signed it. Default: nobody.
        pub(super) verification: Option<BundleVerification>,
    }
}

raw! {
    /// Who must have signed a bundle (`.signatures.json`, as `opa sign` makes it).
    pub(super) struct BundleVerification {
        /// The public key or certificate, PEM, or a JWK set.
        pub(super) key_file: Option<String>,
        /// What it signs with. Default: RS256.
        pub(super) algorithm: Option<Algorithm>,
        /// The key's id. Default: whichever the signature names.
        pub(super) key_id: Option<String>,
        /// The signature's scope. Default: none.
        pub(super) scope: Option<String>,
    }
}

raw! {
    /// A second policy set, evaluated and compared, never enforced.
    pub(super) struct Shadow {
        /// What evaluates it. Default: the engine of the policies in force.
        pub(super) engine: Option<Engine>,
        /// The policy files.
        pub(super) files: Option<Vec<String>>,
        /// cedar: the schema.
        pub(super) schema: Option<String>,
        /// cedar: the entities.
        pub(super) entities: Option<String>,
        /// rego: data files.
        pub(super) data: Option<Vec<String>>,
        /// rego: the rule to ask.
        pub(super) query: Option<String>,
    }
}

/// What decides.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Engine {
    Cedar,
    Rego,
    Authzen,
}

raw! {
    /// Where the private key comes from.
    pub(super) struct JwtSigning {
        /// The store's id. Default: the default store.
        pub(super) secret_store: Option<String>,
        /// Where in the store. Default: the store's defaultPath. awsSecretsManager: the secret's name or
        /// ARN; required.
        pub(super) path_to_key: Option<String>,
        /// The key's name. Default: the client ID. awsSecretsManager: the field of a JSON secret;
        /// without it the whole secret is the key.
        pub(super) key_name: Option<String>,
        /// The algorithm. Default by key: P-256 ES256, P-384 ES384, RSA RS256, Ed25519 EdDSA.
        pub(super) algorithm: Option<Algorithm>,
        /// `kv`: the key in memory. `transit`: the key never leaves Vault. Default: kv.
        pub(super) backend: Option<Backend>,
        /// A new key version is published this long before it signs. Default: 20m.
        pub(super) publish_before: Option<String>,
        /// With the store away longer than this, stop signing. Default: 24h.
        pub(super) max_key_age: Option<String>,
    }
}

/// Where signing happens.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Backend {
    Kv,
    Transit,
}

raw! {
    /// The token.
    pub(super) struct JwtResponse {
        /// `kid`; may hold {{client_id}}, {{key_version}}, {{thumbprint}}. Default: the client ID.
        pub(super) key_id: Option<String>,
        /// `aud`: one or a list. Default: none.
        pub(super) audience: Option<OneOrMany>,
        /// `iss`. Default: placet.
        pub(super) issuer: Option<String>,
        /// PEM, leaf first; published in the JWKS.
        pub(super) x509_certificate: Option<String>,
        /// Seconds from issue to expiry: 1 to 86400. Required.
        pub(super) token_lifetime_seconds: Option<u64>,
        /// The header injected upstream. Default: x-placet-decision.
        pub(super) header: Option<String>,
        /// Written before the token in the header.
        pub(super) header_prefix: Option<String>,
        /// Request headers that must not travel upstream.
        pub(super) remove_headers: Vec<String>,
        /// `typ`. Default: JWT.
        #[serde(rename = "type")]
        pub(super) kind: Option<String>,
        /// Set the claims htm and htu. Default: true.
        pub(super) bind_request: Option<bool>,
    }
}

raw! {
    /// How the decision stands in the token.
    pub(super) struct JwtCustomization {
        /// Carry the verified incoming claims over. Default: false.
        pub(super) include_incoming_payload: Option<bool>,
        /// Name who acts for the subject (`act`, RFC 8693), as the incoming token does. Default: false.
        pub(super) include_actor: Option<bool>,
        /// The claim that holds the decision. Default: entitlements.
        pub(super) claim_attribute_name: Option<String>,
        /// One item. {{attr.NAME}} is an attribute of the asset in the policy's entities. Default:
        /// {{asset_type}}:{{asset_id}}:{{action}}.
        pub(super) template: Option<String>,
        /// Joins the items; null makes a JSON array. Default: a comma.
        #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>")]
        pub(super) item_delimiter: Option<Option<String>>,
        /// `decision`: this request's target. `entitlements`: all the principal holds.
        pub(super) items: Option<Items>,
        /// With `items: entitlements`: a principal that holds more is denied. Default: 1000.
        pub(super) max_items: Option<usize>,
    }
}

/// What the decision claim lists.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Items {
    Decision,
    Entitlements,
}

raw! {
    /// What a refused client sees.
    pub(super) struct Deny {
        /// In place of 403: 400 to 599.
        pub(super) status: Option<u16>,
        /// Added to every denial.
        pub(super) headers: std::collections::BTreeMap<String, String>,
        /// In place of the 403 body.
        pub(super) body: Option<String>,
    }
}

raw! {
    /// What a scope answers beside its proxy's checks. Callers present its client ID and a secret as
    /// HTTP Basic credentials.
    pub(super) struct Api {
        /// Questions in the words of AuthZEN: `/access/v1/evaluation` and the rest. Default: false.
        pub(super) authzen: Option<bool>,
        /// The checks of a proxy that asks over HTTP: `/check/…`. Default: false.
        pub(super) check: Option<bool>,
        /// check: the scheme of the requests that are asked about, `http` or `https`. Default: http.
        pub(super) scheme: Option<Scheme>,
        /// authzen: the https address that callers reach it at, without a `/` at the end; published in
        /// its metadata. Default: no metadata.
        pub(super) public_url: Option<String>,
        /// The store that holds the SHA-256 of the callers' secrets. Default: the default store.
        pub(super) secret_store: Option<String>,
        /// Where in the store. Default: the store's defaultPath.
        pub(super) path_to_key: Option<String>,
        /// The name of the secret: lines of `sha256:` and 64 hexadecimal digits. Default: the client ID and
        /// `.callers`.
        pub(super) key_name: Option<String>,
    }
}

/// A scheme.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Scheme {
    Http,
    Https,
}

raw! {
    /// Where a line for each decision goes.
    pub(super) struct DecisionLog {
        /// `stdout`, `none`, or `{file: PATH}`. Default: stdout.
        pub(super) sink: Option<SinkForm>,
    }
}

raw! {
    /// A file that decision lines are appended to.
    pub(super) struct SinkFile {
        /// Its path.
        pub(super) file: Option<String>,
    }
}

/// When the process is ready.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReadinessRule {
    Any,
    All,
}

/// What must be written, by definition. The structs can't say so: to them every field is optional,
/// so that one missing field does not hide the next error.
const REQUIRED: [(&str, &[&str]); 10] = [
    ("Store", &["id", "type"]),
    ("Auth", &["method"]),
    ("Scope", &["clientId", "policy", "jwtResponse"]),
    ("Issuer", &["issuer", "audiences"]),
    ("Introspection", &["url", "clientId"]),
    ("Route", &["match"]),
    ("RouteMatch", &["path"]),
    ("JwtResponse", &["tokenLifetimeSeconds"]),
    ("PolicyBundle", &["url"]),
    ("BundleVerification", &["keyFile"]),
];

/// The JSON Schema of the settings.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Settings).to_value();
    drop_defaults(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("required".to_owned(), json!(["secretStores", "scopes"]));
    }
    for (name, required) in REQUIRED {
        if let Some(Value::Object(definition)) = schema.pointer_mut(&format!("/$defs/{name}")) {
            definition.insert("required".to_owned(), json!(required));
        }
    }
    schema
}

/// The derived defaults only say "absent"; the descriptions say what takes effect.
fn drop_defaults(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "default" || is_schema(value));
            fields.values_mut().for_each(drop_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_defaults),
        _ => {}
    }
}

/// A setting may be called `default` too: then a schema with a description stands there.
fn is_schema(value: &Value) -> bool {
    value.get("description").is_some()
}
