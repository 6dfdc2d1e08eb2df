//! Who a sidecar is, by the token of its ServiceAccount: the API server is asked (`TokenReview`), or, where there
//! is none, a file of digests. Nothing else it says has a part in it.
//!
//! What was found holds for [`HOLDS`], so that a sidecar that comes back costs nothing. Only so many are asked
//! about at once: of a thousand that come back together the others wait, and those that would wait too long are
//! sent away, to come back later.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::remote::{self, LazyClient, chain};

/// How long what was found of a token holds.
const HOLDS: Duration = Duration::from_secs(60);

/// The tokens that something is known of.
const KNOWN: usize = 16_384;

/// How many tokens are asked about at once, how long others wait, and how long an answer may take.
const MAX_ASKED: usize = 32;
const LONGEST_WAIT: Duration = Duration::from_secs(8);
const LONGEST_REVIEW: Duration = Duration::from_secs(5);

/// A longer token, or answer, is none.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// What users of the API server are called that are ServiceAccounts.
const ACCOUNT: &str = "system:serviceaccount:";

/// Where a pod's name stands, beside its ServiceAccount's.
const POD: &str = "authentication.kubernetes.io/pod-name";

/// A sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Caller {
    /// Its namespace: whose snapshot it gets.
    pub namespace: String,
    /// Its ServiceAccount and pod, for logs.
    pub name: String,
}

/// What says who calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Authority {
    /// The API server.
    ApiServer {
        /// Where it is.
        url: Url,
        /// The authorities that its certificate is of, PEM.
        ca_file: PathBuf,
        /// The token to present to it, read each time.
        token_file: PathBuf,
        /// The audience that a sidecar's token must have.
        audience: String,
    },
    /// A file of namespaces, each with the SHA-256 of its sidecars' tokens. Read each time.
    Digests(PathBuf),
}

/// Knows callers by their tokens.
pub(super) struct Callers {
    authority: Authority,
    client: Option<LazyClient>,
    known: Cache<[u8; 32], (Caller, Instant)>,
    places: Semaphore,
}

/// Why it is not known who calls.
#[derive(Debug, thiserror::Error)]
enum CallerFault {
    #[error("no token is presented: send `authorization: Bearer TOKEN`")]
    NoToken,
    #[error("the token is refused: {0}")]
    Refused(String),
    #[error("the token is no ServiceAccount's: `{0}`")]
    NoAccount(String),
    #[error("the API server says nothing of the audience `{0}`: the token may be meant for others")]
    NoAudience(String),
    #[error("too many tokens wait to be reviewed: come back later")]
    Busy,
    #[error("tokens can't be reviewed now: {0}")]
    Unavailable(String),
}

impl From<CallerFault> for Status {
    fn from(fault: CallerFault) -> Self {
        let text = fault.to_string();
        match fault {
            CallerFault::NoToken
            | CallerFault::Refused(_)
            | CallerFault::NoAccount(_)
            | CallerFault::NoAudience(_) => Self::unauthenticated(text),
            CallerFault::Busy => Self::resource_exhausted(text),
            CallerFault::Unavailable(_) => Self::unavailable(text),
        }
    }
}

impl Callers {
    /// Callers that `authority` knows.
    pub(super) fn new(authority: Authority) -> Self {
        let client = match &authority {
            Authority::ApiServer { url, ca_file, .. } => {
                Some(LazyClient::new(url, Some(ca_file.clone())).staying())
            }
            Authority::Digests(_) => None,
        };
        let (known, places) = (Cache::new(KNOWN), Semaphore::new(MAX_ASKED));
        Self { authority, client, known, places }
    }

    /// Who presents the token in `headers`.
    ///
    /// # Errors
    /// What the caller is told: it is refused, or can't be known now.
    pub(super) async fn of(&self, headers: &http::HeaderMap) -> Result<Caller, Status> {
        Ok(self.identify(token(headers)?).await?)
    }

