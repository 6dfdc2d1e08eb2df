//! Why a store can't be used, or a key not be read. Every text says what to do; none quotes what
//! a store holds or what we log in with.

mod cloud;

use std::io;
use std::path::PathBuf;

pub use cloud::{Cloud, CloudError};

/// Why a secret store was refused, or had no key for us.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A store nobody configured.
    #[error(
        "there is no secret store `{id}`: use one of {}, or add it to `secretStores`",
        quoted(known)
    )]
    UnknownStore {
        /// As asked for.
        id: String,
        /// The stores there are.
        known: Vec<String>,
    },
    /// No store is marked `default: true`.
    #[error(
        "no secret store is the default: mark one with `default: true`; there are {}",
        quoted(known)
    )]
    NoDefault {
        /// The stores there are.
        known: Vec<String>,
    },
    /// More than one store is marked `default: true`.
    #[error("the secret stores {} are all marked `default: true`: keep one", quoted(marked))]
    SeveralDefaults {
        /// The marked ones.
        marked: Vec<String>,
    },
    /// One id, two stores.
    #[error("two secret stores have the id `{id}`: rename one")]
    DuplicateStore {
        /// The id.
        id: String,
    },
    /// A setting the store can't work with.
    #[error("secret store `{store}`: {problem}")]
    UnusableSetting {
        /// The store.
        store: String,
        /// Which setting, why, and what to do.
        problem: String,
    },
    /// Neither `pathToKey` nor `defaultPath`.
    #[error(
        "secret store `{store}`: no path for key `{name}`: set the scope's `pathToKey` or the \
         store's `defaultPath`"
    )]
    NoPath {
        /// The store.
        store: String,
        /// The key's name.
        name: String,
    },
    /// 404.
    #[error(
        "secret store `{store}`: nothing at `{path}`: check `mount`, `kvVersion`, `namespace` \
         and `pathToKey`, or write the key there"
    )]
    NothingThere {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
    },
    /// The secret is there, the field isn't.
    #[error(
        "secret store `{store}`: the secret at `{path}` has no field `{field}`, only {}: \
         set `keyName`, or add the field",
        quoted(present)
    )]
    MissingField {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
        /// The field looked for.
        field: String,
        /// The names of the fields there are.
        present: Vec<String>,
    },
    /// The field is there but is no text.
    #[error(
        "secret store `{store}`: the field `{field}` at `{path}` is not text: store the key as \
         a string"
    )]
    FieldNotText {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
        /// The field.
        field: String,
    },
    /// KV v2: the newest version was deleted or destroyed.
    #[error(
        "secret store `{store}`: version {version} at `{path}` was {}: undelete it, or write a \
         new version",
        if *.destroyed { "destroyed" } else { "deleted" }
    )]
    VersionDeleted {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
        /// The version.
        version: u64,
        /// Gone for good.
        destroyed: bool,
    },
    /// A version was asked for where none are kept.
    #[error(
        "secret store `{store}` keeps no versions: read the newest, or keep the key in a KV \
         version 2 mount"
    )]
    NoHistory {
        /// The store.
        store: String,
    },
    /// A key was to be written where we only read.
    #[error(
        "secret store `{store}` is of type {kind}, which placet does not write to: put the new key \
         there with the store's own tools"
    )]
    ReadOnly {
        /// The store.
        store: String,
        /// Its type.
        kind: &'static str,
    },
    /// A key file that can't be written.
    #[error("secret store `{store}`: can't write `{}`: {reason}", path.display())]
    UnwritableFile {
        /// The store.
        store: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// A signature was asked of a store that only keeps keys.
    #[error(
        "secret store `{store}` is of type {kind}, which does not sign: use `backend: kv`, or a \
         store of type vault"
    )]
    NoTransit {
        /// The store.
        store: String,
        /// Its type.
        kind: &'static str,
    },
    /// A Transit key that can't be used, or a signature that isn't one.
    #[error("secret store `{store}`: Transit key at `{path}`: {problem}")]
    Transit {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// 503.
    #[error("secret store `{store}`: Vault at `{address}` is sealed: unseal it")]
    Sealed {
        /// The store.
        store: String,
        /// The node.
        address: String,
    },
    /// 403 on reading, also after logging in again.
    #[error(
        "secret store `{store}`: permission denied for `{path}`: check that the token is valid \
         and that its policy allows `read` there"
    )]
    PermissionDenied {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
    },
    /// The login was refused.
    #[error(
        "secret store `{store}`: the {method} login was refused (status {status}): check its \
         credentials, `auth.mount` and `namespace`"
    )]
    LoginRefused {
        /// The store.
        store: String,
        /// The login method.
        method: &'static str,
        /// The HTTP status.
        status: u16,
    },
    /// A response-wrapped secret id that doesn't open. To be alarmed on.
    #[error(
        "secret store `{store}`: ALARM: the wrapped secret id can't be unwrapped (status \
         {status}): it has expired, or someone else has unwrapped it; find out which, destroy \
         that secret id, and deliver a new one"
    )]
    WrappedSecretId {
        /// The store.
        store: String,
        /// The HTTP status.
        status: u16,
    },
    /// A response-wrapped secret id that is not our role's. To be alarmed on.
    #[error(
        "secret store `{store}`: ALARM: the wrapped secret id was made at `{}`, not at \
         `{expected}`: someone may have swapped it; find out who delivered it, or correct \
         `auth.role` and `auth.mount`",
        found.escape_debug()
    )]
    ForeignSecretId {
        /// The store.
        store: String,
        /// Where it was made.
        found: String,
        /// Where it should have been made.
        expected: String,
    },
    /// A node that sends us elsewhere.
    #[error(
        "secret store `{store}`: Vault at `{from}` redirects to `{to}`, {}",
        if *.is_known {
            "and so on in a circle, or in another way than by status 307: check that the cluster \
             has a leader, and each node's `api_addr`"
        } else {
            "which is not one of our addresses: add it to `address`, or correct the cluster's \
             `api_addr`"
        }
    )]
    Redirected {
        /// The store.
        store: String,
        /// The node that redirects.
        from: String,
        /// Where to.
        to: String,
        /// Whether that is a configured address.
        is_known: bool,
    },
    /// 429 or a 5xx, also when asked again.
    #[error(
        "secret store `{store}`: Vault at `{address}` can't answer (status {status}): {}",
        if *.status == 429 { "raise its rate limit for us" } else { "look into its log" }
    )]
    Failing {
        /// The store.
        store: String,
        /// The node.
        address: String,
        /// The HTTP status.
        status: u16,
    },
    /// No node answered.
    #[error(
        "secret store `{store}`: can't reach {}: {reason}; check `address`, \
         `tls.caFile` and the network",
        quoted(addresses)
    )]
    Unreachable {
        /// The store.
        store: String,
        /// The nodes tried.
        addresses: Vec<String>,
        /// What the last one's connection said.
        reason: String,
    },
    /// An answer with a status that means none of the above.
    #[error(
        "secret store `{store}`: unexpected answer for `{path}` (status {status}): look into \
         Vault's log"
    )]
    UnexpectedStatus {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that isn't what Vault sends there.
    #[error(
        "secret store `{store}`: the answer for `{path}` is not what Vault sends: check `mount`, \
         `kvVersion` and `address`"
    )]
    UnreadableAnswer {
        /// The store.
        store: String,
        /// Mount and path.
        path: String,
    },
    /// The certificate authorities can't be used.
    #[error(
        "secret store `{store}`: `tls.caFile` `{}` can't be used: {problem}; give PEM \
         certificates",
        path.display()
    )]
    UnusableCaFile {
        /// The store.
        store: String,
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A credential that can't be read.
    #[error(
        "secret store `{store}`: the {what} from {origin} can't be used: {problem}; correct it, \
         or set another source under `auth`"
    )]
    UnusableLogin {
        /// The store.
        store: String,
        /// `token`, `role id`, `secret id`.
        what: &'static str,
        /// The file, the variable or the settings.
        origin: String,
        /// Why.
        problem: String,
    },
    /// A key name that isn't one name.
    #[error(
        "secret store `{store}`: the key name `{}` is not the name of a file: use one without \
         `/`, `..` and NUL",
        name.escape_debug()
    )]
    UnusableName {
        /// The store.
        store: String,
        /// The key's name.
        name: String,
    },
    /// None of the files a key may be in.
    #[error(
        "secret store `{store}`: there is none of the files {}: put the key in one of them",
        quoted_paths(tried)
    )]
    NoSuchFile {
        /// The store.
        store: String,
        /// In the order tried.
        tried: Vec<PathBuf>,
    },
    /// A file that is there but can't be read.
    #[error(
        "secret store `{store}`: can't read `{}`: {reason}; check its mode and owner",
        path.display()
    )]
    UnreadableFile {
        /// The store.
        store: String,
        /// The file.
        path: PathBuf,
        /// The system's reason; part of the text, so it is not repeated as a source.
        reason: io::Error,
    },
    /// What a cloud's store is at fault with.
    #[error("secret store `{store}`: {problem}")]
    Cloud {
        /// The store.
        store: String,
        /// What, and what to do; part of the text, so it is not repeated as a source.
        problem: CloudError,
    },
    /// The variable isn't there.
    #[error("secret store `{store}`: the variable `{variable}` is not set: set it to the key text")]
    UnsetVariable {
        /// The store.
        store: String,
        /// The variable.
        variable: String,
    },
    /// Bytes that are no text.
    #[error("secret store `{store}`: {place} is not UTF-8: store PEM or JWK text")]
    NotUtf8 {
        /// The store.
        store: String,
        /// The file or the variable.
        place: String,
    },
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn quoted_paths(paths: &[PathBuf]) -> String {
    quoted(&paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
}
