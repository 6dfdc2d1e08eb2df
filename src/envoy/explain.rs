//! Why, beside the answer: for scopes whose settings ask for it, and the same on every outcome.
//!
//! The header goes to the client only. A copy that the client sends does not travel upstream, and one
//! that the upstream answers is overwritten (over HTTP Envoy must be told to, as deploy/envoy/http.yaml
//! does); so whoever reads it reads ours.

use envoy_types::ext_authz::v3::pb::{CheckResponse, HttpResponse};
use serde_json::{Value, json};

use super::encode::{is_named, overwrite, protobuf};
use crate::authorizer::Decision;
use crate::scope::Scope;

/// Adds to `response` what the scope's settings tell of a decision.
pub(super) fn explain(response: &mut CheckResponse, scope: &Scope, decision: &Decision) {
    let id = decision.facts.id.as_ref().map(ToString::to_string).unwrap_or_default();
    let reason = decision.reason();
    if let Some(header) = &scope.explain.header {
        let option = overwrite(header.name(), format!("id={id}, reason={reason}"));
        match &mut response.http_response {
            Some(HttpResponse::OkResponse(ok)) => {
                ok.response_headers_to_add.retain(|other| !is_named(other, header.name()));
                ok.response_headers_to_add.push(option);
                ok.headers_to_remove.push(header.name().to_owned());
                ok.headers_to_remove.extend(header.twins().iter().cloned());
            }
            Some(HttpResponse::DeniedResponse(denied)) => {
                denied.headers.retain(|other| !is_named(other, header.name()));
                denied.headers.push(option);
            }
            Some(HttpResponse::ErrorResponse(_)) | None => {}
        }
    }
    if scope.explain.metadata {
        let grounds = decision.facts.opinion.as_ref().map(|opinion| &opinion.grounds);
        let in_force = || scope.authorizer.policy.revision();
        let fields = json!({
            "id": id,
            "reason": reason,
            "revision": grounds.map_or_else(in_force, |grounds| grounds.revision.clone()),
            "determining": grounds.map(|grounds| grounds.determining.as_slice()).unwrap_or_default(),
        });
        if let Value::Object(fields) = &fields {
            let metadata = response.dynamic_metadata.get_or_insert_default();
            let ours = fields.iter().map(|(name, value)| (name.clone(), protobuf(value)));
            metadata.fields.extend(ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorizer::{DryRun, Grant};
    use crate::envoy::encode;
    use crate::fixture::{self, NOW};
    use crate::scope::{DecisionHeader, Explain};
    use crate::token::Channel;

    fn scope() -> Scope {
        let header = Some(DecisionHeader::new("x-placet-reason", "").unwrap());
        Scope { explain: Explain { header, metadata: true }, ..fixture::scope("orders") }
    }

    async fn decision(scope: &Scope, target: &str) -> Decision {
        scope.authorizer.authorize(&fixture::request("GET", target), Channel::Proxy, NOW).await
    }

    /// The response header, and the metadata as text.
    fn told(response: &CheckResponse) -> (Option<String>, String) {
        let headers = match response.http_response.as_ref().unwrap() {
            HttpResponse::OkResponse(ok) => &ok.response_headers_to_add,
            HttpResponse::DeniedResponse(denied) => &denied.headers,
            HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
        };
        let mut named = headers.iter().filter(|option| is_named(option, "x-placet-reason"));
        let value = named.next().map(|option| option.header.clone().unwrap().value);
        assert!(named.next().is_none());
        (value, format!("{:?}", response.dynamic_metadata))
    }

    #[tokio::test]
    async fn every_outcome_tells_its_reason() {
        let scope = scope();
        for (target, reason, policy) in [
            ("/accounts/1", "permitted", "read-1"),
            ("/accounts/2", "no_permit", ""),
            ("/healthz", "bypass", ""),
            ("//", "bad_path", ""),
        ] {
            let decision = decision(&scope, target).await;
            let id = decision.facts.id.clone().unwrap();
            let (header, metadata) = told(&encode::response(Some(&scope), &decision));
            assert_eq!(header, Some(format!("id={id}, reason={reason}")), "{target}");
            for part in [reason, &id.to_string(), policy, &scope.authorizer.policy.revision()] {
                assert!(metadata.contains(part), "{part} in {metadata}");
            }
        }
    }

    #[tokio::test]
    async fn a_client_can_not_send_the_header_upstream() {
        let scope = scope();
        let response = encode::response(Some(&scope), &decision(&scope, "/accounts/1").await);
        let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!() };
        for name in ["x-placet-reason", "x_placet_reason", "x-placet_reason", "x_placet-reason"] {
            assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
        }
        assert!(!ok.headers.iter().any(|option| is_named(option, "x-placet-reason")));
    }

    #[tokio::test]
    async fn unless_asked_nothing_is_told() {
        let scope = fixture::scope("orders");
        for target in ["/accounts/1", "/accounts/2", "/healthz", "//"] {
            let response = encode::response(Some(&scope), &decision(&scope, target).await);
            assert_eq!(told(&response), (None, "None".to_owned()), "{target}");
        }
    }

    #[tokio::test]
    async fn a_denial_passes_in_a_dry_run_only_and_without_a_token() {
        let enforcing = scope();
        let dry = Scope { dry_run: DryRun::of_setting(true), ..scope() };
        for target in ["/accounts/2", "//"] {
            let denied = enforcing.enforced(decision(&enforcing, target).await);
            assert!(denied.outcome.is_err(), "{target}");
            let waived = dry.enforced(decision(&dry, target).await);
            let response = encode::response(Some(&dry), &waived);
            assert_eq!(response.status.as_ref().unwrap().code, 0);
            assert!(told(&response).0.unwrap().ends_with(waived.reason()));
            let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!() };
            assert!(ok.headers.is_empty(), "{:?}", ok.headers);
            for name in ["x-placet-decision", "x_placet_decision", "cookie"] {
                assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
            }
        }
        let permitted = dry.enforced(decision(&dry, "/accounts/1").await);
        assert!(matches!(permitted.outcome, Ok(Grant::Signed { .. })));
    }
}
