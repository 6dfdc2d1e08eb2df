//! The settings that pods start with where scopes come from the control plane: listeners as the injected
//! container needs them, where the control plane is, and what the platform adds for all.

use serde_json::{Map, Value, json};

use crate::config::{Address, Config};
use crate::control::certificates::{AUTHORITIES, SETTINGS};
use crate::control::inject::{Injection, SNAPSHOTS, SOCKET, TOKEN};

/// What is not the platform's to add: the control plane's own part, and what it sends.
const OURS: [&str; 4] = ["version", "controlPlane", "scopes", "secretStores"];

/// The settings, but for the address of the control plane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template(Map<String, Value>);

impl Template {
    /// The settings of pods that are injected as `injection` says, with what is `added`.
    ///
    /// # Errors
    /// What may not be added, a line each.
    pub(super) fn new(
        injection: &Injection,
        added: &Map<String, Value>,
    ) -> Result<Self, Vec<String>> {
        let is_ours = |name: &&String| OURS.contains(&name.as_str());
        let refused: Vec<String> = added
            .keys()
            .filter(is_ours)
            .map(|name| format!("{name}: is not for the settings that all pods start with"))
            .collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        let grpc = json!({
            "address": format!("unix:{}/authz.sock", SOCKET.1), "mode": "0660", "group": injection.group,
        });
        let admin = format!("0.0.0.0:{}", injection.admin_port);
        let listen = json!({"grpc": grpc, "http": "0.0.0.0:9192", "admin": admin});
        let mut settings = Map::from_iter([("version".to_owned(), json!(1))]);
        settings.insert("listen".to_owned(), listen);
        settings.extend(added.clone());
        Ok(Self(settings))
    }

    /// The settings, with the control plane at `host`, on the port that it listens on.
    pub fn text(&self, host: &str, listener: &Address) -> String {
        let port = match listener {
            Address::Tcp(address) => address.port(),
            Address::Unix(..) => 443,
        };
        let mut settings = self.0.clone();
        let control = json!({
            "address": format!("https://{host}:{port}"),
            "tokenFile": format!("{}/control-token", TOKEN.1),
            "caFile": AUTHORITIES,
            "directory": SNAPSHOTS.1,
        });
        settings.insert("controlPlane".to_owned(), control);
        yaml_serde::to_string(&settings).unwrap_or_default()
    }
}

/// Judges `text` as `placet validate` would.
///
/// # Errors
/// All that is wrong with it, a line each; or why that can't be told.
pub(super) fn check(text: &str) -> Result<(), Vec<String>> {
    let written = tempfile::Builder::new().prefix("placet-").tempdir().and_then(|folder| {
        std::fs::write(folder.path().join(SETTINGS), text)?;
        Ok(folder)
    });
    let folder = written.map_err(|error| vec![format!("can't write a file to judge: {error}")])?;
    let judged = Config::load_for_another_machine(&folder.path().join(SETTINGS));
    let told = |line: &str| format!("snapshots.sidecar.{line}");
    judged.map(drop).map_err(|errors| errors.iter().map(told).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Address {
        Address::Tcp("0.0.0.0:9444".parse().unwrap())
    }

    fn added(text: &str) -> Map<String, Value> {
        yaml_serde::from_str(text).unwrap()
    }

    #[test]
    fn pods_start_with_listeners_and_the_way_to_the_control_plane() {
        let mut injection = Injection::default();
        injection.set(crate::control::inject::Field::AdminPort, "9199").unwrap();
        let more = added("drainAfter: 5s");
        let template = Template::new(&injection, &more).unwrap();
        let text = template.text("placet-controller.placet.svc", &listener());
        assert_eq!(check(&text), Ok(()), "{text}");
        let found: Value = yaml_serde::from_str(&text).unwrap();
        assert_eq!(found["listen"]["admin"], "0.0.0.0:9199");
        assert_eq!(found["listen"]["grpc"]["group"], 9191);
        assert_eq!(found["drainAfter"], "5s");
        assert_eq!(found["controlPlane"]["address"], "https://placet-controller.placet.svc:9444");
        assert_eq!(found["controlPlane"]["caFile"], "ca.pem");
    }

    #[test]
    fn what_is_wrong_is_told_before_pods_have_it() {
        let injection = Injection::default();
        let errors = Template::new(&injection, &added("{scopes: [], version: 2}")).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors.iter().all(|line| line.contains("is not for the settings")), "{errors:?}");
        let wrong = added("{listen: {admin: nowhere}, decisionLgo: {}}");
        let template = Template::new(&injection, &wrong).unwrap();
        let errors = check(&template.text("h", &listener())).unwrap_err();
        assert!(errors.iter().all(|line| line.starts_with("snapshots.sidecar.")), "{errors:?}");
        assert!(errors.iter().any(|line| line.contains("decisionLgo")), "{errors:?}");
    }
}
