//! The settings of what decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keys::Algorithm;

raw! {
    /// Who may do what. Which settings apply depends on the engine.
    pub(in crate::config) struct Policy {
        /// What decides. Default: cedar.
        pub(in crate::config) engine: Option<Engine>,
        /// cedar: the policy files, in Cedar syntax, or as a JSON policy set when the name ends in `.json`. rego: bundle directories, bundles (`.tar.gz`), or `.rego` files. Both: required.
        pub(in crate::config) files: Option<Vec<String>>,
        /// cedar: the schema.
        pub(in crate::config) schema: Option<String>,
        /// cedar: the entities.
        pub(in crate::config) entities: Option<String>,
        /// rego: data files, in JSON or YAML, merged into `data` beside what the bundles hold.
        pub(in crate::config) data: Option<Vec<String>>,
        /// rego: the rule to ask, its parts with `/` between them. Default: envoy/authz/allow.
        pub(in crate::config) query: Option<String>,
        /// rego: whether the input has `parsed_body` and `truncated_body`. Default: true.
        pub(in crate::config) parse_body: Option<bool>,
        /// cedar, rego: what gRPC methods take, as a serialised FileDescriptorSet (`protoc --include_imports --descriptor_set_out`). Default: none, and messages are not read.
        pub(in crate::config) proto_descriptor: Option<String>,
        /// authzen: the address of the evaluation endpoint, such as
        /// `https://pdp/access/v1/evaluation`. Required.
        pub(in crate::config) url: Option<String>,
        /// authzen: the time for one call, less than the proxy's own. Default: 100ms.
        pub(in crate::config) timeout: Option<String>,
        /// authzen: how long a decision is kept. Default: 0s, not at all.
        pub(in crate::config) cache_ttl: Option<String>,
        /// authzen: how many decisions are kept. Default: 10000.
        pub(in crate::config) cache_size: Option<usize>,
        /// authzen: a file with a bearer token to present, read at each call.
        pub(in crate::config) token_file: Option<String>,
        /// authzen: the user name of HTTP Basic credentials to present.
        pub(in crate::config) username: Option<String>,
        /// authzen: a file with their password, read at each call.
        pub(in crate::config) password_file: Option<String>,
        /// authzen: certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(in crate::config) ca_file: Option<String>,
        /// authzen: accept `http://` beyond loopback.
        pub(in crate::config) insecure_http: Option<bool>,
        /// authzen: speak HTTP/2 over `http://` without asking; over `https://` it is agreed on anyway.
        /// Default: false.
        pub(in crate::config) prior_knowledge: Option<bool>,
        /// authzen: request headers that are sent along. Default: none.
        pub(in crate::config) send_headers: Option<Vec<String>>,
        /// authzen: query parameters that are sent along. Default: none.
        pub(in crate::config) send_query: Option<Vec<String>>,
        /// cedar, rego: a bundle that is fetched, in place of files.
        pub(in crate::config) bundle: Option<PolicyBundle>,
        /// cedar, rego: policies that were not confirmed for longer (their bundle looked for, or their
        /// files) decide nothing. Default: any age.
        pub(in crate::config) max_policy_age: Option<String>,
        /// A second policy set, evaluated and compared, never enforced.
        pub(in crate::config) shadow: Option<Shadow>,
    }
}

raw! {
    /// A bundle of policies (`.tar.gz`) that is fetched, and again whenever it changes.
    pub(in crate::config) struct PolicyBundle {
        /// Its address.
        pub(in crate::config) url: Option<String>,
        /// How often to look for another one. Default: 60s.
        pub(in crate::config) poll_interval: Option<String>,
        /// A file with a bearer token to present, read at each look.
        pub(in crate::config) token_file: Option<String>,
        /// Certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(in crate::config) ca_file: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(in crate::config) insecure_http: Option<bool>,
        /// Who must have signed it. Default: nobody.
        pub(in crate::config) verification: Option<BundleVerification>,
    }
}

raw! {
    /// Who must have signed a bundle (`.signatures.json`, as `opa sign` makes it).
    pub(in crate::config) struct BundleVerification {
        /// The public key or certificate, PEM, or a JWK set.
        pub(in crate::config) key_file: Option<String>,
        /// What it signs with. Default: RS256.
        pub(in crate::config) algorithm: Option<Algorithm>,
        /// The key's id. Default: whichever the signature names.
        pub(in crate::config) key_id: Option<String>,
        /// The signature's scope. Default: none.
        pub(in crate::config) scope: Option<String>,
    }
}

raw! {
    /// A second policy set, evaluated and compared, never enforced.
    pub(in crate::config) struct Shadow {
        /// What evaluates it. Default: the engine of the policies in force.
        pub(in crate::config) engine: Option<Engine>,
        /// The policy files.
        pub(in crate::config) files: Option<Vec<String>>,
        /// cedar: the schema.
        pub(in crate::config) schema: Option<String>,
        /// cedar: the entities.
        pub(in crate::config) entities: Option<String>,
        /// rego: data files.
        pub(in crate::config) data: Option<Vec<String>>,
        /// rego: the rule to ask.
        pub(in crate::config) query: Option<String>,
    }
}

/// What decides.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum Engine {
    Cedar,
    Rego,
    Authzen,
}
