//! The login that is kept: made when first needed, renewed before it ends, replaced when refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use reqwest::redirect::Policy;
use rustify::Endpoint;
use tokio::time::Instant;

use super::VaultStore;
use super::cluster::{Answer, Caller, Cluster, Refusal};
use super::lease::{Backoff, Lease};
use super::login::{Credential, Login, NoLogin, RefusedLogin, Unwrapped, renew};
use super::root_cause;
use crate::secrets::{SecretError, VaultAuth};

/// A login: a token and its lease, and the cluster it is good for. Never changed, but replaced.
pub(super) struct Session {
    cluster: Arc<Cluster>,
    caller: Arc<Caller>,
    credential: Arc<Credential>,
    /// `None`: for ever, or unknown.
    lease: Option<Lease>,
}

impl Session {
    pub(super) async fn ask<E: Endpoint>(&self, question: &E) -> Result<Answer, Refusal> {
        self.cluster.ask(&self.caller, question).await
    }

    fn is_due(&self, now: Instant) -> bool {
        self.lease.is_some_and(|lease| lease.is_due(now))
    }

    fn has_ended(&self, now: Instant) -> bool {
        self.lease.is_some_and(|lease| lease.has_ended(now))
    }

    fn with_lease(&self, lease: Option<Lease>) -> Self {
        Self {
            cluster: Arc::clone(&self.cluster),
            caller: Arc::clone(&self.caller),
            credential: Arc::clone(&self.credential),
            lease,
        }
    }
}

/// What is remembered from one login to the next.
#[derive(Default)]
pub(super) struct Door {
    refused: Option<(Arc<Credential>, RefusedLogin, Backoff)>,
    unwrapped: Option<Unwrapped>,
}

impl VaultStore {
    /// The session to ask with; logs in or renews if it is time to.
    pub(super) async fn session(&self) -> Result<Arc<Session>, SecretError> {
        let now = Instant::now();
        let present = self.session.load_full();
        let is_cut_off = self.is_cut_off.load(Ordering::Relaxed);
        let mut door = match present {
            Some(present) if !is_cut_off && !present.is_due(now) => return Ok(present),
            Some(present) if !is_cut_off && !present.has_ended(now) => {
                let Ok(door) = self.door.try_lock() else { return Ok(present) };
                door
            }
            _ => self.door.lock().await,
        };
        let present = match self.session.load_full() {
            Some(present) if self.is_cut_off.load(Ordering::Relaxed) => {
                self.reconnected(&present).await?
            }
            Some(present) => present,
            None => return self.log_in(&mut door).await,
        };
        if present.is_due(Instant::now()) {
            self.renewed(present, &mut door).await
        } else {
            Ok(present)
        }
    }

    /// A session with another token than the `refused` one has, after a 403 for `path`. `None`:
    /// a new login did not help there either, and it is too early for the next.
    pub(super) async fn session_instead_of(
        &self,
        refused: &Session,
        path: &str,
    ) -> Result<Option<Arc<Session>>, SecretError> {
        let mut door = self.door.lock().await;
        if let Some(present) = self.session.load_full()
            && present.caller.token() != refused.caller.token()
        {
            return Ok(Some(present));
        }
        let is_waiting = {
            let forbidden = self.forbidden();
            forbidden.get(path).is_some_and(|backoff| backoff.is_waiting(Instant::now()))
        };
        if is_waiting {
            let credential = Credential::read(&self.id, &self.settings.auth).await?;
            if credential == *refused.credential {
                return Ok(None);
            }
        }
        self.log_in(&mut door).await.map(Some)
    }

    /// The same login with a new HTTP client.
    async fn reconnected(&self, present: &Session) -> Result<Arc<Session>, SecretError> {
        let credential = match &self.settings.auth {
            VaultAuth::Cert { .. } => {
                Arc::new(Credential::read(&self.id, &self.settings.auth).await?)
            }
            _ => Arc::clone(&present.credential),
        };
        let cluster = Arc::new(self.cluster(&credential).await?);
        let session = Session { cluster, credential, ..present.with_lease(present.lease) };
        self.is_cut_off.store(false, Ordering::Relaxed);
        Ok(self.keep(session))
    }

