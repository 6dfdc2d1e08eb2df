//! Which certificates there are, and what follows from the time. Pure: no I/O, and the time is passed in.
//!
//! At most three authorities live at once. The *active* one signs. The *next* one is published beside it
//! long enough for every API server to know it, and only then takes its place. The *retired* one signs
//! nothing any more, its key is gone, and it stays published until all that it signed has expired. So
//! whatever a replica serves, by a ring as old as it may be, was signed by an authority that is published.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::parse_x509_pem;

use crate::clock::Timestamp;
use crate::secrets::Secret;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long an authority holds.
pub(super) const AUTHORITY_LIFE: Duration = Duration::from_secs(360 * DAY.as_secs());

/// How long a serving certificate holds. Less than the third of [`AUTHORITY_LIFE`] that is left when the
/// next authority is made.
pub(super) const SERVING_LIFE: Duration = Duration::from_secs(30 * DAY.as_secs());

/// How long the next authority is published before it signs: API servers hear of it in seconds, unless one
/// is cut off for a while.
pub(super) const SETTLE: Duration = Duration::from_secs(3600);

/// How far the clocks of API servers may be behind.
const SKEW: Duration = Duration::from_secs(3600);

/// What is wrong with certificates that were kept, or why new ones can't be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum RingError {
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}` can't be used: {problem}")]
    Unusable { field: &'static str, problem: String },
    #[error("no certificate can be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Every certificate of the webhook.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub(super) active: Authority,
    pub(super) next: Option<Next>,
    pub(super) retired: Option<Retired>,
    pub(super) serving: Serving,
}

/// An authority that can sign.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    pub(super) key: Secret<String>,
}

/// The authority that will sign.
#[derive(Clone, Debug)]
pub(super) struct Next {
    pub(super) authority: Authority,
    /// Since when it is known to be published.
    pub(super) published: Option<Timestamp>,
}

/// An authority that signs no more.
#[derive(Clone, Debug)]
pub(super) struct Retired {
    pub(super) certificate: Certificate,
    /// When the last that it signed expires.
    pub(super) until: Timestamp,
}

/// What the webhook serves.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    pub(super) certificate: Certificate,
    pub(super) key: Secret<String>,
}

/// A certificate, and what of it counts here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Certificate {
    pub(super) pem: String,
    begins: Timestamp,
    ends: Timestamp,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    names: Vec<String>,
    public_key: Vec<u8>,
}

/// What was done to a ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Renewed,
    NextMade,
    NextPublished,
    NextSigns,
    RetiredRemoved,
    AllAnew,
}

impl Ring {
    /// A first authority, which signs at once: nobody trusts another.
    pub(super) fn new(name: &str, now: Timestamp) -> Result<Self, RingError> {
        let active = Authority::new(now)?;
        let serving = active.certify(name, now)?;
        Ok(Self { active, next: None, retired: None, serving })
    }

    /// What follows at `now`, one step at a time; `None` if nothing does. `name` is what API servers call
    /// the webhook; `is_published` says whether they were told of an authority.
    pub(super) fn step(
        &self,
        name: &str,
        now: Timestamp,
        is_published: impl Fn(&Certificate) -> bool,
    ) -> Result<Option<(Step, Self)>, RingError> {
        if self.active.certificate.ends <= now {
            return Ok(Some((Step::AllAnew, Self::new(name, now)?)));
        }
        let mut ring = self.clone();
        let step = if self.retired.as_ref().is_some_and(|retired| retired.until <= now) {
            ring.retired = None;
            Step::RetiredRemoved
        } else if let Some(next) =
            self.next.as_ref().filter(|next| is_published(next.certificate()))
        {
            match next.published {
                None => {
                    ring.next = Some(Next { published: Some(now), ..next.clone() });
                    Step::NextPublished
                }
                Some(since) if now.since(since) >= SETTLE && self.retired.is_none() => {
                    ring.promote(next.authority.clone(), name, now)?;
                    Step::NextSigns
                }
                Some(_) => return self.renewed(name, now),
            }
        } else if self.next.is_none() && self.active.certificate.is_due(now) {
            ring.next = Some(Next { authority: Authority::new(now)?, published: None });
            Step::NextMade
        } else {
            return self.renewed(name, now);
        };
        Ok(Some((step, ring)))
    }

    /// With a new serving certificate, if it is time for one.
    fn renewed(&self, name: &str, now: Timestamp) -> Result<Option<(Step, Self)>, RingError> {
        let held = &self.serving.certificate;
        let is_wrong = held.names != [name] || held.issuer != self.active.certificate.subject;
        // One that would end no later, since its authority does not, is no better.
        let is_old = held.is_due(now) && self.active.ends_of_what_it_signs(now) > held.ends;
        if !is_wrong && !is_old {
            return Ok(None);
        }
        let serving = self.active.certify(name, now)?;
        Ok(Some((Step::Renewed, Self { serving, ..self.clone() })))
    }

    fn promote(&mut self, next: Authority, name: &str, now: Timestamp) -> Result<(), RingError> {
        // What a replica may have signed a moment ago counts too.
        let until = self.active.ends_of_what_it_signs(now).max(self.serving.certificate.ends);
        let retired = std::mem::replace(&mut self.active, next);
        self.next = None;
        self.retired = Some(Retired { certificate: retired.certificate, until });
        self.serving = self.active.certify(name, now)?;
        Ok(())
    }

    /// The authorities to be trusted.
    pub(super) fn trusted(&self) -> impl Iterator<Item = &Certificate> {
        let next = self.next.as_ref().map(Next::certificate);
        let retired = self.retired.as_ref().map(|retired| &retired.certificate);
        [Some(&self.active.certificate), next, retired].into_iter().flatten()
    }

    /// All of them as one PEM text, `caBundle`.
    pub(super) fn bundle(&self) -> String {
        self.trusted().map(|certificate| certificate.pem.as_str()).collect()
    }
}

impl Next {
    fn certificate(&self) -> &Certificate {
        &self.authority.certificate
    }
}

impl Authority {
    fn new(now: Timestamp) -> Result<Self, RingError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        // Two that live at once need two names: verifiers find an authority by its name.
        let name = format!("placet-control {}", now.rfc3339());
        params.distinguished_name.push(DnType::CommonName, name);
        set_validity(&mut params, now, now.after(AUTHORITY_LIFE));
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let certificate = Certificate::parse("ca.crt", &pem)?;
        Ok(Self { certificate, key: Secret::new(key.serialize_pem()) })
    }

    /// Takes over what was kept under the two names.
    pub(super) fn parse(
        fields: (&'static str, &'static str),
        certificate: &str,
        key: &Secret<String>,
    ) -> Result<Self, RingError> {
        let certificate = Certificate::parse(fields.0, certificate)?;
        certificate.check_key(fields.1, key)?;
        Ok(Self { certificate, key: key.clone() })
    }

    fn ends_of_what_it_signs(&self, now: Timestamp) -> Timestamp {
        now.after(SERVING_LIFE).min(self.certificate.ends)
    }

    fn certify(&self, name: &str, now: Timestamp) -> Result<Serving, RingError> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "placet-control");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, self.ends_of_what_it_signs(now));
        let signing = KeyPair::from_pem(self.key.expose())?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate.pem, signing)?;
        let key = KeyPair::generate()?;
        let pem = params.signed_by(&key, &issuer)?.pem();
        let certificate = Certificate::parse("tls.crt", &pem)?;
        Ok(Serving { certificate, key: Secret::new(key.serialize_pem()) })
    }
}

impl Serving {
    /// Takes over what was kept.
    pub(super) fn parse(certificate: &str, key: &Secret<String>) -> Result<Self, RingError> {
        let certificate = Certificate::parse("tls.crt", certificate)?;
        certificate.check_key("tls.key", key)?;
        Ok(Self { certificate, key: key.clone() })
    }
}

impl Certificate {
    /// Reads one certificate, which was kept as `field`.
    pub(super) fn parse(field: &'static str, pem: &str) -> Result<Self, RingError> {
        let unusable = |problem: String| RingError::Unusable { field, problem };
        let (rest, block) =
            parse_x509_pem(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        if !rest.trim_ascii().is_empty() {
            return Err(unusable("it holds more than one certificate".to_owned()));
        }
        let parsed = block.parse_x509().map_err(|error| unusable(error.to_string()))?;
        let seconds = |seconds: i64| Timestamp::from_seconds(seconds.try_into().unwrap_or(0));
        Ok(Self {
            pem: pem.to_owned(),
            begins: seconds(parsed.validity().not_before.timestamp()),
            ends: seconds(parsed.validity().not_after.timestamp()),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            names: names(&parsed),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
        })
    }

    fn check_key(&self, field: &'static str, key: &Secret<String>) -> Result<(), RingError> {
        let key = KeyPair::from_pem(key.expose())
            .map_err(|error| RingError::Unusable { field, problem: error.to_string() })?;
        if key.public_key_raw() == self.public_key {
            return Ok(());
        }
        Err(RingError::Unusable {
            field,
            problem: "it is not the key of its certificate".to_owned(),
        })
    }

    /// Whether two thirds of its life have passed.
    fn is_due(&self, now: Timestamp) -> bool {
        now.since(self.begins) >= self.ends.since(self.begins) / 3 * 2
    }
}

/// The DNS names that it speaks of.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, ends: Timestamp) {
    let time = |time: Timestamp| {
        let seconds = i64::try_from(time.seconds()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    let begins = now.millis().saturating_sub(u64::try_from(SKEW.as_millis()).unwrap_or(0));
    params.not_before = time(Timestamp::from_millis(begins));
    params.not_after = time(ends);
}
