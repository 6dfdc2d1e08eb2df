//! Client certificates in a header of a trusted hop. The first byte chooses how they come and what of
//! them counts. Nothing panics, the same field twice is never a caller, and an `x-forwarded-client-cert`
//! that speaks of two certificates is none either.

#![no_main]

use std::sync::Arc;

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use placet::clock::Timestamp;
use placet::identity::{
    CertificateSource, Identity, IdentitySettings, PeerSettings, PeerSubject, Principal, Refusal,
    Require,
};
use placet::request::Request;

const SUBJECTS: [PeerSubject; 5] = [
    PeerSubject::SpiffeId,
    PeerSubject::UriSan,
    PeerSubject::DnsSan,
    PeerSubject::CommonName,
    PeerSubject::Sha256,
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, field)) = data.split_first() else { return };
    let (name, from) = match choice % 2 {
        0 => ("client-cert", CertificateSource::ClientCert),
        _ => ("x-forwarded-client-cert", CertificateSource::Forwarded),
    };
    let identity = identity(from, SUBJECTS[usize::from(choice / 2) % SUBJECTS.len()]);
    if let Ok(principal) = authenticate(&identity, name, &[field]) {
        assert!(!principal.id.is_empty());
        assert!(authenticate(&identity, name, &[field, field]).is_err());
        let joined = [field, b",", field].concat();
        assert!(authenticate(&identity, name, &[joined.as_slice()]).is_err());
    }
});

fn authenticate(
    identity: &Identity,
    name: &str,
    fields: &[&[u8]],
) -> Result<Arc<Principal>, Refusal> {
    let mut request = Request::default();
    request.source.ip = Some([127, 0, 0, 1].into());
    for field in fields {
        request.headers.push(name, *field);
    }
    let outcome = identity.authenticate(&request, Timestamp::from_seconds(1_800_000_000));
    let outcome = outcome.now_or_never().expect("at once");
    if let Err(refusal) = &outcome {
        let text = refusal.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 1024, "{text:?}");
    }
    outcome
}

fn identity(from: CertificateSource, subject: PeerSubject) -> Identity {
    let trust_domains = match subject {
        PeerSubject::SpiffeId => vec!["cluster.local".to_owned()],
        _ => Vec::new(),
    };
    let trusted_hops = vec!["127.0.0.1/32".parse().expect("a network")];
    let settings = IdentitySettings {
        require: Require::Peer,
        issuers: Vec::new(),
        api_keys: None,
        peer: Some(PeerSettings { trust_domains, from, trusted_hops, subject }),
        anonymous: false,
    };
    Identity::new(settings, Vec::new(), None, Arc::default()).expect("an identity")
}
