//! One look at an issuer's keys: a file, an address, or the address an issuer's OpenID
//! configuration names.
//!
//! What is at the other end is trusted for its keys and nothing else: its answer is bounded in size
//! and time, it can redirect us only within its own origin, and an issuer elsewhere can't point us
//! at a plain http address.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, CACHE_CONTROL};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde_json::Value;

use super::super::settings::{IssuerSettings, KeySourceSettings};
use super::{Pace, jittered};
use crate::json::{self, JsonFault};

/// The largest answer or file that is read, in bytes.
const BODY_LIMIT: usize = 1024 * 1024;

/// How many redirects are followed.
const REDIRECT_LIMIT: usize = 3;

/// Where the keys of one issuer are.
pub(super) enum Source {
    File(PathBuf),
    Url { url: Url, client: LazyClient },
    Discovery { issuer: String, url: Url, insecure_http: bool, client: LazyClient },
}

/// A key set as it was read.
pub(super) struct Fetched {
    pub(super) body: Vec<u8>,
    /// How long to wait before looking again.
    pub(super) good_for: Duration,
}

/// What is wrong with the address of a key set.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyUrlFault {
    /// No URL, or not one of http.
    #[error("that is no https address: write one, or name a file")]
    NotHttp,
    /// It has a user name or password in it, which would end up in logs.
    #[error("it has a user name or password in it: leave them out, keys are public")]
    Credentials,
    /// Plain http to another machine.
    #[error("plain http is only for this machine: use https, or set `insecureHttp`")]
    PlainHttp,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum FetchError {
    #[error("could not read `{}`: check that it is there and readable", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("could not set up https: check this machine's certificate authorities")]
    Client { source: reqwest::Error },
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

/// An address without its query, which may hold what is nobody's business.
#[derive(Debug)]
pub struct Shown(String);

impl Source {
    /// Where `settings` say the keys are; or the address that is not acceptable, and why.
    pub(super) fn new(settings: &IssuerSettings) -> Result<Self, (String, KeyUrlFault)> {
        let insecure_http = settings.insecure_http;
        let client = LazyClient(None);
        match &settings.keys {
            KeySourceSettings::File(path) => Ok(Self::File(path.clone())),
            KeySourceSettings::Url(url) => match acceptable(url, insecure_http, true) {
                Ok(url) => Ok(Self::Url { url, client }),
                Err(fault) => Err((url.clone(), fault)),
            },
            KeySourceSettings::Discovery => {
                let issuer = settings.issuer.clone();
                let base = issuer.strip_suffix('/').unwrap_or(&issuer);
                let url = format!("{base}/.well-known/openid-configuration");
                match acceptable(&url, insecure_http, true) {
                    Ok(url) => Ok(Self::Discovery { issuer, url, insecure_http, client }),
                    Err(fault) => Err((url, fault)),
                }
            }
        }
    }

    /// Reads the key set.
    pub(super) async fn fetch(&mut self, pace: &Pace) -> Result<Fetched, FetchError> {
        match self {
            Self::File(path) => {
                let body = read_file(path).await?;
                Ok(Fetched { body, good_for: pace.file })
            }
            Self::Url { url, client } => fetch_keys(client.reaching(url)?, url, pace).await,
            Self::Discovery { issuer, url, insecure_http, client } => {
                let client = client.reaching(url)?;
                let configuration = body(get(client, url, pace).await?, url).await?;
                let keys = keys_url(&configuration, issuer, url, *insecure_http)?;
                fetch_keys(client, &keys, pace).await
            }
        }
    }
}

impl Shown {
    fn new(url: &Url) -> Self {
        let mut url = url.clone();
        url.set_query(None);
        url.set_fragment(None);
        Self(url.into())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An http client, built when it is first needed: loading the certificate authorities takes longer
/// than all the rest of a start.
pub(super) struct LazyClient(Option<Client>);

impl LazyClient {
    /// The client for `url`, which is the same at each call. What is on this machine is never
    /// asked for through a proxy: plain http would leave the machine that way.
    fn reaching(&mut self, url: &Url) -> Result<&Client, FetchError> {
        match &mut self.0 {
            Some(client) => Ok(client),
            empty => {
                let client = Client::builder()
                    .user_agent("placet")
                    .referer(false)
                    .redirect(redirect::Policy::custom(follow_within_origin));
                let client = if is_loopback(url) { client.no_proxy() } else { client };
                let client = client.build().map_err(|source| FetchError::Client { source })?;
                Ok(empty.insert(client))
            }
        }
    }
}

fn follow_within_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let origin = attempt.previous().first().map(Url::origin);
    if origin != Some(attempt.url().origin()) {
        return attempt.error("it redirects to another origin, which is never followed");
    }
    if attempt.previous().len() > REDIRECT_LIMIT {
        return attempt.error("it redirects too often");
    }
    attempt.follow()
}

/// The address `text`, if keys may be fetched from it: https, or http on this machine (where
/// `loopback` is acceptable at all) or with `insecure_http`.
fn acceptable(text: &str, insecure_http: bool, loopback: bool) -> Result<Url, KeyUrlFault> {
    let url = Url::parse(text).map_err(|_| KeyUrlFault::NotHttp)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(KeyUrlFault::Credentials);
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if insecure_http || (loopback && is_loopback(&url)) => Ok(url),
        "http" => Err(KeyUrlFault::PlainHttp),
        _ => Err(KeyUrlFault::NotHttp),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
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

async fn fetch_keys(client: &Client, url: &Url, pace: &Pace) -> Result<Fetched, FetchError> {
    let response = get(client, url, pace).await?;
    let (shortest, longest) = pace.max_age;
    let good_for = max_age(&response).map_or(pace.refresh, |age| age.clamp(shortest, longest));
    Ok(Fetched { body: body(response, url).await?, good_for: jittered(good_for) })
}

async fn get(client: &Client, url: &Url, pace: &Pace) -> Result<Response, FetchError> {
    let response = client
        .get(url.clone())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .timeout(pace.timeout)
        .send()
        .await
        .map_err(|source| failed(url, source))?;
    match response.status() {
        StatusCode::OK => Ok(response),
        status => Err(FetchError::Status { url: Shown::new(url), status: status.as_u16() }),
    }
}

/// The body of `response`; stops reading as soon as it is too large.
async fn body(mut response: Response, url: &Url) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|source| failed(url, source))? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(FetchError::TooLarge { from: Shown::new(url).to_string() });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
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
    fn plain_http_is_for_this_machine_only() {
        for (text, expected) in [
            ("https://idp.example/keys", Ok(())),
            ("HTTPS://idp.example", Ok(())),
            ("http://127.0.0.1:8080/keys", Ok(())),
            ("http://127.8.8.8/keys", Ok(())),
            ("http://[::1]:8080/keys", Ok(())),
            ("http://localhost/keys", Ok(())),
            ("http://idp.example/keys", Err(KeyUrlFault::PlainHttp)),
            ("http://localhost.example/", Err(KeyUrlFault::PlainHttp)),
            ("http://127.0.0.1.example/", Err(KeyUrlFault::PlainHttp)),
            ("http://10.0.0.1/", Err(KeyUrlFault::PlainHttp)),
            ("http://169.254.169.254/latest", Err(KeyUrlFault::PlainHttp)),
            ("http://0.0.0.0/", Err(KeyUrlFault::PlainHttp)),
            ("https://user:pass@idp.example/", Err(KeyUrlFault::Credentials)),
            ("https://user@idp.example/", Err(KeyUrlFault::Credentials)),
            ("file:///etc/passwd", Err(KeyUrlFault::NotHttp)),
            ("ftp://idp.example/", Err(KeyUrlFault::NotHttp)),
            ("idp.example/keys", Err(KeyUrlFault::NotHttp)),
            ("", Err(KeyUrlFault::NotHttp)),
        ] {
            assert_eq!(acceptable(text, false, true).map(|_| ()), expected, "{text}");
        }
        assert!(acceptable("http://idp.example/", true, true).is_ok());
        assert_eq!(acceptable("ftp://idp.example/", true, true), Err(KeyUrlFault::NotHttp));
        assert_eq!(acceptable("http://127.0.0.1/", false, false), Err(KeyUrlFault::PlainHttp));
    }

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

    #[test]
    fn an_address_is_shown_without_its_query() {
        let url = Url::parse("https://idp.example/keys?token=canary#canary").unwrap();
        assert_eq!(Shown::new(&url).to_string(), "https://idp.example/keys");
    }
}
