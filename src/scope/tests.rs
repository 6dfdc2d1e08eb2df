use super::*;
use crate::fixture;
use crate::request::Host;

fn scopes(list: &[(&str, &[&str], bool)]) -> Scopes {
    Scopes::new(
        list.iter()
            .map(|(client_id, hosts, default)| Selectable {
                scope: Arc::new(fixture::scope(client_id)),
                hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
                default: *default,
            })
            .collect(),
    )
}

fn request(host: &str, named: Option<&str>) -> Request {
    let mut request = fixture::request("GET", "/");
    request.host = Host::parse(host).unwrap();
    if let Some(named) = named {
        request.extensions.insert(SCOPE_EXTENSION.to_owned(), named.to_owned());
    }
    request
}

fn chosen(scopes: &Scopes, host: &str, named: Option<&str>) -> Result<String, Reason> {
    match scopes.select(&request(host, named)) {
        Ok(scope) => Ok(scope.client_id.clone()),
        Err(denial) => Err(denial.reason()),
    }
}

#[test]
fn the_route_then_the_host_then_the_default_choose() {
    let scopes = scopes(&[
        ("a", &["a.example", "*.svc.local"], false),
        ("b", &["*.b.svc.local"], false),
        ("rest", &[], true),
    ]);
    let ok = |client_id: &str| Ok(client_id.to_owned());
    assert_eq!(chosen(&scopes, "A.example.:8080", None), ok("a"));
    assert_eq!(chosen(&scopes, "x.svc.local", None), ok("a"));
    assert_eq!(chosen(&scopes, "x.y.svc.local", None), ok("a"));
    assert_eq!(chosen(&scopes, "x.b.svc.local", None), ok("b"), "the longest suffix wins");
    assert_eq!(chosen(&scopes, "b.svc.local", None), ok("a"), "`*.` is at least one label");
    assert_eq!(chosen(&scopes, "xsvc.local", None), ok("rest"), "whole labels only");
    assert_eq!(chosen(&scopes, "svc.local", None), ok("rest"));
    assert_eq!(chosen(&scopes, "", None), ok("rest"));
    assert_eq!(chosen(&scopes, "a.example", Some("b")), ok("b"));
    assert_eq!(chosen(&scopes, "a.example", Some("unknown")), Err(Reason::NoScope));
    assert_eq!(chosen(&scopes, "a.example", Some("")), Err(Reason::NoScope));
}

#[test]
fn without_a_default_an_unknown_host_has_no_scope() {
    let two = scopes(&[("a", &["a.example"], false), ("b", &["b.example"], false)]);
    assert_eq!(chosen(&two, "c.example", None), Err(Reason::NoScope));
    assert_eq!(chosen(&two, "b.example", None), Ok("b".to_owned()));
    let only = scopes(&[("a", &["a.example"], false)]);
    assert_eq!(chosen(&only, "c.example", None), Ok("a".to_owned()));
    assert_eq!(chosen(&Scopes::default(), "a.example", None), Err(Reason::NoScope));
}

#[tokio::test]
async fn what_no_scope_takes_is_denied() {
    let two = scopes(&[("a", &["a.example"], false), ("b", &["b.example"], false)]);
    let (scope, decision) =
        two.decide(&request("c.example", None), Channel::Proxy, fixture::NOW).await;
    assert!(scope.is_none());
    assert_eq!(decision.outcome.unwrap_err().reason(), Reason::NoScope);
}

#[test]
fn the_header_knows_its_other_spellings() {
    let header = DecisionHeader::new("X-Placet-Decision", "Bearer ").unwrap();
    assert_eq!(header.name(), "x-placet-decision");
    let mut twins = header.twins().to_vec();
    twins.sort_unstable();
    assert_eq!(twins, ["x-placet_decision", "x_placet-decision", "x_placet_decision"]);
    assert!(header.is_spelled("X_Placet-DECISION") && header.is_spelled("x-placet-decision"));
    assert!(!header.is_spelled("x-placet-decisions"));
    let underscored = DecisionHeader::new("x_decision", "").unwrap();
    assert_eq!(underscored.twins(), ["x-decision"]);
    assert_eq!(DecisionHeader::new("a-b-c-d-e", "").unwrap().twins().len(), 15);
    assert!(DecisionHeader::new("plain", "").unwrap().twins().is_empty());
}

#[test]
fn some_headers_can_not_carry_the_token() {
    for name in ["", "a b", "host", "Content-Length", "x-envoy-peer", ":path", "a-b-c-d-e-f", "é"]
    {
        assert!(DecisionHeader::new(name, "").is_err(), "{name}");
    }
    assert!(DecisionHeader::new("authorization", "Bearer ").is_ok());
}