    async fn identify(&self, token: &str) -> Result<Caller, CallerFault> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some((caller, until)) = self.known.get(&key) {
            if until > Instant::now() {
                return Ok(caller);
            }
            self.known.remove_if(&key, |(_, known)| *known == until);
        }
        // Of one token only one asks, and the others get the same answer.
        let asking = async {
            let place = timeout(LONGEST_WAIT, self.places.acquire()).await;
            let _place = place.map_err(|_| CallerFault::Busy)?.map_err(|_| CallerFault::Busy)?;
            let caller = self.ask(token, &key).await?;
            Ok((caller, Instant::now() + HOLDS))
        };
        let (caller, _) = self.known.get_or_insert_async(&key, asking).await?;
        Ok(caller)
    }

    async fn ask(&self, token: &str, digest: &[u8]) -> Result<Caller, CallerFault> {
        match (&self.authority, &self.client) {
            (Authority::ApiServer { url, token_file, audience, .. }, Some(client)) => {
                let review = Review { client, url, token_file, audience };
                let late = |_| CallerFault::Unavailable("it does not answer in time".to_owned());
                let reviewed = timeout(LONGEST_REVIEW, review.of(token)).await.map_err(late)?;
                if matches!(reviewed, Err(CallerFault::Unavailable(_))) {
                    // The authorities may be others by now.
                    client.forget();
                }
                reviewed
            }
            (Authority::Digests(path), _) => by_digest(path, digest),
            (Authority::ApiServer { .. }, None) => Err(CallerFault::Busy),
        }
    }
}

fn token(headers: &http::HeaderMap) -> Result<&str, CallerFault> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = token.map(|(_, token)| token);
    token.filter(|it| !it.is_empty() && it.len() <= MAX_TOKEN_BYTES).ok_or(CallerFault::NoToken)
}

/// One question to the API server.
struct Review<'a> {
    client: &'a LazyClient,
    url: &'a Url,
    token_file: &'a PathBuf,
    audience: &'a str,
}

/// `authentication.k8s.io/v1`.
#[derive(Deserialize)]
struct Reviewed {
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    audiences: Vec<String>,
    user: User,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl Review<'_> {
    async fn of(&self, token: &str) -> Result<Caller, CallerFault> {
        let unavailable = CallerFault::Unavailable;
        let ours = std::fs::read_to_string(self.token_file).map_err(|error| {
            unavailable(format!("can't read `{}`: {error}", self.token_file.display()))
        })?;
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.audience]},
        });
        let client = self.client.client().map_err(|error| unavailable(chain(&error)))?;
        let asked = client
            .post(self.url.clone())
            .header(AUTHORIZATION, format!("Bearer {}", ours.trim()))
            .header(CONTENT_TYPE, "application/json")
            .body(question.to_string());
        let answer = asked.send().await;
        let answer = answer.map_err(|error| unavailable(chain(&error.without_url())))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(unavailable(format!("the API server answers {status}")));
        }
        let body = remote::body(answer, MAX_ANSWER_BYTES).await;
        let body = body.map_err(|_| unavailable("its answer can't be read".to_owned()))?;
        let reviewed: Reviewed = serde_json::from_slice(&body)
            .map_err(|_| unavailable("its answer is no TokenReview".to_owned()))?;
        judged(reviewed.status, self.audience)
    }
}

fn judged(status: ReviewStatus, audience: &str) -> Result<Caller, CallerFault> {
    if !status.authenticated {
        return Err(CallerFault::Refused(status.error));
    }
    // One that does not know of audiences has said only that the token is good for itself.
    if !status.audiences.iter().any(|it| it == audience) {
        return Err(CallerFault::NoAudience(audience.to_owned()));
    }
    let account = status.user.username.strip_prefix(ACCOUNT).and_then(|it| it.split_once(':'));
    let account = account.filter(|(namespace, _)| is_namespace(namespace));
    let Some((namespace, account)) = account else {
        return Err(CallerFault::NoAccount(status.user.username));
    };
    let pod = status.user.extra.get(POD).and_then(|names| names.first());
    let name = match pod {
        Some(pod) => format!("{account}/{pod}"),
        None => account.to_owned(),
    };
    Ok(Caller { namespace: namespace.to_owned(), name })
}

