//! The settings as they are written: a serde mirror of `placet.yaml`, and its JSON Schema.
//!
//! Nothing is judged here beyond shape. Every field that the checks can miss is optional, so that
//! one missing field does not hide the next error; [`super::check`] says what is required.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keys::Algorithm;

pub use self::schema::schema;
#[cfg(feature = "control")]
pub(crate) use self::schema::{scope_schema, store_schema};

pub(super) use self::forms::{FileForm, ListenerForm, OneOrMany, SinkForm};
use self::forms::{NameOrNumber, ScopesForm, name_or_number, present};
pub(super) use self::identity::{
    ApiKeys, CertificateSource, Identity, Introspection, Issuer, Peer, PeerSubject, Place, Require,
};
pub(super) use self::log::{
    BatchCompression, BatchFormat, DecisionLog, FileSink, Mask, Masking, OtlpProtocol, RemoteSink,
    Sink, WhenFull,
};
pub(super) use self::policy::{BundleVerification, Engine, Policy, PolicyBundle, Shadow};
pub(super) use self::stores::{Auth, AuthMethod, Details, Store, StoreType};
pub(super) use self::telemetry::{Otlp, Telemetry};

macro_rules! raw {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        $vis struct $name { $($body)* }
    };
}

mod forms;
mod identity;
mod log;
mod policy;
mod schema;
mod stores;
mod telemetry;

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
        /// Where more scopes and secret stores come from.
        pub(super) control_plane: Option<ControlPlane>,
        /// Where a line for each decision goes.
        pub(super) decision_log: DecisionLog,
        /// Whether a decision is used again for requests that are the same in all that it rests on.
        pub(super) reuse: Reuse,
        /// What is sent to an OpenTelemetry collector. Default: nothing. A change takes a restart.
        pub(super) telemetry: Option<Telemetry>,
        /// How long start-up waits for every scope before the complete ones are served.
        pub(super) startup_grace: Option<String>,
        /// `all`: ready only while every scope is complete. `any`: once one is, after the grace.
        pub(super) readiness: Option<ReadinessRule>,
        /// Whether changed files are taken over by themselves.
        pub(super) reload: Reload,
        /// Callers who are refused at once, whatever the policies say.
        pub(super) deny_list: Option<DenyList>,
        /// After SIGTERM, go on serving for this long, as not ready. Default: 0s. A change takes a
        /// restart.
        pub(super) drain_after: Option<String>,
        /// How long requests in progress may take at the end. Default: 10s. A change takes a restart.
        pub(super) shutdown_grace: Option<String>,
    }
}

raw! {
    /// The control plane, which sends scopes, secret stores and policies. The last good ones are kept on disk, and
    /// it may be away for as long as it likes. A change takes a restart.
    pub(super) struct ControlPlane {
        /// Where it is: https://HOST:PORT. Required.
        pub(super) address: Option<String>,
        /// The token to present, read at each connection: that of a ServiceAccount, for the audience
        /// `placet-control`. Required.
        pub(super) token_file: Option<String>,
        /// The certificate authorities that its certificate is of, PEM. Required.
        pub(super) ca_file: Option<String>,
        /// Where the last good snapshot is kept, for this process alone. Required.
        pub(super) directory: Option<String>,
    }
}

raw! {
    /// The settings of a snapshot.
    pub(super) struct Snapshot {
        pub(super) version: Option<u64>,
        pub(super) secret_stores: Vec<Store>,
        #[schemars(with = "ScopesForm")]
        pub(super) scopes: Vec<Scope>,
    }
}

raw! {
    /// Whether changed files are taken over by themselves: settings, policies and what they name. SIGHUP
    /// does it in any case.
    pub(super) struct Reload {
        /// Default: true.
        pub(super) watch: Option<bool>,
        /// How often to look. A change counts once two looks agree. Default: 1s.
        pub(super) interval: Option<String>,
    }
}

raw! {
    /// Callers who are refused at once, whatever the policies say.
    pub(super) struct DenyList {
        /// A file, YAML or JSON, with `subjects`, `jtis` and `clientIds`. Required. It counts within a
        /// second of being written.
        pub(super) file: Option<String>,
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
        /// The Unix socket's group, by name or number: with mode "0660" its members may connect. Placet's
        /// user must be one.
        #[serde(deserialize_with = "name_or_number")]
        #[schemars(with = "Option<NameOrNumber>")]
        pub(super) group: Option<String>,
    }
}

raw! {
    /// TLS of a listener, over TCP. What the files hold is taken over whenever it changes.
    pub(super) struct ListenerTls {
        /// The certificate chain, PEM, the listener's own first.
        pub(super) certificate_file: Option<String>,
        /// Its private key, PEM.
        pub(super) key_file: Option<String>,
        /// Require client certificates issued by these authorities, PEM.
        pub(super) client_ca_file: Option<String>,
        /// The SPIFFE IDs of clients, in full: a certificate must have exactly one URI name, one of these.
        pub(super) allowed_uri_sans: Option<Vec<String>>,
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
    /// HTTP Basic credentials, or a client certificate.
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
        /// The SPIFFE IDs of callers that are known by their client certificate, in full; each is of one
        /// scope only. With these, secrets count only if one of the next three is set. Default: none.
        pub(super) allowed_uri_sans: Option<Vec<String>>,
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
    /// Whether a decision is used again for requests that are the same in all that it rests on, while at
    /// least half the life of its token remains.
    pub(super) struct Reuse {
        /// Default: true.
        pub(super) enabled: Option<bool>,
        /// How much memory the kept answers take, in bytes. Default: 5242880. A change takes a restart.
        pub(super) max_bytes: Option<u64>,
    }
}

/// When the process is ready.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReadinessRule {
    Any,
    All,
}
