//! Placet's socket as an address of the mesh: a ServiceEntry makes it one for applications too.

use super::super::Severity;
use super::super::document::Document;
use super::super::model::{Fault, Model};
use super::super::node::Node;

/// Finds sockets that an application could reach through its own proxy.
pub(super) fn judge(documents: &[&Document], model: &mut Model) {
    let of_kind = |kind: &'static str| {
        let of_group = documents.iter().filter(move |each| each.is("networking.istio.io", kind));
        of_group.filter_map(|each| each.root().get("spec"))
    };
    for entry in of_kind("ServiceEntry").filter(is_socket) {
        for host in entry.texts("hosts") {
            let is_closed = of_kind("VirtualService").any(|service| closes(&service, host));
            if is_placets(host, model) && !is_closed {
                model.faults.push(routed(&entry, host));
            }
        }
    }
}

fn routed(entry: &Node<'_>, host: &str) -> Fault {
    Fault {
        place: entry.place.below("endpoints"),
        code: "socket_routed",
        severity: Severity::Error,
        what: format!(
            "an application that calls `{host}` has its own proxy ask Placet, for any caller that it claims to be: it gets decisions signed that it was never to have"
        ),
        remedy: format!(
            "a VirtualService, which ext_authz does not go by:\n  hosts: [{host}]\n  http:\n  - directResponse: {{status: 403}}"
        ),
    }
}

fn is_socket(entry: &Node<'_>) -> bool {
    let endpoints = entry.items("endpoints");
    endpoints.iter().filter_map(|each| each.text("address")).any(|each| each.starts_with("unix:"))
}

fn is_placets(host: &str, model: &Model) -> bool {
    let is_asked = |target: &str| target.rsplit('/').next() == Some(host);
    host.contains("placet") || model.questions.iter().any(|question| is_asked(&question.target))
}

/// Whether every request to the host is answered by the proxy itself, in the whole mesh.
fn closes(service: &Node<'_>, host: &str) -> bool {
    let (routes, gateways) = (service.items("http"), service.texts("gateways"));
    service.texts("hosts").contains(&host)
        && (gateways.is_empty() || gateways.contains(&"mesh"))
        && !routes.is_empty()
        && routes.iter().all(|route| route.get("direct_response").is_some())
}
