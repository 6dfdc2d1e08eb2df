//! Where the certificates are kept: one Secret, written with the version that was read, so that of two replicas
//! that write at once one is told to look again.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::Api;

use super::CertificateError;
use super::publication::{Write, api, outcome, writer};
use super::ring::{Authority, Certificate, Next, Retired, Ring, RingError, Serving};
use crate::clock::Timestamp;
use crate::secrets::Secret;

/// The Secret.
pub(super) struct Kept {
    secrets: Api<KubeSecret>,
    name: String,
}

/// What is kept, and with which version.
pub(super) struct Read {
    secret: Option<KubeSecret>,
    /// None where there is no Secret, or an empty one, as a manifest may have it.
    pub(super) ring: Option<Ring>,
}

impl Kept {
    pub(super) fn new(secrets: Api<KubeSecret>, name: &str) -> Self {
        Self { secrets, name: name.to_owned() }
    }

    /// What it holds.
    pub(super) async fn read(&self) -> Result<Read, CertificateError> {
        let secret = self.secrets.get_opt(&self.name).await;
        let secret = secret.map_err(|error| api("read the Secret", &self.name, error))?;
        let ring = secret.as_ref().map_or(Ok(None), ring);
        let ring =
            ring.map_err(|source| CertificateError::Kept { secret: self.name.clone(), source })?;
        Ok(Read { secret, ring })
    }

    /// Has it hold `ring` in the place of what was `read`.
    pub(super) async fn write(&self, read: &Read, ring: &Ring) -> Result<Write, CertificateError> {
        let name = &self.name;
        let mut secret = read.secret.clone().unwrap_or_default();
        secret.data = Some(fields(ring));
        secret.metadata.name = Some(name.clone());
        let (what, written) = match read.secret {
            None => ("create the Secret", self.secrets.create(&writer(), &secret).await),
            Some(_) => ("update the Secret", self.secrets.replace(name, &writer(), &secret).await),
        };
        outcome(written, what, name)
    }
}

fn fields(ring: &Ring) -> BTreeMap<String, ByteString> {
    let mut fields = BTreeMap::new();
    let mut set = |name: &str, text: &str| {
        fields.insert(name.to_owned(), ByteString(text.as_bytes().to_vec()));
    };
    set("tls.crt", &ring.serving.certificate.pem);
    set("tls.key", ring.serving.key.expose());
    set("ca.crt", &ring.active.certificate.pem);
    set("ca.key", ring.active.key.expose());
    if let Some(next) = &ring.next {
        set("next-ca.crt", &next.authority.certificate.pem);
        set("next-ca.key", next.authority.key.expose());
        if let Some(published) = next.published {
            set("next-ca.published", &published.seconds().to_string());
        }
    }
    if let Some(retired) = &ring.retired {
        set("retired-ca.crt", &retired.certificate.pem);
        set("retired-ca.until", &retired.until.seconds().to_string());
    }
    fields
}

/// What `secret` holds.
fn ring(secret: &KubeSecret) -> Result<Option<Ring>, RingError> {
    let Some(data) = secret.data.as_ref().filter(|data| !data.is_empty()) else { return Ok(None) };
    let text = |name: &'static str| match data.get(name).map(|bytes| str::from_utf8(&bytes.0)) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(error)) => Err(RingError::Unusable { field: name, problem: error.to_string() }),
    };
    let needed = |name| text(name)?.ok_or(RingError::Missing(name));
    let key = |name| needed(name).map(|text| Secret::new(text.to_owned()));
    let time = |name, text: &str| match text.parse() {
        Ok(seconds) => Ok(Timestamp::from_seconds(seconds)),
        Err(_) => Err(RingError::Unusable { field: name, problem: "is no time".to_owned() }),
    };
    let authority = |certificate, key_name| {
        Authority::parse((certificate, key_name), needed(certificate)?, &key(key_name)?)
    };
    let next = match text("next-ca.crt")? {
        None => None,
        Some(_) => Some(Next {
            authority: authority("next-ca.crt", "next-ca.key")?,
            published: text("next-ca.published")?
                .map(|text| time("next-ca.published", text))
                .transpose()?,
        }),
    };
    let retired = match text("retired-ca.crt")? {
        None => None,
        Some(pem) => Some(Retired {
            certificate: Certificate::parse("retired-ca.crt", pem)?,
            until: time("retired-ca.until", needed("retired-ca.until")?)?,
        }),
    };
    Ok(Some(Ring {
        active: authority("ca.crt", "ca.key")?,
        next,
        retired,
        serving: Serving::parse(needed("tls.crt")?, &key("tls.key")?)?,
    }))
}
