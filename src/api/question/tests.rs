use proptest::prelude::*;
use serde_json::json;

use super::*;

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("no object") };
    map
}

fn asked() -> Value {
    json!({
        "subject": {"type": "user", "id": "alice", "properties": {"role": "admin"}},
        "action": {"name": "read", "properties": {"soft": true}},
        "resource": {"type": "record", "id": "1", "properties": {"status": "active"}},
        "context": {"ip": "::1"},
    })
}

/// `asked()` with what is at `pointer` replaced, or taken away.
fn with(pointer: &str, value: Option<Value>) -> Map<String, Value> {
    let mut body = asked();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    map(body)
}

fn batch(body: Value) -> Batch {
    match evaluations(&map(body)).unwrap() {
        Evaluations::Batch(batch) => batch,
        Evaluations::Single(single) => panic!("{single:?}"),
    }
}

#[test]
fn a_question_is_read() {
    let question = single(&map(asked())).unwrap();
    let Statement { principal, target, stated } = question.statement;
    assert_eq!((principal.entity_type.as_str(), principal.id.as_str()), ("user", "alice"));
    assert_eq!(principal.claims, map(json!({"role": "admin"})));
    let names = (target.asset_type.as_str(), target.asset_id.as_str(), target.action.as_str());
    assert_eq!(names, ("record", "1", "read"));
    assert_eq!(stated.asset, map(json!({"status": "active"})));
    assert_eq!(stated.action, map(json!({"soft": true})));
    assert_eq!(stated.context, map(json!({"ip": "::1"})));
    assert!(!question.signed);
    assert!(single(&with("/options", Some(json!({"token": true})))).unwrap().signed);
}

#[test]
fn what_is_missing_or_of_another_kind_is_named() {
    for (pointer, value, message) in [
        ("/subject", None, "`subject` is missing"),
        ("/action", None, "`action` is missing"),
        ("/resource", None, "`resource` is missing"),
        ("/subject/type", None, "`subject.type` is missing"),
        ("/subject/id", None, "`subject.id` is missing"),
        ("/subject/id", Some(json!("")), "`subject.id` is missing"),
        ("/action/name", None, "`action.name` is missing"),
        ("/resource/type", None, "`resource.type` is missing"),
        ("/resource/id", None, "`resource.id` is missing"),
        ("/subject", Some(json!("alice")), "`subject` is not an object"),
        ("/subject", Some(json!(null)), "`subject` is not an object"),
        ("/action/name", Some(json!(123)), "`action.name` is not a string"),
        ("/resource/id", Some(json!(null)), "`resource.id` is not a string"),
        ("/resource/properties", Some(json!([])), "`resource.properties` is not an object"),
        ("/context", Some(json!("x")), "`context` is not an object"),
        ("/options", Some(json!(1)), "`options` is not an object"),
        ("/options", Some(json!({"token": "yes"})), "`options.token` is not true or false"),
        (
            "/subject/type",
            Some(json!("Group")),
            "the subject is a `Group` or an `Action`, which asks for nothing: name who asks",
        ),
    ] {
        let error = single(&with(pointer, value)).unwrap_err();
        assert_eq!(error.to_string(), message, "{pointer}");
    }
    for pointer in ["/context", "/options", "/subject/properties", "/action/properties"] {
        assert!(single(&with(pointer, None)).is_ok() || pointer == "/options", "{pointer}");
        assert!(single(&with(pointer, Some(json!(null)))).is_ok(), "{pointer}");
    }
    assert!(single(&with("/future", Some(json!({"nested": true})))).is_ok());
}

#[test]
fn a_question_of_a_batch_takes_what_it_lacks_from_the_defaults() {
    let mut body = asked();
    body["evaluations"] = json!([
        {},
        {"resource": {"id": "2"}},
        {"resource": {"type": "book", "id": "3"}, "context": {"a": 1}},
        {"subject": {"id": "bob"}, "action": {"name": "write"}, "context": null},
        {"resource": {"id": 4}},
        "none",
    ]);
    let batch = batch(body);
    let items: Vec<_> = batch.items.iter().map(Result::as_ref).collect();
    let first = items[0].unwrap();
    assert_eq!(first.stated.asset, map(json!({"status": "active"})));
    let second = items[1].unwrap();
    assert_eq!((&*second.target.asset_type, &*second.target.asset_id), ("record", "2"));
    assert_eq!(second.stated.asset, Map::new(), "an entity is replaced, not merged");
    assert_eq!(second.stated.context, map(json!({"ip": "::1"})));
    let third = items[2].unwrap();
    assert_eq!(third.target.asset_type, "book");
    assert_eq!(third.stated.context, map(json!({"a": 1})));
    let fourth = items[3].unwrap();
    assert_eq!((&*fourth.principal.entity_type, &*fourth.principal.id), ("user", "bob"));
    assert_eq!(fourth.principal.claims, Map::new());
    assert_eq!(fourth.stated.context, Map::new());
    assert_eq!(*items[4].unwrap_err(), kind("resource.id", "a string"));
    assert_eq!(*items[5].unwrap_err(), kind("evaluations[]", "an object"));
    assert_eq!(batch.semantic, Semantic::ExecuteAll);
}

