//! Judges every answer.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use envoy_types::ext_authz::v3::pb::{CheckResponse, DeniedHttpResponse, HttpResponse};
use http::StatusCode;
use prost::Message as _;

use crate::Fault;
use crate::connection::Reply;
use crate::crowd;
use crate::draw::Draw;
use crate::message::HOST;
use crate::plan::{Credentials, Expect, Plan, Protocol};
use crate::token::{Claims, Keys};

/// Of so many tokens, the signature of one is verified.
const SAMPLE: usize = 64;

/// The header in which the benchmark's Envoy sends the token back.
const SENT_BACK: &str = "x-bench-token";

/// A server has too much to do, and says so: 503 instead of an allow.
#[derive(Debug)]
pub(crate) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a server with too much to do refused a request (503)")
    }
}

impl Error for Refused {}

/// Knows how every answer of a run must be.
pub(crate) struct Judge {
    protocol: Protocol,
    method: String,
    is_denied: bool,
    token: Option<Expected>,
    pub(crate) counts: Counts,
}

/// Since [`Judge::begin`].
#[derive(Default)]
pub(crate) struct Counts {
    /// How many were judged.
    pub(crate) judged: usize,
    /// How many of them had a token that was not seen before.
    pub(crate) anew: usize,
}

struct Expected {
    header: String,
    keys: Keys,
    /// To be verified after the run, so that the time is not taken out of it.
    sampled: Vec<String>,
    /// Whether no two requests may get the same token.
    is_unique: bool,
    /// What `jti` were seen, as hashes.
    seen: (RandomState, HashSet<u64>),
}

impl Judge {
    pub(crate) fn new(plan: &Plan) -> Result<Self, Fault> {
        let token = match &plan.expect {
            Expect::Allow | Expect::Deny => None,
            Expect::Token { header, jwks } => Some(Expected {
                header: header.clone(),
                keys: Keys::read(jwks)?,
                sampled: Vec::new(),
                is_unique: plan.credentials == Credentials::Fresh,
                seen: Default::default(),
            }),
        };
        Ok(Self {
            protocol: plan.protocol,
            method: plan.method.clone(),
            is_denied: matches!(plan.expect, Expect::Deny),
            token,
            counts: Counts::default(),
        })
    }

    /// Counts from here on; what was seen stays known.
    pub(crate) fn begin(&mut self) {
        self.counts = Counts::default();
    }

    pub(crate) fn judge(&mut self, draw: &Draw, reply: &Reply) -> Result<(), Fault> {
        if reply.status != StatusCode::OK {
            return Err(format!("an answer has the status {}", reply.status).into());
        }
        match self.protocol {
            Protocol::Grpc => self.judge_check(draw, reply)?,
            Protocol::Http => {
                let sent_back = reply.headers.get(SENT_BACK);
                self.judge_token(draw, sent_back.and_then(|token| token.to_str().ok()))?;
            }
        }
        self.counts.judged += 1;
        Ok(())
    }

    fn judge_check(&mut self, draw: &Draw, reply: &Reply) -> Result<(), Fault> {
        let status = reply.trailers.as_ref().unwrap_or(&reply.headers).get("grpc-status");
        if status.is_none_or(|status| status != "0") {
            return Err(format!("an answer has the grpc-status {status:?}").into());
        }
        let answer = CheckResponse::decode(unframed(&reply.body)?)?;
        let code = answer.status.map_or(0, |status| status.code);
        match (code, &answer.http_response) {
            (0, Some(HttpResponse::OkResponse(ok))) if !self.is_denied => {
                let name = self.token.as_ref().map_or("", |token| token.header.as_str());
                let headers = ok.headers.iter().filter_map(|option| option.header.as_ref());
                let named = headers.filter(|header| header.key == name);
                let tokens: Vec<&str> = named.map(|header| header.value.as_str()).collect();
                match *tokens {
                    [] | [_] => self.judge_token(draw, tokens.first().copied()),
                    _ => Err("an answer has several tokens".into()),
                }
            }
            // An allow may be without anything to say to Envoy.
            (0, None) if !self.is_denied && self.token.is_none() => Ok(()),
            (1.., Some(HttpResponse::DeniedResponse(_))) if self.is_denied => Ok(()),
            (1.., Some(HttpResponse::DeniedResponse(denied))) if is_overload(denied) => {
                Err(Refused.into())
            }
            (code, response) => {
                let kind = match response {
                    Some(HttpResponse::OkResponse(_)) => "an OK",
                    Some(HttpResponse::DeniedResponse(_)) => "a denial",
                    _ => "nothing",
                };
                Err(format!("not the expected answer: code {code} with {kind}").into())
            }
        }
    }

    /// Whether the token, if there has to be one, was made for this very request.
    fn judge_token(&mut self, draw: &Draw, token: Option<&str>) -> Result<(), Fault> {
        let Some(expected) = &mut self.token else { return Ok(()) };
        let token = token.ok_or("an allow has no token")?;
        let claims = Claims::read(token)?;
        let order = crowd::order(draw.path);
        let (subject, now) = (crowd::subject(draw.subject), crowd::now());
        let fits = claims.sub.as_ref() == draw.credential.as_ref().map(|_| &subject)
            && claims.htm == self.method
            && claims.htu == format!("http://{HOST}/api/v1/orders/{order}")
            && claims.entitlements == format!("Order:{order}:read")
            && claims.exp > now
            && claims.nbf <= now;
        if !fits {
            let asked = format!("`{subject}` {} order {order} at {now}", self.method);
            return Err(format!("a token for another request than {asked}: {claims:?}").into());
        }
        let (state, seen) = &mut expected.seen;
        if seen.insert(state.hash_one(&claims.jti)) {
            self.counts.anew += 1;
        } else if expected.is_unique {
            return Err(format!("a token for two credentials: {claims:?}").into());
        }
        if self.counts.judged.is_multiple_of(SAMPLE) {
            expected.sampled.push(token.to_owned());
        }
        Ok(())
    }

    /// Verifies the sample; how many tokens it had.
    pub(crate) fn verify_sample(&mut self) -> Result<usize, Fault> {
        let Some(expected) = &mut self.token else { return Ok(0) };
        let sampled = std::mem::take(&mut expected.sampled);
        sampled.iter().try_for_each(|token| expected.keys.verify(token))?;
        Ok(sampled.len())
    }
}

fn is_overload(denied: &DeniedHttpResponse) -> bool {
    denied.status.as_ref().is_some_and(|status| status.code == 503)
}

fn unframed(frame: &[u8]) -> Result<&[u8], Fault> {
    match frame {
        [0, a, b, c, d, message @ ..]
            if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() =>
        {
            Ok(message)
        }
        _ => Err("an answer is no single uncompressed gRPC frame".into()),
    }
}
