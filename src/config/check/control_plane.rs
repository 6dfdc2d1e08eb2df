//! The control plane: where it is, and what came from it.

use super::joined;
use crate::config::ControlPlane;
use crate::config::load::Loaded;
use crate::config::report::Report;
use crate::remote::acceptable;
use crate::source::ControlSettings;

/// The inner `None`: there is none to be.
#[expect(clippy::option_option, reason = "of a faulty setting and of one that is not there")]
pub(super) fn check(loaded: &Loaded, report: &mut Report) -> Option<Option<ControlPlane>> {
    let Some(raw) = &loaded.settings.control_plane else { return Some(None) };
    let address = report.required("controlPlane.address", raw.address.as_deref());
    let address = address.and_then(|text| report.keep("controlPlane.address", address_of(text)));
    let mut file = |name: &str, value: &Option<String>| {
        let path = format!("controlPlane.{name}");
        report.required(path, value.as_ref()).map(|value| joined(&loaded.base, value))
    };
    let token_file = file("tokenFile", &raw.token_file);
    let ca_file = file("caFile", &raw.ca_file);
    let directory = file("directory", &raw.directory);
    let (address, server_name) = address?;
    let settings = ControlSettings {
        address,
        server_name,
        ca_file: ca_file?,
        token_file: token_file?,
        directory: directory?,
    };
    let scopes = loaded.settings.scopes.iter().enumerate();
    let scopes = scopes.filter(|(index, _)| loaded.is_of_snapshot(*index));
    let client_ids = scopes.filter_map(|(_, scope)| scope.client_id.clone()).collect();
    let (snapshot, damage) = (loaded.snapshot.clone(), loaded.damage.clone());
    Some(Some(ControlPlane { settings, snapshot, damage, client_ids }))
}

/// `HOST:PORT`, and the host alone, as certificates have it.
fn address_of(text: &str) -> Result<(String, String), String> {
    let url = acceptable(text, false, false).map_err(|fault| format!("`{text}`: {fault}"))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{text}` has more than a host and a port: write https://HOST:PORT"));
    }
    let host = url.host_str().unwrap_or_default();
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = url.port_or_known_default().unwrap_or(443);
    Ok((format!("{host}:{port}"), name.to_owned()))
}
