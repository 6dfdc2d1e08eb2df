//! Who may ask.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::Shared;
use crate::config::check::credential::credential;
use crate::config::check::{duration, joined, read_once, refuse_foreign, secs, texts};
use crate::config::raw;
use crate::config::report::Report;
use crate::identity::{
    ApiKeySettings, Audiences, CertificateSource, ClaimPath, IdentitySettings,
    IntrospectionSettings, IssuerSettings, KeySourceSettings, PeerSettings, PeerSubject, Place,
    Require, TokenType,
};
use crate::keys::Algorithm;

pub(super) fn check(
    path: &str,
    scope: &raw::Scope,
    client_id: Option<&str>,
    base: &Path,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<IdentitySettings> {
    let (path, raw) = (format!("{path}.identity"), &scope.identity);
    let issuers: Vec<Option<IssuerSettings>> = raw
        .jwt
        .iter()
        .enumerate()
        .map(|(index, raw)| issuer(&format!("{path}.jwt[{index}]"), raw, base, report))
        .collect();
    let api_keys = raw.api_keys.as_ref();
    let api_keys = api_keys
        .map(|raw| self::api_keys(&format!("{path}.apiKeys"), raw, client_id, shared, report));
    if raw.peer.is_some() && !shared.is_grpc_private {
        report.error(
            format_args!("{path}.peer"),
            "any local process could claim to be a peer: set listen.grpc to a Unix socket, or to TLS with clientCaFile and allowedUriSans",
        );
    }
    let peer = raw.peer.as_ref().map(|raw| peer(&format!("{path}.peer"), raw, report));
    let settings = IdentitySettings {
        require: require(raw),
        issuers: issuers.into_iter().collect::<Option<_>>()?,
        api_keys: api_keys.map_or(Some(None), |keys| keys.map(Some))?,
        peer: peer.map_or(Some(None), |peer| peer.map(Some))?,
        anonymous: raw.anonymous.unwrap_or(false),
    };
    let faults = settings.faults(&shared.own_issuers);
    faults.iter().for_each(|fault| report.error(&path, fault));
    let is_for_somebody =
        !settings.issuers.is_empty() || settings.api_keys.is_some() || settings.peer.is_some();
    if !is_for_somebody && !settings.anonymous {
        report.warning(&path, "nobody can authenticate: add jwt, apiKeys, peer or anonymous");
    }
    faults.is_empty().then_some(settings)
}

fn require(raw: &raw::Identity) -> Require {
    let is_without_user = raw.jwt.is_empty() && raw.api_keys.is_none();
    match (raw.require, is_without_user, raw.peer.is_some()) {
        (Some(raw::Require::Jwt), ..) => Require::Jwt,
        (Some(raw::Require::Peer), ..) | (None, true, true) => Require::Peer,
        (Some(raw::Require::Both), ..) | (None, false, true) => Require::Both,
        (Some(raw::Require::Either), ..) => Require::Either,
        (None, _, false) => Require::Jwt,
    }
}

fn api_keys(
    path: &str,
    raw: &raw::ApiKeys,
    client_id: Option<&str>,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<ApiKeySettings> {
    let place = match (&raw.header, &raw.query, &raw.prefix) {
        (header, None, prefix) => Some(Place::Header {
            name: header.as_deref().unwrap_or("x-api-key").to_ascii_lowercase(),
            prefix: prefix.clone().unwrap_or_default(),
        }),
        (None, Some(name), None) => Some(Place::Query { name: name.clone() }),
        _ => {
            report.error(path, "has query beside header or prefix: keep one place");
            None
        }
    };
    let name = raw.key_name.clone().or_else(|| client_id.map(|id| format!("{id}.api-keys")))?;
    let kept_at = (raw.secret_store.as_deref(), raw.path_to_key.clone(), name);
    let (store, location) = super::kept(path, kept_at, shared, report)?;
    let principal_type = raw.principal_type.clone().unwrap_or_else(|| "ApiKey".to_owned());
    Some(ApiKeySettings { place: place?, principal_type, store, location })
}

fn peer(path: &str, raw: &raw::Peer, report: &mut Report) -> Option<PeerSettings> {
    let hops: Vec<Option<IpNet>> = raw
        .trusted_hops
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
            let hop = text.parse().ok().or_else(one).ok_or_else(|| {
                format!("`{text}` is no address or network: write 192.0.2.7 or 10.0.0.0/8")
            });
            report.keep(format_args!("{path}.trustedHops[{index}]"), hop)
        })
        .collect();
    Some(PeerSettings {
        trust_domains: raw.trust_domains.clone(),
        from: match raw.from {
            None | Some(raw::CertificateSource::Source) => CertificateSource::Proxy,
            Some(raw::CertificateSource::ClientCert) => CertificateSource::ClientCert,
            Some(raw::CertificateSource::Xfcc) => CertificateSource::Forwarded,
        },
        trusted_hops: hops.into_iter().collect::<Option<_>>()?,
        subject: match raw.subject {
            None | Some(raw::PeerSubject::SpiffeId) => PeerSubject::SpiffeId,
            Some(raw::PeerSubject::UriSan) => PeerSubject::UriSan,
            Some(raw::PeerSubject::DnsSan) => PeerSubject::DnsSan,
            Some(raw::PeerSubject::CommonName) => PeerSubject::CommonName,
            Some(raw::PeerSubject::Sha256) => PeerSubject::Sha256,
        },
    })
}

