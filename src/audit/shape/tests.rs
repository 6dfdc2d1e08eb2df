use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::audit::entry::{Circumstances, Line};
use crate::clock::Clock;
use crate::fixture::NOW;
use crate::metrics::Metrics;
use crate::proto;
use crate::trace::Tracer;

/// What no constant of ours holds, and JSON and paths escape in ways of their own.
const TEXT: &str = r#"[QXJ%/" \\é]{1,9}"#;

fn key() -> HashKey {
    HashKey::new("a key that is hard to guess")
}

fn mask(field: &'static str, with: Masking) -> Mask {
    Mask { field, with }
}

prop_compose! {
    fn records()(
        text in vec(TEXT, 14),
        repeats in vec(0_usize..14, 3),
        ip in select(vec!["192.0.2.7", "2001:db8::7", ""]),
    ) -> Record<'static> {
        let at = |index: usize| Cow::Owned(text[index].clone());
        Record {
            time: NOW.rfc3339().into(),
            outcome: "allow",
            request_id: at(0),
            detail: format!("`{}` is not {}", text[repeats[0]], ip).into(),
            credential_hash: at(1),
            http: Some(Http {
                method: at(2),
                host: at(3),
                path: format!("/{}/{}", text[repeats[1]], at(4)).into(),
                source_ip: ip.into(),
                source_principal: at(repeats[2]),
            }),
            principal: Some(Principal { entity_type: "User".into(), id: at(5), issuer: at(6) }),
            target: Some(Target {
                asset_type: "Order".into(),
                asset_id: at(7),
                action: at(8),
            }),
            policy: Some(Policy {
                determining: vec!["p0".to_owned()].into(),
                errors: vec![text[9].clone(), text[repeats[0]].clone()].into(),
                reasons: vec![text[10].clone()].into(),
                ..Policy::default()
            }),
            ..Record::default()
        }
    }
}

prop_compose! {
    fn masks()(fields in subsequence(MASKABLE.to_vec(), 0..=MASKABLE.len()), redacts in vec(any::<bool>(), MASKABLE.len())) -> Vec<Mask> {
        let with = |redacts| if redacts { Masking::Redact } else { Masking::Hash(key()) };
        fields.into_iter().zip(redacts).map(|(field, redacts)| mask(field, with(redacts))).collect()
    }
}

fn lists() -> impl Strategy<Value = Option<BTreeSet<String>>> {
    let names = Shape::names();
    let all = names.len();
    prop::option::of(subsequence(names, 1..=all).prop_map(BTreeSet::from_iter))
}

/// Every text in `value`, wherever it is.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(members) => members.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

/// The names of all that `value` shows.
fn shown(path: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => {
            let inner = members.iter();
            inner.flat_map(|(name, value)| shown(&format!("{path}.{name}"), value)).collect()
        }
        _ => vec![path.trim_start_matches('.').to_owned()],
    }
}

fn parsed(line: &[u8]) -> Value {
    let (end, json) = line.split_last().unwrap();
    assert_eq!(*end, b'\n');
    serde_json::from_slice(json).unwrap()
}

