//! One look at an issuer's keys: a file, an address, or the address an issuer's OpenID
//! configuration names.
//!
//! What is at the other end is trusted for its keys and nothing else: its answer is bounded in size
//! and time, it can redirect us only within its own origin, and an issuer elsewhere can't point us
//! at a plain http address.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, CACHE_CONTROL};
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;

use super::super::settings::{IssuerSettings, KeySourceSettings};
use super::Pace;
use crate::json::{self, JsonFault};
use crate::remote::{
    self, BodyError, ClientError, KeyUrlFault, LazyClient, Shown, acceptable, is_loopback, jittered,
};
use crate::secrets::{self, Unreadable};

/// The largest answer or file that is read, in bytes.
const BODY_LIMIT: usize = 1024 * 1024;

/// Where the keys of one issuer are.
pub(super) enum Source {
    File(PathBuf),
    Url { url: Url, caller: Caller },
    Discovery { issuer: String, url: Url, insecure_http: bool, caller: Caller },
}

/// Who asks for the keys.
pub(super) struct Caller {
    client: LazyClient,
    /// The token it presents, to the origin that the settings name and to no other.
    token: Option<secrets::Source>,
    origin: Url,
}

/// A key set as it was read.
pub(super) struct Fetched {
    pub(super) body: Vec<u8>,
    /// How long to wait before looking again.
    pub(super) good_for: Duration,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum FetchError {
    #[error("could not read `{}`: check that it is there and readable", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the token to present to `{url}` can't be used: {source}")]
    Token { url: Shown, source: Unreadable },
    #[error("`{url}` did not answer: check the address and the network")]
    Request { url: Shown, source: reqwest::Error },
    #[error("`{url}` answered {status}, not 200: check the address")]
    Status { url: Shown, status: u16 },
    #[error("`{from}` is larger than {BODY_LIMIT} bytes: check that it is a key set")]
    TooLarge { from: String },
    #[error("the OpenID configuration at `{url}` {fault}: check the issuer")]
    ConfigurationJson { url: Shown, fault: JsonFault },
    #[error(
        "the OpenID configuration at `{url}` is not of issuer `{issuer}`: write it exactly as there"
    )]
    ConfigurationIssuer { url: Shown, issuer: String },
    #[error("the OpenID configuration at `{url}` has no acceptable `jwks_uri`: set `jwksUri`")]
    ConfigurationKeys { url: Shown, source: Option<KeyUrlFault> },
}

impl Source {
    /// Where `settings` say the keys are; or the address that is not acceptable, and why.
    ///
    /// An issuer that is asked about its tokens has none, and is taken for one of discovery.
    pub(super) fn new(settings: &IssuerSettings) -> Result<Self, (String, KeyUrlFault)> {
        let insecure_http = settings.insecure_http;
        let caller = |url: &Url| Caller {
            client: LazyClient::new(url, settings.ca_file.clone()),
            token: settings.token_file.clone().map(secrets::Source::File),
            origin: url.clone(),
        };
        match &settings.keys {
            KeySourceSettings::File(path) => Ok(Self::File(path.clone())),
            KeySourceSettings::Url(url) => match acceptable(url, insecure_http, true) {
                Ok(url) => Ok(Self::Url { caller: caller(&url), url }),
                Err(fault) => Err((url.clone(), fault)),
            },
            KeySourceSettings::Discovery | KeySourceSettings::Introspection(_) => {
                let issuer = settings.issuer.clone();
                let base = issuer.strip_suffix('/').unwrap_or(&issuer);
                let url = format!("{base}/.well-known/openid-configuration");
                match acceptable(&url, insecure_http, true) {
                    Ok(url) => {
                        Ok(Self::Discovery { issuer, caller: caller(&url), url, insecure_http })
                    }
                    Err(fault) => Err((url, fault)),
                }
            }
        }
    }

