//! Certificates of placet-control's own: an authority and what it certifies, renewed without a restart.
//!
//! [`Keeper`] owns them. They are kept in one Secret, which all replicas share, and the authorities are
//! [published](Publication) where those look who are to trust them: for API servers as the `caBundle` of the
//! webhook's configuration, for sidecars in a ConfigMap of their namespace. `ring` says what follows from the
//! time; here it is carried out, in an order that holds with any number of replicas: what is published is read
//! before the Secret and written last, with the version that was read, so a replica that was slow can't
//! take back what another has published since. A fault leaves everything as it was, is logged once, and is
//! tried again; what was served is served on.

mod config_maps;
mod publication;
mod ring;
mod secret;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use kube::{Api, Client};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

pub use self::config_maps::ConfigMaps;
pub(super) use self::config_maps::{AUTHORITIES, SETTINGS};
pub use self::publication::Publication;
use self::publication::{Seen as _, Write};
pub use self::ring::RingError;
use self::ring::{Ring, Serving, Step};
pub use self::webhook::Configuration;
use crate::clock::{Clock, Timestamp};
use crate::tls::{Files, Protocols, Served, TlsSettings};

/// What is served, whatever it is at the moment.
pub type Current = Arc<ArcSwap<ServerConfig>>;

/// How often the Secret and the configuration are looked at: much more often than an authority is
/// published before it signs, and soon enough where somebody has taken the `caBundle` away.
const LOOK: Duration = Duration::from_secs(10);

/// After so many conflicts in a row the next look goes on.
const ATTEMPTS: u32 = 20;

/// How long the API may take to answer: looks follow one another.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of the cluster that this runs in, or that KUBECONFIG names, for certificates.
///
/// # Errors
/// If no cluster is known.
pub async fn client() -> Result<Client> {
    let mut config = kube::Config::infer().await.context(
        "no cluster is known to keep certificates in: run in a pod with a ServiceAccount, or set certificateFile and keyFile",
    )?;
    config.read_timeout = Some(PATIENCE);
    Client::try_from(config).context("can't speak with the cluster")
}

/// What the certificates are called in the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// The Secret, in the namespace of `placet-control`.
    pub secret: String,
    /// The Service that they are for, there too.
    pub service: String,
}

impl Names {
    /// What the Service is called by those who use it.
    pub fn host(&self, namespace: &str) -> String {
        format!("{}.{namespace}.svc", self.service)
    }
}

/// Why the certificates could not be looked after.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum CertificateError {
    #[error("can't {what} `{name}`")]
    Api { what: &'static str, name: String, source: Box<kube::Error> },
    #[error(
        "the Secret `{secret}` holds no certificates of placet-control's: delete it, and new ones are made"
    )]
    Kept { secret: String, source: RingError },
    #[error(transparent)]
    Make(#[from] RingError),
    #[error("the certificate can't be served: {0}")]
    Serve(String),
    #[error(
        "there is no MutatingWebhookConfiguration `{0}`: apply it, or name yours in webhook.certificates.configuration"
    )]
    NoConfiguration(String),
    #[error("others wrote the certificates {ATTEMPTS} times in a row")]
    Contended,
}

/// Keeps the certificates.
pub struct Keeper<P> {
    secret: secret::Kept,
    publication: P,
    names: Names,
    /// What the Service is called by those who use it.
    host: String,
    /// What the last look found: put back if the Secret is deleted.
    ring: Option<Ring>,
    current: Option<Current>,
    is_published: Arc<AtomicBool>,
}

impl<P: Publication> Keeper<P> {
    /// Keeps the certificates called `names` in `namespace`, and publishes their authorities.
    pub fn new(client: Client, namespace: &str, names: Names, publication: P) -> Self {
        Self {
            secret: secret::Kept::new(Api::namespaced(client, namespace), &names.secret),
            publication,
            host: names.host(namespace),
            names,
            ring: None,
            current: None,
            is_published: Arc::default(),
        }
    }

