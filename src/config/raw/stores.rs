//! The settings of secret stores.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;

raw! {
    /// A secret store.
    pub(in crate::config) struct Store {
        /// The id that scopes choose it by.
        pub(in crate::config) id: Option<String>,
        /// What kind of store it is.
        #[serde(rename = "type")]
        pub(in crate::config) kind: Option<StoreType>,
        /// Used by scopes that name no store. True for exactly one store.
        pub(in crate::config) default: Option<bool>,
        /// The settings of its type.
        pub(in crate::config) details: Details,
    }
}

/// The kinds of secret store.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum StoreType {
    Vault,
    File,
    Env,
    AwsSecretsManager,
    AzureKeyVault,
}

raw! {
    /// The settings of a secret store. Which ones apply depends on its type.
    pub(in crate::config) struct Details {
        /// vault: the address, or those of one cluster's nodes. awsSecretsManager: an endpoint in place
        /// of the region's.
        pub(in crate::config) address: Option<OneOrMany>,
        /// vault, awsSecretsManager: accept `http://` beyond loopback.
        pub(in crate::config) insecure_http: Option<bool>,
        /// vault: the namespace.
        pub(in crate::config) namespace: Option<String>,
        /// vault: the KV mount. Default: secret.
        pub(in crate::config) mount: Option<String>,
        /// vault: 1 or 2. Default: 2.
        pub(in crate::config) kv_version: Option<u64>,
        /// vault: the Transit mount. Default: transit.
        pub(in crate::config) transit_mount: Option<String>,
        /// vault: used by scopes with no pathToKey.
        pub(in crate::config) default_path: Option<String>,
        /// vault: how to log in.
        pub(in crate::config) auth: Option<Auth>,
        /// vault: trust.
        pub(in crate::config) tls: Option<StoreTls>,
        /// vault, awsSecretsManager, azureKeyVault: the time for one call. Default: 2s.
        pub(in crate::config) timeout: Option<String>,
        /// vault, awsSecretsManager, azureKeyVault: how often to look for a new key version. Default:
        /// 30s.
        pub(in crate::config) refresh_interval: Option<String>,
        /// file: where the key files are.
        pub(in crate::config) directory: Option<String>,
        /// env: what the variables' names begin with.
        pub(in crate::config) prefix: Option<String>,
        /// awsSecretsManager: the region. Required.
        pub(in crate::config) region: Option<String>,
        /// azureKeyVault: the vault's address, `https://NAME.vault.azure.net`. Required.
        pub(in crate::config) vault_url: Option<String>,
    }
}

raw! {
    /// A login to Vault. Which settings apply depends on the method.
    pub(in crate::config) struct Auth {
        /// How to log in.
        pub(in crate::config) method: Option<AuthMethod>,
        /// The auth method's mount. Default: the method's name.
        pub(in crate::config) mount: Option<String>,
        /// kubernetes, jwt: the role. cert: the role, if not any. appRole: the name of the role whose
        /// wrapped secret id it is.
        pub(in crate::config) role: Option<String>,
        /// token: as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(in crate::config) token: Option<String>,
        /// token: a file that holds it.
        pub(in crate::config) token_file: Option<String>,
        /// token: an environment variable that holds it.
        pub(in crate::config) token_env: Option<String>,
        /// appRole: the role id.
        pub(in crate::config) role_id: Option<String>,
        /// appRole: a file that holds the role id.
        pub(in crate::config) role_id_file: Option<String>,
        /// appRole: as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(in crate::config) secret_id: Option<String>,
        /// appRole: a file that holds the secret id.
        pub(in crate::config) secret_id_file: Option<String>,
        /// appRole: an environment variable that holds the secret id.
        pub(in crate::config) secret_id_env: Option<String>,
        /// appRole: the secret id is response-wrapped; needs `role`.
        pub(in crate::config) secret_id_wrapped: Option<bool>,
        /// kubernetes: the projected token. Default: where Kubernetes mounts it.
        pub(in crate::config) service_account_token_file: Option<String>,
        /// jwt: the token.
        pub(in crate::config) jwt_file: Option<String>,
        /// cert: the client certificate, PEM.
        pub(in crate::config) certificate_file: Option<String>,
        /// cert: its private key, PEM.
        pub(in crate::config) key_file: Option<String>,
    }
}

/// The ways to log in to Vault.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum AuthMethod {
    Token,
    AppRole,
    Kubernetes,
    Jwt,
    Cert,
}

raw! {
    /// Whom a store's client trusts.
    pub(in crate::config) struct StoreTls {
        /// Certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(in crate::config) ca_file: Option<String>,
    }
}
