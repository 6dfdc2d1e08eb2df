//! What the API server judges beyond the settings' types: bounds, and rules in CEL.
//!
//! Only what is refused by [`crate::config`] as well, so that an object and a file mean the same; but the
//! author hears of it at once. Where rules stand in lists, the lists have bounds, since the API server reckons
//! the cost of a rule beforehand. A setting of no one type can't be looked at by a rule.

use serde_json::{Value, json};

/// How many files a bundle has.
pub(super) const MAX_FILES: u32 = 1024;

/// What beside its type holds of the property called `key` of the settings called `name`.
pub(super) fn bounds(name: &str, key: &str) -> Value {
    match (name, key) {
        ("Scope", "clientId") => json!({
            "pattern": "^[A-Za-z0-9._-]+$",
            "maxLength": 128,
            "x-kubernetes-validations": [rule(
                "self == oldSelf",
                "clientId can't change, since keys and verifiers go by it: make another Scope",
            )],
        }),
        ("Scope", "routes") => json!({"maxItems": 10_000}),
        ("Identity", "jwt") => json!({"maxItems": 64}),
        ("Issuer", "from") => json!({"maxItems": 64}),
        ("JwtResponse", "tokenLifetimeSeconds") => json!({"minimum": 1, "maximum": 86_400}),
        ("Deny", "status") => json!({"minimum": 400, "maximum": 599}),
        // `null` makes an array, and is not the same as nothing.
        ("JwtCustomization", "itemDelimiter") => json!({"nullable": true}),
        _ => Value::Null,
    }
}

/// The rules for the settings called `name`.
pub(super) fn of_settings(name: &str) -> Value {
    let Some((_, rules)) = RULES.iter().find(|(of, _)| *of == name) else { return Value::Null };
    let rules: Vec<Value> = rules.iter().map(|(text, message)| rule(text, message)).collect();
    json!({"x-kubernetes-validations": rules})
}

/// The rules for bundles.
pub(super) fn of_bundles() -> Value {
    json!([
        rule("has(self.files) || has(self.binaryFiles)", "has no file: add one"),
        rule(
            "!has(self.files) || !has(self.binaryFiles) || self.binaryFiles.all(name, !(name in self.files))",
            "a name stands in files and in binaryFiles: rename one",
        ),
    ])
}

fn rule(text: &str, message: &str) -> Value {
    json!({"rule": text, "message": message})
}

/// By the settings' names: rules, and what is said where one doesn't hold.
const RULES: [(&str, &[(&str, &str)]); 9] = [
    (
        "Policy",
        &[
            (
                "has(self.engine) && self.engine == 'authzen' ? has(self.url) && !has(self.files) && !has(self.bundle) : has(self.files) != has(self.bundle)",
                "cedar and rego need either files or bundle, authzen needs url and neither",
            ),
            (
                "!has(self.shadow) || has(self.shadow.files)",
                "shadow needs files: name the policies to compare",
            ),
        ],
    ),
    (
        "Route",
        &[(
            "has(self.bypass) && self.bypass ? !has(self.asset) && !has(self.action) : has(self.asset) && has(self.action)",
            "a route has asset and action, or `bypass: true` and neither",
        )],
    ),
    (
        "Issuer",
        &[
            (
                "!has(self.jwksUri) || !has(self.jwksFile)",
                "has both jwksUri and jwksFile: keep one",
            ),
            (
                "!has(self.introspection) || !has(self.jwksUri) && !has(self.jwksFile) && !has(self.algorithms) && !has(self.types)",
                "an issuer that is asked about its tokens has no keys: remove jwksUri, jwksFile, algorithms and types",
            ),
        ],
    ),
    (
        "Introspection",
        &[(
            "(has(self.clientSecret) ? 1 : 0) + (has(self.clientSecretFile) ? 1 : 0) + (has(self.clientSecretEnv) ? 1 : 0) == 1",
            "needs exactly one of clientSecret, clientSecretFile and clientSecretEnv",
        )],
    ),
    (
        "Place",
        &[
            (
                "(has(self.header) ? 1 : 0) + (has(self.cookie) ? 1 : 0) + (has(self.query) ? 1 : 0) == 1",
                "needs exactly one of header, cookie and query",
            ),
            ("!has(self.prefix) || has(self.header)", "prefix only belongs to a header"),
        ],
    ),
    (
        "ApiKeys",
        &[(
            "!has(self.query) || !has(self.header) && !has(self.prefix)",
            "has query beside header or prefix: keep one place",
        )],
    ),
    (
        "Api",
        &[
            (
                "has(self.authzen) && self.authzen || has(self.check) && self.check",
                "answers nothing: set authzen or check",
            ),
            (
                "!has(self.scheme) || has(self.check) && self.check",
                "scheme belongs to check: set it, or remove scheme",
            ),
        ],
    ),
    (
        "Store",
        &[
            (
                "self.type != 'vault' || has(self.details) && has(self.details.auth)",
                "a store of type vault needs details.auth, and details.address",
            ),
            (
                "self.type != 'file' || has(self.details) && has(self.details.directory)",
                "a store of type file needs details.directory",
            ),
            (
                "self.type != 'env' || has(self.details) && has(self.details.prefix)",
                "a store of type env needs details.prefix",
            ),
            (
                "self.type != 'awsSecretsManager' || has(self.details) && has(self.details.region)",
                "a store of type awsSecretsManager needs details.region",
            ),
            (
                "self.type != 'azureKeyVault' || has(self.details) && has(self.details.vaultUrl)",
                "a store of type azureKeyVault needs details.vaultUrl",
            ),
        ],
    ),
    (
        "Auth",
        &[
            (
                "self.method != 'token' || (has(self.token) ? 1 : 0) + (has(self.tokenFile) ? 1 : 0) + (has(self.tokenEnv) ? 1 : 0) == 1",
                "a login by token needs exactly one of token, tokenFile and tokenEnv",
            ),
            (
                "self.method != 'appRole' || has(self.roleId) != has(self.roleIdFile)",
                "a login by appRole needs exactly one of roleId and roleIdFile",
            ),
            (
                "self.method != 'appRole' || (has(self.secretId) ? 1 : 0) + (has(self.secretIdFile) ? 1 : 0) + (has(self.secretIdEnv) ? 1 : 0) == 1",
                "a login by appRole needs exactly one of secretId, secretIdFile and secretIdEnv",
            ),
            (
                "self.method != 'kubernetes' && self.method != 'jwt' || has(self.role)",
                "a login by kubernetes or jwt needs role",
            ),
            ("self.method != 'jwt' || has(self.jwtFile)", "a login by jwt needs jwtFile"),
            (
                "self.method != 'cert' || has(self.certificateFile) && has(self.keyFile)",
                "a login by cert needs certificateFile and keyFile",
            ),
        ],
    ),
];
