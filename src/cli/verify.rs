//! `placet verify`: what a service behind Placet does with a token, at the command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value, json};

use super::print;
use crate::clock::Timestamp;

/// The arguments of `placet verify`.
#[derive(Args, Debug)]
pub(super) struct Verify {
    /// The JWKS: an address or a file.
    #[arg(long, value_name = "URL|FILE")]
    jwks: String,
    /// Require this audience.
    #[arg(long)]
    audience: Option<String>,
    /// Require this issuer.
    #[arg(long)]
    issuer: Option<String>,
    /// The token; `-` reads it from standard input.
    token: String,
}

/// Prints the header and claims of a valid token.
pub(super) fn run(args: &Verify, now: Timestamp) -> Result<()> {
    let token = match args.token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin())?.trim().to_owned(),
        token => token.to_owned(),
    };
    let keys: JwkSet = serde_json::from_slice(&key_set(&args.jwks)?)
        .with_context(|| format!("`{}` holds no JWKS", args.jwks))?;
    let (header, claims) = verify(&token, &keys, args, now)?;
    print(&serde_json::to_string_pretty(&json!({ "header": header, "claims": claims }))?)
}

fn verify(
    token: &str,
    keys: &JwkSet,
    args: &Verify,
    now: Timestamp,
) -> Result<(Value, Map<String, Value>)> {
    let header = decode_header(token).context("the token is no signed JWT")?;
    let kid = header.kid.as_deref().context("the token's header has no `kid`")?;
    let candidates: Vec<_> =
        keys.keys.iter().filter(|key| key.common.key_id.as_deref() == Some(kid)).collect();
    if candidates.is_empty() {
        bail!("the JWKS has no key `{}`", kid.escape_debug());
    }
    let is_hmac = matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    if is_hmac {
        bail!("the token is signed with a shared secret, which proves nothing here");
    }
    let mut validation = Validation::new(header.alg);
    validation.set_required_spec_claims(&["exp"]);
    validation.validate_nbf = true;
    validation.leeway = 0;
    validation.validate_aud = args.audience.is_some();
    if let Some(audience) = &args.audience {
        validation.set_audience(&[audience]);
    }
    if let Some(issuer) = &args.issuer {
        validation.set_issuer(&[issuer]);
    }
    let mut problem = None;
    for key in candidates {
        let alg = key.common.key_algorithm.map(|alg| alg.to_string());
        if alg.is_some_and(|alg| alg != format!("{:?}", header.alg)) {
            continue;
        }
        match decode::<Map<String, Value>>(token, &DecodingKey::from_jwk(key)?, &validation) {
            Ok(data) => return Ok((serde_json::to_value(&data.header)?, data.claims)),
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(error) => Err(error).with_context(|| {
            format!("the token does not hold at {} (Unix time {})", now.rfc3339(), now.seconds())
        }),
        None => bail!("the key `{}` is for another algorithm", kid.escape_debug()),
    }
}

fn key_set(place: &str) -> Result<Vec<u8>> {
    if !place.starts_with("http://") && !place.starts_with("https://") {
        let path = PathBuf::from(place);
        return std::fs::read(&path).with_context(|| format!("can't read `{place}`"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = reqwest::get(place).await.with_context(|| format!("can't fetch `{place}`"))?;
        let answer = answer.error_for_status()?;
        Ok(answer.bytes().await?.to_vec())
    })
}
