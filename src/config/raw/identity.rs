//! The settings of who may ask.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::keys::Algorithm;

raw! {
    /// Who may ask.
    pub(in crate::config) struct Identity {
        /// What a caller must bring. Default: `both` when jwt and peer are configured.
        pub(in crate::config) require: Option<Require>,
        /// The issuers whose tokens are accepted.
        pub(in crate::config) jwt: Vec<Issuer>,
        /// Accept API keys. To `require` they are what tokens are.
        pub(in crate::config) api_keys: Option<ApiKeys>,
        /// Accept the mTLS peer: its SPIFFE id, or another name in its certificate.
        pub(in crate::config) peer: Option<Peer>,
        /// Let requests without credentials be the anonymous principal. Default: false.
        pub(in crate::config) anonymous: Option<bool>,
    }
}

/// What a caller must bring.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum Require {
    Jwt,
    Peer,
    Both,
    Either,
}

raw! {
    /// An issuer of incoming tokens. Without jwksUri, jwksFile and introspection its keys are found by
    /// OpenID discovery.
    pub(in crate::config) struct Issuer {
        /// The exact `iss`.
        pub(in crate::config) issuer: Option<String>,
        /// The accepted `aud` values, or `any`.
        pub(in crate::config) audiences: Option<OneOrMany>,
        /// Where its keys are fetched.
        pub(in crate::config) jwks_uri: Option<String>,
        /// A file with its keys.
        pub(in crate::config) jwks_file: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(in crate::config) insecure_http: Option<bool>,
        /// Certificate authorities to trust when its keys are fetched, PEM; only these. Default: the
        /// system's.
        pub(in crate::config) ca_file: Option<String>,
        /// A file with a bearer token to present when its keys are fetched, read anew each time: a
        /// Kubernetes API server wants one. It is shown to the host of the first address only.
        pub(in crate::config) token_file: Option<String>,
        /// Its tokens are opaque: ask it about them, in place of keys.
        pub(in crate::config) introspection: Option<Introspection>,
        /// The accepted algorithms. Default: all asymmetric ones.
        pub(in crate::config) algorithms: Option<Vec<Algorithm>>,
        /// The accepted `typ` values; `absent` stands for none. Default: JWT, at+jwt, absent.
        pub(in crate::config) types: Option<Vec<String>>,
        /// Where its tokens are found. Default: the header authorization with the prefix `Bearer `.
        pub(in crate::config) from: Option<Vec<Place>>,
        /// The claim path of the subject: names joined by dots, or a list of names. Default: sub.
        pub(in crate::config) subject: Option<OneOrMany>,
        /// The claim path of the groups. Default: groups.
        pub(in crate::config) groups: Option<OneOrMany>,
        /// Further claims: the name each has in this scope, and its path in this issuer's tokens. It
        /// replaces a claim of that name.
        pub(in crate::config) claims: std::collections::BTreeMap<String, OneOrMany>,
        /// The Cedar entity type of its principals. Default: User.
        pub(in crate::config) principal_type: Option<String>,
        /// Written before each group's name, to keep two issuers' groups apart.
        pub(in crate::config) group_prefix: Option<String>,
        /// Tolerance for `nbf` and `iat`. Default: 30s.
        pub(in crate::config) clock_skew: Option<String>,
    }
}

raw! {
    /// How an issuer is asked about its tokens (RFC 7662).
    pub(in crate::config) struct Introspection {
        /// The introspection endpoint.
        pub(in crate::config) url: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(in crate::config) insecure_http: Option<bool>,
        /// Certificate authorities to trust, PEM; only these. Default: the system's.
        pub(in crate::config) ca_file: Option<String>,
        /// The client that asks, by HTTP Basic.
        pub(in crate::config) client_id: Option<String>,
        /// Its secret, as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(in crate::config) client_secret: Option<String>,
        /// A file that holds the secret, read anew each time.
        pub(in crate::config) client_secret_file: Option<String>,
        /// An environment variable that holds the secret.
        pub(in crate::config) client_secret_env: Option<String>,
        /// How long an answer is kept, at most 1h; so long a revocation can go unseen. Default: 30s.
        pub(in crate::config) cache_ttl: Option<String>,
        /// How many answers are kept. Default: 10000.
        pub(in crate::config) cache_size: Option<u64>,
        /// The time for asking. Default: 200ms.
        pub(in crate::config) timeout: Option<String>,
    }
}

raw! {
    /// A place that holds a token: a header with an optional prefix, a cookie, or a parameter of the
    /// query.
    pub(in crate::config) struct Place {
        /// The header's name.
        pub(in crate::config) header: Option<String>,
        /// What stands before the token in the header.
        pub(in crate::config) prefix: Option<String>,
        /// The cookie's name.
        pub(in crate::config) cookie: Option<String>,
        /// The parameter's name. The query travels upstream, and into access logs.
        pub(in crate::config) query: Option<String>,
    }
}

raw! {
    /// API keys, known by their digests.
    pub(in crate::config) struct ApiKeys {
        /// The header that holds a key. Default: x-api-key.
        pub(in crate::config) header: Option<String>,
        /// What stands before the key in the header.
        pub(in crate::config) prefix: Option<String>,
        /// The parameter of the query that holds a key, in place of a header.
        pub(in crate::config) query: Option<String>,
        /// The Cedar entity type of those who present one. Default: ApiKey.
        pub(in crate::config) principal_type: Option<String>,
        /// The store that holds the list. Default: the default store.
        pub(in crate::config) secret_store: Option<String>,
        /// Where in the store. Default: the store's defaultPath.
        pub(in crate::config) path_to_key: Option<String>,
        /// The name of the secret: a map from an id to `{hash: "sha256:…", subject, groups, claims,
        /// expires}`, YAML or JSON. Default: the client ID and `.api-keys`.
        pub(in crate::config) key_name: Option<String>,
    }
}

raw! {
    /// The mTLS peer.
    pub(in crate::config) struct Peer {
        /// The SPIFFE trust domains that are accepted. Required, unless another subject counts.
        pub(in crate::config) trust_domains: Vec<String>,
        /// How the certificate comes: from the proxy's own connection, or in a header that a hop
        /// before it sets. Default: source.
        pub(in crate::config) from: Option<CertificateSource>,
        /// The addresses of those hops: `10.0.0.0/8`, `192.0.2.7`. From elsewhere the header is
        /// refused.
        pub(in crate::config) trusted_hops: Vec<String>,
        /// What names the peer. Default: spiffeId.
        pub(in crate::config) subject: Option<PeerSubject>,
    }
}

/// How a client certificate comes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum CertificateSource {
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
pub(in crate::config) enum PeerSubject {
    SpiffeId,
    UriSan,
    DnsSan,
    CommonName,
    Sha256,
}