    /// The session with a longer lease, or a new one; as it is while neither can be had.
    async fn renewed(
        &self,
        present: Arc<Session>,
        door: &mut Door,
    ) -> Result<Arc<Session>, SecretError> {
        let Some(lease) = present.lease else { return Ok(present) };
        let answer = if lease.is_renewable && !present.has_ended(Instant::now()) {
            renew(&present.cluster, &present.caller).await
        } else {
            Ok(None)
        };
        let error = match answer {
            Ok(lasts) => {
                let look = self.settings.refresh_interval;
                let now = Instant::now();
                if let Some(lease) = lasts.and_then(|lasts| lease.renewed(now, lasts, look)) {
                    return Ok(self.keep(present.with_lease(Some(lease))));
                }
                match self.log_in(door).await {
                    Ok(session) => return Ok(session),
                    Err(error) => error,
                }
            }
            // It ended while we asked.
            Err(_) if present.has_ended(Instant::now()) => return self.log_in(door).await,
            Err(refusal) => self.away(refusal.fault, refusal.address),
        };
        let now = Instant::now();
        if present.has_ended(now) {
            return Err(error);
        }
        tracing::warn!(store = self.id, %error, "the login can't be renewed; the present one is used to its end");
        Ok(self.keep(present.with_lease(Some(lease.postponed(now)))))
    }

    fn keep(&self, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        self.session.store(Some(Arc::clone(&session)));
        session
    }

    async fn log_in(&self, door: &mut Door) -> Result<Arc<Session>, SecretError> {
        let credential = Arc::new(Credential::read(&self.id, &self.settings.auth).await?);
        let earlier = door.refused.take().filter(|(refused, ..)| **refused == *credential);
        if let Some((_, refused, backoff)) = &earlier
            && backoff.is_waiting(Instant::now())
        {
            let error = self.login_refused(refused.clone());
            door.refused = earlier;
            return Err(error);
        }
        let cluster = Arc::new(self.cluster(&credential).await?);
        let namespace = self.settings.namespace.as_deref();
        let login = Login { cluster: &cluster, namespace, credential: &credential };
        match login.by(&self.settings.auth, &mut door.unwrapped).await {
            Ok(granted) => {
                let caller = Arc::new(Caller::new(granted.token.expose(), namespace));
                let (now, look) = (Instant::now(), self.settings.refresh_interval);
                let lease = Lease::new(now, granted.lasts, granted.is_renewable, look);
                self.is_cut_off.store(false, Ordering::Relaxed);
                Ok(self.keep(Session { cluster, caller, credential, lease }))
            }
            Err(NoLogin::Refused(refused)) => {
                let earlier = earlier.map(|(_, _, backoff)| backoff);
                let backoff = Backoff::after(earlier, Instant::now());
                door.refused = Some((credential, refused.clone(), backoff));
                Err(self.login_refused(refused))
            }
            Err(NoLogin::Failed(refusal)) => {
                door.refused = earlier;
                Err(self.away(refusal.fault, refusal.address))
            }
        }
    }

    fn login_refused(&self, refused: RefusedLogin) -> SecretError {
        let store = self.id.clone();
        match refused {
            RefusedLogin::Status(status) => {
                let method = self.settings.auth.method();
                SecretError::LoginRefused { store, method, status }
            }
            RefusedLogin::Unopened(status) => SecretError::WrappedSecretId { store, status },
            RefusedLogin::MadeElsewhere { found, expected } => {
                SecretError::ForeignSecretId { store, found, expected }
            }
        }
    }

    async fn cluster(&self, credential: &Credential) -> Result<Cluster, SecretError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .timeout(self.settings.timeout)
            .no_proxy()
            .redirect(Policy::none());
        if let Some(path) = &self.settings.ca_file {
            let unusable = |problem: String| SecretError::UnusableCaFile {
                store: self.id.clone(),
                path: path.clone(),
                problem,
            };
            let pem = tokio::fs::read(path).await.map_err(|error| unusable(error.to_string()))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|authorities| !authorities.is_empty())
                .ok_or_else(|| unusable("no certificate in it can be read".to_owned()))?;
            builder = builder.tls_certs_only(authorities);
        } else if self.nodes.iter().all(|node| node.scheme() == "http") {
            // Loading the platform's authorities fails where there are none, needed or not.
            builder = builder.tls_certs_only([]);
        }
        if let VaultAuth::Cert { certificate_file, key_file, .. } = &self.settings.auth {
            let identity = reqwest::Identity::from_pem(credential.joined().as_bytes());
            builder = builder.identity(identity.map_err(|_| SecretError::UnusableLogin {
                store: self.id.clone(),
                what: "client certificate",
                origin: format!(
                    "files `{}` and `{}`",
                    certificate_file.display(),
                    key_file.display()
                ),
                problem: "they are not a PEM certificate chain and its PEM key".to_owned(),
            })?);
        }
        let http = builder.build().map_err(|error| SecretError::UnusableSetting {
            store: self.id.clone(),
            problem: format!(
                "no TLS client can be made ({}): set `tls.caFile`, or install the system's \
                 certificate authorities",
                root_cause(&error)
            ),
        })?;
        Ok(Cluster::new(self.nodes.clone(), http, self.settings.timeout))
    }
}
