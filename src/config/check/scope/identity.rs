//! Who may ask.

use std::path::Path;

use super::Shared;
use crate::config::check::{duration, joined, secs, texts};
use crate::config::raw;
use crate::config::report::Report;
use crate::identity::{
    Audiences, ClaimPath, IdentitySettings, IssuerSettings, KeySourceSettings, PeerSettings, Place,
    Require, TokenType,
};
use crate::keys::Algorithm;

pub(super) fn check(
    path: &str,
    raw: &raw::Identity,
    base: &Path,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<IdentitySettings> {
    let path = format!("{path}.identity");
    let issuers: Vec<Option<IssuerSettings>> = raw
        .jwt
        .iter()
        .enumerate()
        .map(|(index, raw)| issuer(&format!("{path}.jwt[{index}]"), raw, base, report))
        .collect();
    if raw.peer.is_some() && !shared.is_grpc_private {
        report.error(
            format_args!("{path}.peer"),
            "any local process could claim to be a peer: set listen.grpc to a Unix socket",
        );
    }
    let settings = IdentitySettings {
        require: require(raw),
        issuers: issuers.into_iter().collect::<Option<_>>()?,
        peer: raw
            .peer
            .as_ref()
            .map(|peer| PeerSettings { trust_domains: peer.trust_domains.clone() }),
        anonymous: raw.anonymous.unwrap_or(false),
    };
    let faults = settings.faults(&shared.own_issuers);
    faults.iter().for_each(|fault| report.error(&path, fault));
    if settings.issuers.is_empty() && settings.peer.is_none() && !settings.anonymous {
        report.warning(&path, "nobody can authenticate: add jwt, peer or anonymous");
    }
    faults.is_empty().then_some(settings)
}

fn require(raw: &raw::Identity) -> Require {
    match (raw.require, raw.jwt.is_empty(), raw.peer.is_some()) {
        (Some(raw::Require::Jwt), ..) => Require::Jwt,
        (Some(raw::Require::Peer), ..) | (None, true, true) => Require::Peer,
        (Some(raw::Require::Both), ..) | (None, false, true) => Require::Both,
        (Some(raw::Require::Either), ..) => Require::Either,
        (None, _, false) => Require::Jwt,
    }
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
    let keys = match (&raw.jwks_uri, &raw.jwks_file) {
        (Some(uri), None) => Some(KeySourceSettings::Url(uri.clone())),
        (None, Some(file)) => Some(KeySourceSettings::File(joined(base, file))),
        (None, None) => Some(KeySourceSettings::Discovery),
        (Some(_), Some(_)) => {
            report.error(path, "has both jwksUri and jwksFile: keep one");
            None
        }
    };
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
    Some(IssuerSettings {
        issuer: issuer?,
        audiences: audiences?,
        keys: keys?,
        insecure_http: raw.insecure_http.unwrap_or(false),
        algorithms: raw.algorithms.clone().unwrap_or_else(|| Algorithm::ALL.to_vec()),
        types: types(raw.types.as_deref()),
        from: from?,
        subject: ClaimPath::new(raw.subject.as_deref().unwrap_or("sub")),
        groups: ClaimPath::new(raw.groups.as_deref().unwrap_or("groups")),
        principal_type: raw.principal_type.clone().unwrap_or_else(|| "User".to_owned()),
        group_prefix: raw.group_prefix.clone().unwrap_or_default(),
        clock_skew: clock_skew?,
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
    match (&raw.header, &raw.cookie, &raw.prefix) {
        (Some(name), None, prefix) => Some(Place::Header {
            name: name.to_ascii_lowercase(),
            prefix: prefix.clone().unwrap_or_default(),
        }),
        (None, Some(name), None) => Some(Place::Cookie { name: name.clone() }),
        (None, Some(_), Some(_)) => {
            report.error(format_args!("{path}.prefix"), "does not belong to a cookie: remove it");
            None
        }
        _ => {
            report.error(path, "needs exactly one of header and cookie");
            None
        }
    }
}