    /// Reads the key set.
    pub(super) async fn fetch(&self, pace: &Pace) -> Result<Fetched, FetchError> {
        let (caller, fetched) = match self {
            Self::File(path) => {
                let body = read_file(path).await?;
                return Ok(Fetched { body, good_for: pace.file });
            }
            Self::Url { url, caller } => (caller, caller.keys(url, pace).await),
            Self::Discovery { issuer, url, insecure_http, caller } => {
                (caller, caller.discover(issuer, url, *insecure_http, pace).await)
            }
        };
        if fetched.is_err() {
            caller.client.forget();
        }
        fetched
    }
}

impl Caller {
    async fn discover(
        &self,
        issuer: &str,
        url: &Url,
        insecure_http: bool,
        pace: &Pace,
    ) -> Result<Fetched, FetchError> {
        let configuration = body(self.get(url, pace).await?, url).await?;
        let keys = keys_url(&configuration, issuer, url, insecure_http)?;
        self.keys(&keys, pace).await
    }

    async fn keys(&self, url: &Url, pace: &Pace) -> Result<Fetched, FetchError> {
        let response = self.get(url, pace).await?;
        let (shortest, longest) = pace.max_age;
        let good_for = max_age(&response).map_or(pace.refresh, |age| age.clamp(shortest, longest));
        Ok(Fetched { body: body(response, url).await?, good_for: jittered(good_for) })
    }

    async fn get(&self, url: &Url, pace: &Pace) -> Result<Response, FetchError> {
        let mut request = self
            .client
            .client()?
            .get(url.clone())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .timeout(pace.timeout);
        if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.origin.origin()) {
            let unusable = |source| FetchError::Token { url: Shown::new(url), source };
            let token = token.text().await.map_err(unusable)?;
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(|source| failed(url, source))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(FetchError::Status { url: Shown::new(url), status: status.as_u16() }),
        }
    }
}

/// The `jwks_uri` of the `configuration` at `url`, which must be exactly `issuer`'s (OpenID Connect
/// Discovery 1.0 section 4.3).
fn keys_url(
    configuration: &[u8],
    issuer: &str,
    url: &Url,
    insecure_http: bool,
) -> Result<Url, FetchError> {
    let configuration = json::object(configuration)
        .map_err(|fault| FetchError::ConfigurationJson { url: Shown::new(url), fault })?;
    let text = |name| configuration.get(name).and_then(Value::as_str);
    if text("issuer") != Some(issuer) {
        let issuer = issuer.to_owned();
        return Err(FetchError::ConfigurationIssuer { url: Shown::new(url), issuer });
    }
    let refused = |source| FetchError::ConfigurationKeys { url: Shown::new(url), source };
    let keys = text("jwks_uri").ok_or_else(|| refused(None))?;
    acceptable(keys, insecure_http, is_loopback(url)).map_err(|fault| refused(Some(fault)))
}

async fn body(response: Response, url: &Url) -> Result<Vec<u8>, FetchError> {
    remote::body(response, BODY_LIMIT).await.map_err(|error| match error {
        BodyError::TooLarge => FetchError::TooLarge { from: Shown::new(url).to_string() },
        BodyError::Broken(source) => failed(url, source),
    })
}

fn failed(url: &Url, source: reqwest::Error) -> FetchError {
    FetchError::Request { url: Shown::new(url), source: source.without_url() }
}

/// The `max-age` of the answer (RFC 9111 section 5.2.2.1).
fn max_age(response: &Response) -> Option<Duration> {
    let directives = response.headers().get(CACHE_CONTROL)?.to_str().ok()?;
    directives.split(',').find_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        let seconds = value.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("max-age").then(|| Duration::from_secs(seconds))
    })
}