/// Whether it is the name of one (RFC 1123 label).
pub(super) fn is_namespace(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Looks the digest up in the file at `path`: `NAMESPACE: [sha256:DIGEST, …]`.
fn by_digest(path: &PathBuf, digest: &[u8]) -> Result<Caller, CallerFault> {
    let unavailable =
        |problem: String| CallerFault::Unavailable(format!("`{}`: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unavailable(error.to_string()))?;
    let namespaces: Option<BTreeMap<String, Vec<String>>> =
        yaml_serde::from_str(&text).map_err(|error| unavailable(error.to_string()))?;
    let wanted = format!("sha256:{}", hex::encode(digest));
    let found = namespaces.into_iter().flatten().find(|(_, digests)| digests.contains(&wanted));
    let (namespace, _) = found.ok_or_else(|| CallerFault::Refused("it is unknown".to_owned()))?;
    Ok(Caller {
        name: format!("sha256:{}", hex::encode(digest.get(..4).unwrap_or_default())),
        namespace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(change: impl FnOnce(&mut ReviewStatus)) -> ReviewStatus {
        let mut status = ReviewStatus {
            authenticated: true,
            audiences: vec!["placet-control".to_owned()],
            user: User {
                username: "system:serviceaccount:shop:orders".to_owned(),
                extra: BTreeMap::from([(POD.to_owned(), vec!["orders-0".to_owned()])]),
            },
            error: String::new(),
        };
        change(&mut status);
        status
    }

    #[test]
    fn only_a_serviceaccount_s_token_for_us_says_whose_it_is() {
        let judge = |change: fn(&mut ReviewStatus)| judged(status(change), "placet-control");
        let caller = judge(|_| {}).unwrap();
        assert_eq!((caller.namespace.as_str(), caller.name.as_str()), ("shop", "orders/orders-0"));
        type Change = fn(&mut ReviewStatus);
        let wrong: [(Change, &str); 7] = [
            (|it| it.authenticated = false, "refused"),
            (|it| it.audiences.clear(), "says nothing of the audience"),
            (|it| it.audiences = vec!["api".to_owned()], "says nothing of the audience"),
            (|it| it.user.username = "system:admin".to_owned(), "no ServiceAccount"),
            (|it| it.user.username = "system:serviceaccount:shop".to_owned(), "no ServiceAccount"),
            (|it| it.user.username = "system:serviceaccount::a".to_owned(), "no ServiceAccount"),
            (
                |it| it.user.username = "system:serviceaccount:../a:b".to_owned(),
                "no ServiceAccount",
            ),
        ];
        for (change, said) in wrong {
            let fault = judge(change).unwrap_err().to_string();
            assert!(fault.contains(said), "{fault}");
        }
    }

    #[test]
    fn a_token_is_taken_from_where_it_belongs() {
        let read = |value: &str| {
            let value = value.parse().unwrap();
            token(&http::HeaderMap::from_iter([(AUTHORIZATION, value)])).map(str::to_owned).ok()
        };
        assert_eq!(read("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(read("bearer abc").as_deref(), Some("abc"));
        for wrong in ["", "Bearer", "Bearer ", "Basic abc", "abc", &"a".repeat(9000)] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_digest_says_whose_a_token_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.yaml");
        let known = hex::encode(digest(&SHA256, b"secret"));
        std::fs::write(&path, format!("shop: [\"sha256:{known}\"]\nother: []\n")).unwrap();
        let callers = Callers::new(Authority::Digests(path.clone()));
        assert_eq!(callers.identify("secret").await.unwrap().namespace, "shop");
        assert!(callers.identify("other").await.is_err());
        std::fs::write(&path, "").unwrap();
        assert!(callers.identify("secret").await.is_ok(), "what was found holds for a while");
        assert!(matches!(callers.identify("new").await, Err(CallerFault::Refused(_))));
        std::fs::write(&path, "shop").unwrap();
        assert!(matches!(callers.identify("new").await, Err(CallerFault::Unavailable(_))));
    }
}
