//! API keys: known by their digests, from a secret store.
//!
//! The store holds no key, only what each stands for. Keys are random, so a plain SHA-256 keeps them,
//! and finding one by its digest tells nobody anything through the time it takes: who can't invert
//! the digest can't choose what it is compared with.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::principal::{Principal, PrincipalKind};
use super::refusal::BadToken;
use super::settings::Place;
use crate::clock::Timestamp;
use crate::secrets::{KeyLocation, SecretStore};

/// The largest list of keys that is read, in bytes.
const LIST_LIMIT: usize = 1024 * 1024;

/// Where API keys are presented, and where what they stand for is kept.
#[derive(Clone, Debug)]
pub struct ApiKeySettings {
    /// Where a key stands.
    pub place: Place,
    /// The Cedar entity type of those who present one.
    pub principal_type: String,
    /// The store of the list.
    pub store: Arc<SecretStore>,
    /// Where in the store.
    pub location: KeyLocation,
}

/// The keys, by their SHA-256.
pub struct ApiKeys(HashMap<[u8; 32], Holder>);

/// Whom a key stands for.
struct Holder {
    subject: String,
    groups: Vec<String>,
    claims: Map<String, Value>,
    expires: Option<Timestamp>,
}

impl ApiKeys {
    /// Reads a list of keys, YAML or JSON: a map from an id to `{hash, subject, groups, claims,
    /// expires}`. `hash` is `sha256:` and 64 hexadecimal digits; `subject` is the id unless it is
    /// written; `expires` is a time of RFC 3339.
    ///
    /// # Errors
    /// What is wrong first. Nothing of the list is quoted: it may hold a key in place of a digest.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > LIST_LIMIT {
            return Err(format!("it is larger than {LIST_LIMIT} bytes"));
        }
        let text = str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
        if text.trim().is_empty() {
            return Err("it is empty: write `{}` for no keys".to_owned());
        }
        let written: Written = yaml_serde::from_str(text).map_err(|error| {
            let line = error.location().map_or_else(String::new, |at| format!(", near line {}", at.line()));
            format!(
                "it is no map of different ids to `{{hash, subject, groups, claims, expires}}`{line}"
            )
        })?;
        let mut keys = HashMap::new();
        for (number, (id, entry)) in (1..).zip(written.0) {
            let fault = |what: &str| format!("key number {number} {what}");
            let hash = entry.hash.strip_prefix("sha256:").and_then(sha256_of_hex);
            let hash = hash.ok_or_else(|| {
                fault("has no hash of `sha256:` and the 64 hexadecimal digits of a digest")
            })?;
            let subject = entry.subject.unwrap_or(id);
            if subject.is_empty() || entry.groups.iter().any(String::is_empty) {
                return Err(fault("has an empty subject or group"));
            }
            let expires = match entry.expires.as_deref().map(time) {
                None => None,
                Some(Some(expires)) => Some(expires),
                Some(None) => {
                    return Err(fault("expires at no time such as 2027-01-31T00:00:00Z"));
                }
            };
            let holder = Holder { subject, groups: entry.groups, claims: entry.claims, expires };
            if keys.insert(hash, holder).is_some() {
                return Err(fault("has the hash of an earlier one"));
            }
        }
        Ok(Self(keys))
    }

    /// Who presents `key` at `now`.
    pub(super) fn holder(
        &self,
        key: &str,
        principal_type: &str,
        now: Timestamp,
    ) -> Result<Principal, BadToken> {
        let presented = digest::digest(&digest::SHA256, key.as_bytes());
        let holder =
            presented.as_ref().try_into().ok().and_then(|hash: [u8; 32]| self.0.get(&hash));
        let holder = holder.ok_or(BadToken::UnknownApiKey)?;
        if let Some(expires) = holder.expires
            && now >= expires
        {
            return Err(BadToken::ApiKeyExpired { seconds: now.since(expires).as_secs() });
        }
        Ok(Principal {
            kind: PrincipalKind::ApiKey,
            entity_type: principal_type.to_owned(),
            id: holder.subject.clone(),
            subject: Some(holder.subject.clone()),
            issuer: None,
            groups: holder.groups.clone(),
            claims: holder.claims.clone(),
            expires: holder.expires,
            peer: None,
        })
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

/// The list as it is written, in its order.
struct Written(Vec<(String, Entry)>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    hash: String,
    subject: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    claims: Map<String, Value>,
    expires: Option<String>,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Written;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
                let (mut entries, mut ids) = (Vec::new(), std::collections::HashSet::new());
                while let Some((id, entry)) = map.next_entry::<String, Entry>()? {
                    if !ids.insert(id.clone()) {
                        return Err(A::Error::custom("an id stands twice"));
                    }
                    entries.push((id, entry));
                }
                Ok(Written(entries))
            }
        }
        deserializer.deserialize_map(Form)
    }
}

fn sha256_of_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok().map(|()| digest)
}