#[test]
fn without_a_list_one_question_is_asked() {
    for list in [None, Some(json!([])), Some(json!(null))] {
        let read = evaluations(&with("/evaluations", list)).unwrap();
        assert!(matches!(read, Evaluations::Single(_)));
    }
    for list in [json!({}), json!("x"), json!(1)] {
        assert!(evaluations(&with("/evaluations", Some(list))).is_err());
    }
    let many = json!(vec![json!({}); MAX_QUESTIONS + 1]);
    assert!(matches!(evaluations(&with("/evaluations", Some(many))), Err(Malformed::TooMany)));
}

#[test]
fn a_semantic_is_one_of_three() {
    for (name, semantic) in [
        (json!("execute_all"), Semantic::ExecuteAll),
        (json!(null), Semantic::ExecuteAll),
        (json!("deny_on_first_deny"), Semantic::DenyOnFirstDeny),
        (json!("permit_on_first_permit"), Semantic::PermitOnFirstPermit),
    ] {
        let body = json!({"evaluations": [{}], "options": {"evaluations_semantic": name}});
        assert_eq!(batch(body).semantic, semantic);
    }
    for name in [json!("all"), json!(""), json!(1), json!(["execute_all"])] {
        let body = json!({"evaluations": [{}], "options": {"evaluations_semantic": name}});
        assert!(evaluations(&map(body)).is_err());
    }
}

#[test]
fn the_open_place_of_a_search_needs_no_name() {
    let subject = search(Open::Subject, &with("/subject/id", None)).unwrap();
    assert_eq!((&*subject.search.principal.id, subject.limit), ("", PAGE.0));
    assert!(search(Open::Subject, &map(asked())).unwrap().search.principal.id.is_empty());
    assert!(search(Open::Asset, &with("/resource/id", None)).is_ok());
    assert!(search(Open::Action, &with("/action", None)).is_ok());
    for (open, pointer) in [
        (Open::Subject, "/action"),
        (Open::Subject, "/subject/type"),
        (Open::Subject, "/resource/id"),
        (Open::Asset, "/subject"),
        (Open::Asset, "/subject/id"),
        (Open::Asset, "/resource/type"),
        (Open::Action, "/resource"),
        (Open::Action, "/subject/id"),
    ] {
        let error = search(open, &with(pointer, None)).unwrap_err();
        assert!(matches!(error, Malformed::Missing(_)), "{open:?} {pointer} {error}");
    }
}

#[test]
fn a_page_is_bounded() {
    let page = |page| search(Open::Action, &with("/page", Some(page)));
    assert_eq!(page(json!({"limit": 1})).unwrap().limit, 1);
    assert_eq!(page(json!({"limit": u64::MAX})).unwrap().limit, PAGE.1);
    for wrong in [json!({"limit": 0}), json!({"limit": -1}), json!({"limit": "1"}), json!(3)] {
        assert!(page(wrong.clone()).is_err(), "{wrong}");
    }
    let token = "A".repeat(27);
    for name in ["token", "next_token"] {
        assert!(page(json!({name: token})).unwrap().from.is_some());
        assert!(page(json!({name: ""})).unwrap().from.is_none());
        assert!(page(json!({name: "A"})).is_err() && page(json!({name: 1})).is_err());
    }
    assert!(page(json!({"token": token, "next_token": token})).is_ok());
    assert!(page(json!({"token": token, "next_token": "B".repeat(27)})).is_err());
}

/// JSON near to a question.
fn near() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "subject",
        "action",
        "resource",
        "context",
        "evaluations",
        "options",
        "page",
        "type",
        "id",
        "name",
        "properties",
        "groups",
        "token",
        "limit",
    ]);
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8).prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_panics_and_nothing_read_is_without_a_name(body in near()) {
        let Value::Object(body) = body else { return Ok(()) };
        let named = |statement: &Statement| {
            let Statement { principal, target, .. } = statement;
            let names = [&principal.entity_type, &principal.id, &target.asset_type, &target.asset_id, &target.action];
            names.iter().all(|name| !name.is_empty())
        };
        if let Ok(single) = single(&body) {
            prop_assert!(named(&single.statement));
        }
        if let Ok(Evaluations::Batch(batch)) = evaluations(&body) {
            prop_assert!(batch.items.iter().flatten().all(named));
        }
        for open in [Open::Subject, Open::Asset, Open::Action] {
            if let Ok(read) = search(open, &body) {
                prop_assert!((1..=PAGE.1).contains(&read.limit));
            }
        }
    }
}