fn issuer(
    path: &str,
    raw: &raw::Issuer,
    base: &Path,
    report: &mut Report,
) -> Option<IssuerSettings> {
    let issuer = report.required(format_args!("{path}.issuer"), raw.issuer.clone());
    let audiences = raw.audiences.as_ref().map(|form| match texts(form) {
        [any] if any == "any" => Audiences::Any,
        audiences => Audiences::OneOf(audiences.to_vec()),
    });
    if audiences.is_none() {
        report.error(
            format_args!("{path}.audiences"),
            "is required: list this application's audience, or say `audiences: any`",
        );
    }
    let keys = keys(path, raw, base, report);
    let from: Option<Vec<Place>> = match &raw.from {
        None => Some(vec![Place::Header {
            name: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
        }]),
        Some(places) => (0..)
            .zip(places)
            .map(|(index, raw): (usize, _)| place(&format!("{path}.from[{index}]"), raw, report))
            .collect(),
    };
    let skew = raw.clock_skew.as_deref();
    let clock_skew = duration(format_args!("{path}.clockSkew"), skew, secs(30), report);
    let claims = raw.claims.iter().map(|(name, path)| (name.clone(), claim_path(path)));
    Some(IssuerSettings {
        issuer: issuer?,
        audiences: audiences?,
        keys: keys?,
        insecure_http: raw.insecure_http.unwrap_or(false),
        ca_file: raw.ca_file.as_deref().map(|file| read_once(base, file, report)),
        token_file: raw.token_file.as_deref().map(|file| joined(base, file)),
        algorithms: raw.algorithms.clone().unwrap_or_else(|| Algorithm::ALL.to_vec()),
        types: types(raw.types.as_deref()),
        from: from?,
        subject: raw.subject.as_ref().map_or_else(|| ClaimPath::new("sub"), claim_path),
        groups: raw.groups.as_ref().map_or_else(|| ClaimPath::new("groups"), claim_path),
        claims: claims.collect(),
        principal_type: raw.principal_type.clone().unwrap_or_else(|| "User".to_owned()),
        group_prefix: raw.group_prefix.clone().unwrap_or_default(),
        clock_skew: clock_skew?,
    })
}

fn claim_path(form: &raw::OneOrMany) -> ClaimPath {
    match form {
        raw::OneOrMany::One(path) => ClaimPath::new(path),
        raw::OneOrMany::Many(names) => ClaimPath::of_names(names.clone()),
    }
}

