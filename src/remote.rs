//! An address elsewhere, and how it is reached.
//!
//! What is elsewhere is reached over https, or over plain http where the settings say so aloud. It
//! can redirect us only within its own origin, its answers are bounded, and no proxy stands between
//! us and what is on this machine.

pub(crate) mod place;

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, Response, Url, redirect};

/// How many redirects are followed.
const REDIRECT_LIMIT: usize = 3;

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyUrlFault {
    /// No URL, or not one of http.
    #[error("that is no https address: write one, or name a file")]
    NotHttp,
    /// It has a user name or password in it, which would end up in logs.
    #[error("it has a user name or password in it: leave them out")]
    Credentials,
    /// Plain http to another machine.
    #[error("plain http is only for this machine: use https, or set `insecureHttp`")]
    PlainHttp,
}

/// The address `text`, if it may be asked: https, or http on this machine (where
/// `loopback` is acceptable at all) or with `insecure_http`.
pub(crate) fn acceptable(
    text: &str,
    insecure_http: bool,
    loopback: bool,
) -> Result<Url, KeyUrlFault> {
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

pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// An address without its query, which may hold what is nobody's business.
#[derive(Debug)]
pub struct Shown(String);

impl Shown {
    pub(crate) fn new(url: &Url) -> Self {
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
pub(crate) struct LazyClient {
    ca_file: Option<PathBuf>,
    is_direct: bool,
    follows: bool,
    is_http2: bool,
    built: Mutex<Option<Client>>,
}

/// Why there is no http client.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum ClientError {
    #[error("could not set up https: check this machine's certificate authorities")]
    Authorities(#[source] reqwest::Error),
    #[error("could not read the certificate authorities in `{}`", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("`{}` holds no certificate authorities in PEM", path.display())]
    NoAuthorities { path: PathBuf },
}

impl LazyClient {
    /// A client for `url`, which trusts the authorities in `ca_file` and no others; without, the
    /// system's. It never asks for what is on this machine through a proxy: plain http would leave
    /// the machine that way.
    pub(crate) fn new(url: &Url, ca_file: Option<PathBuf>) -> Self {
        let is_direct = is_loopback(url);
        Self { ca_file, is_direct, follows: true, is_http2: false, built: Mutex::new(None) }
    }

    /// The same client, but it speaks HTTP/2 from the first byte, as gRPC does.
    pub(crate) fn over_http2(self) -> Self {
        Self { is_http2: true, ..self }
    }

    /// The same client, but it follows no redirect: what it sends is for one address only.
    pub(crate) fn staying(self) -> Self {
        Self { follows: false, ..self }
    }

    /// The client; a clone is the same one.
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        match &*built {
            Some(client) => Ok(client.clone()),
            None => Ok(built.insert(self.build()?).clone()),
        }
    }

    /// Builds the client anew when it is next needed, for the authorities in the file may be others
    /// by then.
    pub(crate) fn forget(&self) {
        if self.ca_file.is_some() {
            *self.built.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn build(&self) -> Result<Client, ClientError> {
        let redirects = if self.follows {
            redirect::Policy::custom(follow_within_origin)
        } else {
            redirect::Policy::none()
        };
        let mut builder = Client::builder().user_agent("placet").referer(false).redirect(redirects);
        if self.is_direct {
            builder = builder.no_proxy();
        }
        if self.is_http2 {
            builder = builder.http2_prior_knowledge();
        }
        if let Some(path) = &self.ca_file {
            let pem = std::fs::read(path)
                .map_err(|source| ClientError::Unreadable { path: path.clone(), source })?;
            let authorities = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if authorities.is_empty() {
                return Err(ClientError::NoAuthorities { path: path.clone() });
            }
            builder = builder.tls_certs_only(authorities);
        }
        builder.build().map_err(ClientError::Authorities)
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

/// Why there is no body.
pub(crate) enum BodyError {
    TooLarge,
    Broken(reqwest::Error),
}

/// The body of `response`; stops reading as soon as it is larger than `limit` bytes.
pub(crate) async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `pause` and up to a tenth less, so that many of us don't ask at the same moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, and nothing worse.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    pause.saturating_sub(pause.mul_f64(f64::from(byte) / 2560.0))
}

/// `error` and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error: &&dyn Error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_address_is_shown_without_its_query() {
        let url = Url::parse("https://idp.example/keys?token=canary#canary").unwrap();
        assert_eq!(Shown::new(&url).to_string(), "https://idp.example/keys");
    }

    #[test]
    fn authorities_that_are_none_are_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let url = Url::parse("https://idp.example").unwrap();
        let client = || LazyClient::new(&url, Some(file.clone())).client().map(drop);
        assert!(matches!(client(), Err(ClientError::Unreadable { .. })));
        std::fs::write(&file, "no authority").unwrap();
        assert!(matches!(client(), Err(ClientError::NoAuthorities { .. })));
    }
}