    /// Whether it was said whom to trust: whoever asks before can't be answered.
    pub fn is_published(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_published)
    }

    /// Looks until there is something to serve, and returns that; `None` if `shutdown` comes first.
    pub async fn first(&mut self, clock: Clock, shutdown: &CancellationToken) -> Option<Current> {
        let mut told = None;
        loop {
            let looked = self.look(clock.now()).await;
            self.tell(looked, &mut told);
            if let Some(current) = &self.current {
                return Some(Arc::clone(current));
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Looks again and again until `shutdown`.
    pub async fn run(mut self, clock: Clock, shutdown: CancellationToken) {
        let mut told = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.publication.wanted() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            let looked = self.look(clock.now()).await;
            self.tell(looked, &mut told);
        }
    }

    /// Does all that is to be done at `now`.
    ///
    /// # Errors
    /// What could not be done; the next look tries again.
    pub async fn look(&mut self, now: Timestamp) -> Result<(), CertificateError> {
        for _ in 0..ATTEMPTS {
            if self.is_settled(now).await? {
                return Ok(());
            }
        }
        Err(CertificateError::Contended)
    }

    /// Does one thing that is to be done; says whether there was none.
    async fn is_settled(&mut self, now: Timestamp) -> Result<bool, CertificateError> {
        let seen = self.publication.seen().await?;
        let kept = self.secret.read().await?;
        let Some(ring) = &kept.ring else {
            let ring = self.ring.clone().map_or_else(|| Ring::new(&self.host, now), Ok)?;
            self.secret.write(&kept, &ring).await?;
            return Ok(false);
        };
        if let Some((step, ring)) = ring.step(&self.host, now, |it| seen.has(&it.pem))? {
            if self.secret.write(&kept, &ring).await? == Write::Done {
                tracing::info!(secret = self.names.secret, "{}", said(step));
            }
            return Ok(false);
        }
        self.serve(ring)?;
        let bundle = ring.bundle();
        if seen.is(&bundle) {
            self.is_published.store(true, Ordering::Relaxed);
            return Ok(true);
        }
        self.publication.publish(&seen, &bundle).await?;
        Ok(false)
    }

    fn serve(&mut self, ring: &Ring) -> Result<(), CertificateError> {
        let was = self.ring.as_ref().map(|ring| &ring.serving.certificate);
        if was != Some(&ring.serving.certificate) {
            let config = config(&ring.serving)?;
            match &self.current {
                Some(current) => current.store(config),
                None => self.current = Some(Arc::new(ArcSwap::new(config))),
            }
        }
        self.ring = Some(ring.clone());
        Ok(())
    }

    /// Logs what goes wrong, once.
    fn tell(&self, result: Result<(), CertificateError>, told: &mut Option<String>) {
        let problem = result.err().map(|error| format!("{:#}", anyhow::Error::new(error)));
        let secret = &self.names.secret;
        match &problem {
            Some(problem) if told.as_ref() != Some(problem) => {
                tracing::error!(secret, "the certificates: {problem}");
            }
            None if told.is_some() => {
                tracing::info!(secret, "the certificates are looked after again");
            }
            _ => {}
        }
        *told = problem;
    }
}

fn config(serving: &Serving) -> Result<Arc<ServerConfig>, CertificateError> {
    let settings = TlsSettings {
        // As the Secret calls them.
        certificate_file: PathBuf::from("tls.crt"),
        key_file: PathBuf::from("tls.key"),
        client_ca_file: None,
        allowed: None,
        protocols: Protocols::Http,
    };
    let files = Files::held(&serving.certificate.pem, &serving.key);
    let served = Served::compile(&settings, &files);
    let served = served.map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        CertificateError::Serve(faults.join("; "))
    });
    Ok(served?.config)
}

fn said(step: Step) -> &'static str {
    match step {
        Step::Renewed => "a new serving certificate",
        Step::NextMade => "a new authority, to be published beside the old one",
        Step::NextPublished => "the new authority is published, and will sign in an hour",
        Step::NextSigns => {
            "the new authority signs; the old one stays trusted while what it signed holds"
        }
        Step::RetiredRemoved => "the old authority is trusted no more",
        Step::AllAnew => "the authority had expired: all certificates are made anew",
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