fn time(text: &str) -> Option<Timestamp> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    u64::try_from(time.ok()?.unix_timestamp()).ok().map(Timestamp::from_seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn hash(key: &str) -> String {
        format!("sha256:{}", hex::encode(digest::digest(&digest::SHA256, key.as_bytes())))
    }

    fn holder(list: &str, key: &str) -> Result<Principal, BadToken> {
        ApiKeys::parse(list.as_bytes()).unwrap().holder(key, "ApiKey", NOW)
    }

    #[test]
    fn a_key_stands_for_what_the_list_says() {
        let list = format!(
            "# who may build\nci:\n  hash: {}\n  subject: ci-runner\n  groups: [readers, build]\n  \
             claims: {{team: build, level: 3}}\n  expires: 2027-01-31T00:00:00Z\nplain: {{hash: {}}}\n",
            hash("key-of-ci"),
            hash("other").to_uppercase().replace("SHA256", "sha256"),
        );
        let ci = holder(&list, "key-of-ci").unwrap();
        assert_eq!((ci.kind, ci.entity_type.as_str()), (PrincipalKind::ApiKey, "ApiKey"));
        assert_eq!((ci.id.as_str(), ci.subject.as_deref()), ("ci-runner", Some("ci-runner")));
        assert_eq!(ci.groups, ["readers", "build"]);
        assert_eq!(Value::Object(ci.claims), json!({"team": "build", "level": 3}));
        assert_eq!(ci.expires, Some(Timestamp::from_seconds(1_801_353_600)));
        let plain = holder(&list, "other").unwrap();
        assert_eq!((plain.id.as_str(), plain.expires), ("plain", None));
        for wrong in ["", "key-of-c", "key-of-ci ", "KEY-OF-CI", &hash("key-of-ci")] {
            assert_eq!(holder(&list, wrong), Err(BadToken::UnknownApiKey), "{wrong}");
        }
    }

    #[test]
    fn json_is_read_too_and_an_empty_list_admits_nobody() {
        let list = json!({"a": {"hash": hash("k")}}).to_string();
        assert_eq!(holder(&list, "k").unwrap().id, "a");
        assert_eq!(holder("{}", "k"), Err(BadToken::UnknownApiKey));
    }

    #[test]
    fn a_key_ends_when_it_expires() {
        let list = |expires: &str| format!("a: {{hash: {}, expires: \"{expires}\"}}", hash("k"));
        assert!(holder(&list("2027-01-15T08:00:01Z"), "k").is_ok());
        for (expires, seconds) in [("2027-01-15T08:00:00Z", 0), ("2027-01-15T09:59:50+02:00", 10)] {
            let expected = Err(BadToken::ApiKeyExpired { seconds });
            assert_eq!(holder(&list(expires), "k"), expected, "{expires}");
        }
    }

    #[test]
    fn a_claim_named_act_of_a_key_is_no_actor() {
        let list = format!("a: {{hash: {}, claims: {{act: {{sub: root}}}}}}", hash("k"));
        assert_eq!(holder(&list, "k").unwrap().actor(), Ok(None));
    }

    #[test]
    fn a_list_that_is_wrong_is_refused_without_being_quoted() {
        let (one, two) = (hash("1"), hash("2"));
        for list in [
            "canary".to_owned(),
            String::new(),
            "- canary".to_owned(),
            "canary: canary".to_owned(),
            "a: {hash: canary}".to_owned(),
            "a: {hash: \"sha256:canary\"}".to_owned(),
            format!("a: {{hash: {one}0}}"),
            format!("a: {{hash: {one}, key: canary}}"),
            format!("a: {{hash: {one}}}\na: {{hash: {two}}}"),
            format!("a: {{hash: {one}}}\nb: {{hash: {one}}}"),
            format!("a: {{hash: {one}, subject: \"\"}}"),
            format!("a: {{hash: {one}, groups: [\"\"]}}"),
            format!("a: {{hash: {one}, groups: canary}}"),
            format!("a: {{hash: {one}, expires: canary}}"),
            format!("a: {{hash: {one}, expires: 2027-01-31}}"),
            format!("a: {{hash: {one}, claims: [canary]}}"),
            "a: {subject: canary}".to_owned(),
            " ".repeat(LIST_LIMIT + 1),
        ] {
            let error = ApiKeys::parse(list.as_bytes()).unwrap_err();
            assert!(!error.contains("canary") && !error.contains('\n'), "{error}");
        }
        assert!(ApiKeys::parse(b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_error_quotes_it(text in "[a-z0-9:{}, \n\"-]{0,80}") {
            if let Err(error) = ApiKeys::parse(format!("s3cr3t{text}").as_bytes()) {
                prop_assert!(!error.contains("s3cr3t") && !error.contains('\n'));
            }
        }

        #[test]
        fn only_the_key_itself_is_known(key in "\\PC{1,40}", other in "\\PC{1,40}") {
            let list = format!("a: {{hash: {}}}", hash(&key));
            prop_assert!(holder(&list, &key).is_ok());
            prop_assert_eq!(holder(&list, &other).is_ok(), key == other);
        }
    }
}