fn keys(
    path: &str,
    raw: &raw::Issuer,
    base: &Path,
    report: &mut Report,
) -> Option<KeySourceSettings> {
    let fetching = [
        ("insecureHttp", raw.insecure_http.is_some()),
        ("caFile", raw.ca_file.is_some()),
        ("tokenFile", raw.token_file.is_some()),
    ];
    match (&raw.introspection, &raw.jwks_uri, &raw.jwks_file) {
        (None, Some(uri), None) => Some(KeySourceSettings::Url(uri.clone())),
        (None, None, Some(file)) => {
            let [_, rest @ ..] = fetching;
            refuse_foreign(path, &rest, "an issuer whose keys are in a file", report);
            Some(KeySourceSettings::File(joined(base, file)))
        }
        (None, None, None) => Some(KeySourceSettings::Discovery),
        (None, Some(_), Some(_)) => {
            report.error(path, "has both jwksUri and jwksFile: keep one");
            None
        }
        (Some(asking), uri, file) => {
            let keyed = [
                ("jwksUri", uri.is_some()),
                ("jwksFile", file.is_some()),
                ("algorithms", raw.algorithms.is_some()),
                ("types", raw.types.is_some()),
            ];
            let owner = "an issuer that is asked about its tokens";
            refuse_foreign(path, &keyed, owner, report);
            refuse_foreign(path, &fetching, owner, report);
            let asking = introspection(&format!("{path}.introspection"), asking, base, report)?;
            Some(KeySourceSettings::Introspection(Box::new(asking)))
        }
    }
}

fn introspection(
    path: &str,
    raw: &raw::Introspection,
    base: &Path,
    report: &mut Report,
) -> Option<IntrospectionSettings> {
    let url = report.required(format_args!("{path}.url"), raw.url.clone());
    let client_id = report.required(format_args!("{path}.clientId"), raw.client_id.clone());
    let given = [
        ("clientSecret", raw.client_secret.as_deref()),
        ("clientSecretFile", raw.client_secret_file.as_deref()),
        ("clientSecretEnv", raw.client_secret_env.as_deref()),
    ];
    let client_secret = credential(path, given, base, report);
    let ttl = raw.cache_ttl.as_deref();
    let cache_ttl = duration(format_args!("{path}.cacheTtl"), ttl, secs(30), report);
    if cache_ttl.is_some_and(|ttl| ttl > secs(3600)) {
        let message = "is longer than 1h: a revocation would go unseen for that long";
        report.error(format_args!("{path}.cacheTtl"), message);
    }
    let size = raw.cache_size.unwrap_or(10_000);
    let cache_size = usize::try_from(size).ok().filter(|size| *size <= 1_000_000);
    let cache_size = cache_size.ok_or("is more than 1000000");
    let cache_size = report.keep(format_args!("{path}.cacheSize"), cache_size);
    let timeout = raw.timeout.as_deref();
    let usual = Duration::from_millis(200);
    let timeout = duration(format_args!("{path}.timeout"), timeout, usual, report);
    Some(IntrospectionSettings {
        url: url?,
        insecure_http: raw.insecure_http.unwrap_or(false),
        ca_file: raw.ca_file.as_deref().map(|file| read_once(base, file, report)),
        client_id: client_id?,
        client_secret: client_secret?,
        cache_ttl: cache_ttl?,
        cache_size: cache_size?,
        timeout: timeout?,
    })
}

fn types(raw: Option<&[String]>) -> Vec<TokenType> {
    match raw {
        None => vec![TokenType::named("JWT"), TokenType::named("at+jwt"), TokenType::Absent],
        Some(names) => names
            .iter()
            .map(|name| match name.as_str() {
                "absent" => TokenType::Absent,
                name => TokenType::named(name),
            })
            .collect(),
    }
}

fn place(path: &str, raw: &raw::Place, report: &mut Report) -> Option<Place> {
    match (&raw.header, &raw.cookie, &raw.query) {
        (Some(name), None, None) => Some(Place::Header {
            name: name.to_ascii_lowercase(),
            prefix: raw.prefix.clone().unwrap_or_default(),
        }),
        (None, Some(_), None) | (None, None, Some(_)) if raw.prefix.is_some() => {
            let message = "only belongs to a header: remove it";
            report.error(format_args!("{path}.prefix"), message);
            None
        }
        (None, Some(name), None) => Some(Place::Cookie { name: name.clone() }),
        (None, None, Some(name)) => Some(Place::Query { name: name.clone() }),
        _ => {
            report.error(path, "needs exactly one of header, cookie and query");
            None
        }
    }
}