async fn read_file(path: &PathBuf) -> Result<Vec<u8>, FetchError> {
    let failed = |source| FetchError::File { path: path.clone(), source };
    let size = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if size > BODY_LIMIT as u64 {
        return Err(FetchError::TooLarge { from: path.display().to_string() });
    }
    tokio::fs::read(path).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixture;

    #[test]
    fn a_configuration_must_be_its_issuers_and_point_somewhere_safe() {
        let keys = |configuration: Value, at: &str, insecure_http: bool| {
            let (text, at) = (configuration.to_string(), Url::parse(at).unwrap());
            keys_url(text.as_bytes(), fixture::ISSUER, &at, insecure_http).map(String::from)
        };
        let of = |issuer: &str, uri: &str| serde_json::json!({"issuer": issuer, "jwks_uri": uri});
        let (remote, local) = ("https://idp.example/c", "http://127.0.0.1/c");
        let good = "https://keys.example/keys";
        assert_eq!(keys(of(fixture::ISSUER, good), remote, false).unwrap(), good);
        for issuer in ["https://idp.example", "https://IDP.example/", "https://evil.example/", ""] {
            let error = keys(of(issuer, good), remote, false).unwrap_err();
            assert!(matches!(error, FetchError::ConfigurationIssuer { .. }), "{issuer}");
        }
        let inside = "http://127.0.0.1/keys";
        assert_eq!(keys(of(fixture::ISSUER, inside), local, false).unwrap(), inside);
        assert_eq!(keys(of(fixture::ISSUER, inside), remote, true).unwrap(), inside);
        for uri in [
            inside,
            "http://keys.example/",
            "file:///etc/passwd",
            "https://a:b@keys.example/",
            "/keys",
        ] {
            let error = keys(of(fixture::ISSUER, uri), remote, false).unwrap_err();
            assert!(
                matches!(error, FetchError::ConfigurationKeys { source: Some(_), .. }),
                "{uri}"
            );
        }
        for configuration in [
            serde_json::json!({"issuer": fixture::ISSUER}),
            serde_json::json!({"issuer": fixture::ISSUER, "jwks_uri": 1}),
        ] {
            let error = keys(configuration, remote, false).unwrap_err();
            assert!(matches!(error, FetchError::ConfigurationKeys { source: None, .. }));
        }
        let error = keys(serde_json::json!([]), remote, false).unwrap_err();
        assert!(matches!(error, FetchError::ConfigurationJson { .. }));
    }

    #[test]
    fn discovery_is_below_the_issuer() {
        for (issuer, expected) in [
            ("https://idp.example", "https://idp.example/.well-known/openid-configuration"),
            ("https://idp.example/", "https://idp.example/.well-known/openid-configuration"),
            ("https://idp.example/a/", "https://idp.example/a/.well-known/openid-configuration"),
        ] {
            let mut settings = fixture::issuer(issuer);
            settings.keys = KeySourceSettings::Discovery;
            let Ok(Source::Discovery { url, .. }) = Source::new(&settings) else {
                panic!("{issuer}")
            };
            assert_eq!(url.as_str(), expected);
        }
        let mut settings = fixture::issuer("accounts.example");
        settings.keys = KeySourceSettings::Discovery;
        let fault = Source::new(&settings).err().map(|(_, fault)| fault);
        assert_eq!(fault, Some(KeyUrlFault::NotHttp));
    }

    #[test]
    fn an_answer_says_how_long_it_is_good_for() {
        let age = |value: &str| {
            let answer = http::Response::builder().header(CACHE_CONTROL, value);
            max_age(&Response::from(answer.body("").unwrap())).map(|age| age.as_secs())
        };
        assert_eq!(age("max-age=300"), Some(300));
        assert_eq!(age("public, Max-Age=\"60\", must-revalidate"), Some(60));
        assert_eq!(age("max-age=0"), Some(0));
        for value in
            ["no-store", "s-maxage=60", "max-age", "max-age=", "max-age=-1", "max-age=x", ""]
        {
            assert_eq!(age(value), None, "{value}");
        }
    }
}