proptest! {
    #[test]
    fn what_is_masked_is_nowhere_in_the_line(record in records(), masks in masks()) {
        let shape = Shape::new(None, masks);
        let mut masked = Vec::new();
        each_text(&mut record.clone(), |name, text| {
            if shape.masks.iter().any(|mask| mask.field == name) && !text.is_empty() {
                masked.push(text.to_string());
            }
        });
        let line = parsed(&shape.line(record).unwrap());
        for text in &masked {
            for found in strings(&line) {
                prop_assert!(!found.contains(text.as_str()), "{text:?} in {found:?}");
            }
        }
    }

    #[test]
    fn exactly_what_is_listed_is_in_the_line(record in records(), fields in lists()) {
        let shape = Shape::new(fields.clone(), Vec::new());
        let line = parsed(&shape.line(record.clone()).unwrap());
        let found: BTreeSet<String> = shown("", &line).into_iter().collect();
        prop_assert_eq!(found, fields.unwrap_or_else(|| Shape::names().into_iter().collect()));
    }

    #[test]
    fn a_line_that_is_used_again_is_the_one_that_would_be_made_anew(
        record in records(),
        masks in masks(),
        fields in lists(),
        (request_id, source_principal) in (TEXT, TEXT),
        source_ip in select(vec!["192.0.2.9", "2001:db8::9", "no address", "192.0.2.7"]),
    ) {
        let shape = Shape::new(fields, masks);
        let line = Line::of(record.clone(), &shape).unwrap();
        let (request_id, source_principal) = (request_id.as_str(), source_principal.as_str());
        let trace = Tracer::new(1.0, Metrics::new(), Clock::Fixed(NOW)).0.join(None);
        let asked = Circumstances { request_id, source_ip, source_principal, trace };
        let written = parsed(&line.again(&shape, asked, NOW, 5).unwrap());
        let mut anew = Record { reused: true, duration_us: 5, request_id: request_id.into(), ..record };
        let http = anew.http.as_mut().unwrap();
        http.source_ip = if source_ip == "no address" { "".into() } else { source_ip.into() };
        http.source_principal = source_principal.into();
        anew.trace(trace);
        prop_assert_eq!(written, parsed(&shape.line(anew).unwrap()));
    }
}

#[test]
fn equal_texts_have_equal_hashes_that_need_the_key() {
    let hash = |key: &str, text: &str| Masking::Hash(HashKey::new(key)).of(text);
    // printf %s alice | openssl dgst -sha256 -hmac 'a key that is hard to guess'
    assert_eq!(
        hash("a key that is hard to guess", "alice"),
        "hmac-sha256:12b9098378dde8f34e4627619f73fd90"
    );
    assert_ne!(
        hash("another key, hard to guess", "alice"),
        hash("a key that is hard to guess", "alice")
    );
}

#[test]
fn of_an_address_its_network_is_shown() {
    for (ip, network) in [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("not one", REDACTED),
    ] {
        assert_eq!(Masking::Network.of(ip), network);
    }
}

#[test]
fn what_a_value_is_in_the_path_is_masked_too() {
    let shape = Shape::new(None, vec![mask("target.assetId", Masking::Redact)]);
    let line = shape.line(Record {
        target: Some(Target { asset_id: "A 1".into(), ..Target::default() }),
        http: Some(Http { path: "/orders/A%201/items".into(), ..Http::default() }),
        ..Record::default()
    });
    let line = parsed(&line.unwrap());
    assert_eq!(line["http"]["path"], "/orders/[redacted]/items");
    assert_eq!(line["target"]["assetId"], REDACTED);
}

#[test]
fn the_lines_of_a_shadow_have_the_same_fields() {
    let said = || {
        let policy = proto::Policy {
            reasons: vec!["QX".to_owned()],
            revision: "r1".to_owned(),
            ..proto::Policy::default()
        };
        Some(Opinion {
            outcome: "deny".to_owned(),
            detail: "QX".to_owned(),
            policy: Some(policy),
            ..Opinion::default()
        })
    };
    let record = || ShadowRecord {
        shadow_of: "id".to_owned(),
        enforced: said(),
        shadow: said(),
        ..ShadowRecord::default()
    };
    let fields = ["outcome", "policy.revision"].map(str::to_owned).into();
    let line = parsed(&Shape::new(Some(fields), Vec::new()).shadow_line(record()).unwrap());
    let one = serde_json::json!({"outcome": "deny", "policy": {"revision": "r1"}});
    assert_eq!(line, serde_json::json!({"enforced": one, "shadow": one}));
    let masked = Shape::new(None, vec![mask("principal.id", Masking::Redact)]);
    let line = parsed(&masked.shadow_line(record()).unwrap());
    assert!(!line.to_string().contains("QX") && line["shadowOf"] == "id", "{line}");
}
