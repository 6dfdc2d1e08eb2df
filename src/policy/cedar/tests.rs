//! Held against Cedar's own authorizer, on every policy, every entity and the whole context.

mod world;

use cedar_policy::{
    Authorizer, Context as WholeContext, Decision, Entities as AllEntities, Entity,
    Request as WholeRequest,
};
use cedar_policy_core::ast::Effect as PolicyEffect;
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use self::world::{Asked, World, asked, uid, world};
use super::guard::Look;
use super::*;
use crate::fixture::{self, NOW};
use crate::policy;
use crate::request::{AddressRead, Headers, Reads};

type Found = Option<(String, Vec<String>, Vec<String>)>;

/// Effect, determining policies and errors, as Cedar's own authorizer finds them.
fn reference(world: &World, asked: &Asked, target: &Target) -> Found {
    let principal = uid(&(&asked.principal.entity_type, asked.principal.id.clone()));
    let mut entity = match world.entities.get(&principal) {
        Some(known) => known.to_json_value().unwrap(),
        None => {
            json!({"uid": {"type": asked.principal.entity_type, "id": asked.principal.id}, "attrs": {}, "parents": []})
        }
    };
    entity["attrs"]["claims"] = Json::Object(asked.principal.claims.clone());
    entity["attrs"]["issuer"] = json!(asked.principal.issuer);
    for group in &asked.principal.groups {
        entity["parents"].as_array_mut().unwrap().push(json!({"type": "Group", "id": group}));
    }
    let entity = Entity::from_json_value(entity, None).ok()?;
    let entities = world.entities.clone().upsert_entities([entity], None).ok()?;
    let mut context = json!({
        "http": {"method": asked.request.method, "host": "orders.example", "path": "/accounts/1",
                 "query": {"a": ["1", "2"]}, "headers": {}},
        "source": {},
        "time": {"__extn": {"fn": "datetime", "arg": NOW.rfc3339()}},
    });
    if asked.request.headers.iter().next().is_some() {
        context["http"]["headers"]["x-a"] = json!("1,2");
    }
    if let Some(ip) = asked.request.source.ip {
        context["source"]["ip"] = json!({"__extn": {"fn": "ip", "arg": ip.to_string()}});
    }
    if let Some(peer) = &asked.principal.peer {
        context["source"]["principal"] = json!(peer);
    }
    let request = WholeRequest::new(
        principal,
        uid(&("Action", target.action.clone())),
        uid(&(&target.asset_type, target.asset_id.clone())),
        WholeContext::from_json_value(context, None).unwrap(),
        None,
    );
    let response = Authorizer::new().is_authorized(&request.unwrap(), &world.policies, &entities);
    let mut determining: Vec<_> =
        response.diagnostics().reason().map(ToString::to_string).collect();
    let mut errors: Vec<_> = response.diagnostics().errors().map(ToString::to_string).collect();
    let is_forbid = |error: &cedar_policy::AuthorizationError| {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
        world.policies.policy(error.policy_id()).unwrap().effect() == cedar_policy::Effect::Forbid
    };
    let effect = match response.decision() {
        Decision::Deny if !determining.is_empty() => "forbidden",
        _ if response.diagnostics().errors().any(is_forbid) => "broken",
        Decision::Deny => "unmatched",
        Decision::Allow => "permitted",
    };
    determining.sort_unstable();
    errors.sort_unstable();
    Some((effect.to_owned(), determining, errors))
}

fn compiled(world: &World) -> Cedar {
    let mut errors = Vec::new();
    let names = Names::new(["User", "Account"], &mut errors).unwrap();
    let loaded = Loaded {
        policies: world.policies.clone(),
        entities: world.entities.clone(),
        actions: Vec::new(),
        descriptors: None,
        revision: String::new(),
    };
    Cedar::compile(loaded, names, Constructors::new().unwrap())
}

fn ours(engine: &Cedar, asked: &Asked) -> Vec<Found> {
    let path = fixture::path("/accounts/1");
    let question = Question {
        principal: &asked.principal,
        target: &asked.targets[0],
        context: policy::Context::Http { request: &asked.request, path: &path },
        now: NOW,
    };
    let Ok(asking) = engine.ask(&question) else { return vec![None; asked.targets.len()] };
    let found = |target| {
        let verdict = asking.outcome(target).unwrap();
        let effect = match verdict.effect() {
            Effect::Permitted => "permitted",
            Effect::Forbidden => "forbidden",
            Effect::Unmatched => "unmatched",
            Effect::Fault(_) => "broken",
        };
        let Grounds { determining, mut errors, .. } = verdict.grounds("");
        errors.sort_unstable();
        Some((effect.to_owned(), determining, errors))
    };
    asked.targets.iter().map(found).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decides_as_cedar_does_on_everything(
        world in world(),
        askeds in prop::collection::vec(asked(), 1..6),
    ) {
        let engine = compiled(&world);
        for asked in askeds {
            for (target, ours) in asked.targets.iter().zip(ours(&engine, &asked)) {
                prop_assert_eq!(ours, reference(&world, &asked, target), "{:?} {:?}", asked, target);
            }
        }
    }
}

/// `other`, made the same as `asked` in all that is read of it.
fn alike(asked: &Asked, other: &Asked, reads: &Reads) -> Asked {
    let mut request = other.request.clone();
    request.method.clone_from(&asked.request.method);
    request.target =
        if reads.query { asked.request.target.clone() } else { "/accounts/1?b=9".to_owned() };
    request.headers = Headers::default();
    let is_read = |name: &str| reads.headers.contains(name);
    let of = |from: &Asked, read: bool, into: &mut Headers| {
        let fields = from.request.headers.iter().filter(|(name, _)| is_read(name) == read);
        fields.for_each(|(name, value)| into.push(name, value));
    };
    of(asked, true, &mut request.headers);
    of(other, false, &mut request.headers);
    let (ip, other_ip) = (asked.request.source.ip, other.request.source.ip);
    let is_same = match &reads.source_ip {
        AddressRead::Unread => true,
        AddressRead::Whole => false,
        AddressRead::Ranges(ranges) => match (ip, other_ip) {
            (Some(ip), Some(other)) => {
                ranges.iter().all(|range| range.contains(&ip) == range.contains(&other))
            }
            (ip, other) => ip == other,
        },
    };
    request.source.ip = if is_same { other_ip } else { ip };
    Asked { request, ..asked.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// A decision may be used again for a request that is the same in what is said to be read.
    #[test]
    fn nothing_is_read_but_what_is_said_to_be(
        world in world(),
        askeds in prop::collection::vec((asked(), asked()), 1..6),
    ) {
        let engine = compiled(&world);
        if let Some(reads) = engine.reads() {
            for (asked, other) in askeds {
                let alike = alike(&asked, &other, &reads);
                prop_assert_eq!(ours(&engine, &asked), ours(&engine, &alike), "{:?} {:?}", reads, alike);
            }
        }
    }
}

/// What brute force finds: the numbers of the held targets, or `None` where a permit holds and a
/// forbid that fails might take it away.
fn brute(engine: &Cedar, inventory: &Inventory, question: &Question<'_>) -> Option<Vec<usize>> {
    let Ok(asking) = engine.ask(question) else { return None };
    let mut held = Vec::new();
    for (number, target) in inventory.targets().iter().enumerate() {
        let outcome = asking.outcome(target).unwrap();
        match outcome.effect() {
            Effect::Permitted => held.push(number),
            Effect::Fault(_) if outcome.has(PolicyEffect::Permit) => return None,
            _ => {}
        }
    }
    Some(held)
}

/// What a listing finds, and whether it looked at the request.
fn listed(
    engine: &Cedar,
    inventory: &Inventory,
    question: &Question<'_>,
) -> (Option<Vec<usize>>, bool) {
    let Ok(mut listing) = engine.list(inventory, question) else { return (None, true) };
    let mut held = Vec::new();
    loop {
        match listing.decide_some(&mut held) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => return (None, listing.looked_at_request()),
        }
    }
    held.sort_unstable();
    (Some(held), listing.looked_at_request())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lists_what_brute_force_finds(world in world(), askeds in prop::collection::vec(asked(), 1..6)) {
        let engine = compiled(&world);
        let types = ["User", "Group", "Folder", "Account"];
        let pairs = types.into_iter().flat_map(|name| ["read", "write", "change"].map(|action| (name, action)));
        let inventory = engine.inventory(&pairs.collect());
        let path = fixture::path("/accounts/1");
        for (asked, other) in askeds.iter().zip(askeds.iter().rev()) {
            let question = Question {
                principal: &asked.principal,
                target: &asked.targets[0],
                context: policy::Context::Http { request: &asked.request, path: &path },
                now: NOW,
            };
            let (found, looked) = listed(&engine, &inventory, &question);
            prop_assert_eq!(&found, &brute(&engine, &inventory, &question), "{:?}", asked);
            if looked {
                continue;
            }
            // Whoever the policies can't tell from this principal holds the same, whatever is asked.
            let mut principal = (*asked.principal).clone();
            principal.claims = other.principal.claims.clone();
            principal.peer = other.principal.peer.clone();
            principal.issuer = None;
            let text = |principal| serde_json::to_string(&engine.sight(principal)).unwrap();
            if text(&principal) == text(&asked.principal) {
                let question = Question {
                    principal: &principal.into(),
                    context: policy::Context::Http { request: &other.request, path: &path },
                    now: NOW.after(std::time::Duration::from_secs(3)),
                    ..question
                };
                prop_assert_eq!(found, listed(&engine, &inventory, &question).0, "{:?} {:?}", asked, other);
            }
        }
    }
}

/// Ten thousand policies of the usual shapes: how many one request has evaluated.
#[test]
fn a_request_evaluates_only_policies_that_name_it() {
    let mut text =
        String::from("forbid(principal, action, resource) when { context.http has never };");
    for number in 0..10_000 {
        let group = number % 500;
        text.push_str(&match number % 4 {
            0 => format!("permit(principal in Group::\"g{group}\", action == Action::\"read\", resource == Account::\"{number}\");"),
            1 => format!("permit(principal == User::\"u{number}\", action, resource is Account);"),
            2 => format!("permit(principal, action in [Action::\"read\", Action::\"write\"], resource in Folder::\"f{number}\");"),
            _ => format!("forbid(principal in Group::\"g{group}\", action == Action::\"delete\", resource);"),
        });
    }
    let world = World { policies: text.parse().unwrap(), entities: AllEntities::empty() };
    let engine = compiled(&world);
    let key =
        |name: &str, id: &str| engine.index.keys(&super::uid(&entity_type(name).unwrap(), id));
    let mut principal = key("User", "u1");
    principal.extend(key("Group", "g3").into_iter().chain(key("Group", "g4")));
    principal.sort_unstable();
    principal.dedup();
    let count = |action: &str, id: &str| {
        engine.index.candidates(&principal, &key("Action", action), &key("Account", id)).plain.len()
    };
    assert_eq!(engine.len(), 10_001);
    assert_eq!(count("read", "4"), 3);
    assert_eq!(count("read", "5"), 2);
    assert_eq!(count("delete", "5"), 22);
}

/// Of a thousand policies that begin by naming a value, those are evaluated whose value is there; all
/// of them, where the value can't be had.
#[test]
fn a_value_that_conditions_begin_with_is_looked_at_once() {
    let policy = |number| {
        format!(
            r#"permit(principal, action, resource)
                   when {{ principal.claims has level && principal.claims.level == {number} && context.http.method == "GET" }};
               forbid(principal, action, resource) when {{ resource.owner.level == {number} }};"#
        )
    };
    let owned = r#"[{"uid": {"type": "Account", "id": "1"}, "parents": [],
                     "attrs": {"owner": {"__entity": {"type": "User", "id": "bob"}}}},
                    {"uid": {"type": "User", "id": "bob"}, "parents": [], "attrs": {"level": 7}}]"#;
    let world = World {
        policies: (0..500).map(policy).collect::<String>().parse().unwrap(),
        entities: AllEntities::from_json_str(owned, None).unwrap(),
    };
    let engine = compiled(&world);
    let mut alice = fixture::user("alice");
    alice.claims.insert("level".to_owned(), 3.into());
    let (request, path) = (fixture::request("GET", "/accounts/1"), fixture::path("/accounts/1"));
    let target = |id: &str| Target {
        asset_type: "Account".to_owned(),
        asset_id: id.to_owned(),
        action: "read".to_owned(),
    };
    let question = Question {
        principal: &alice.into(),
        target: &target("1"),
        context: policy::Context::Http { request: &request, path: &path },
        now: NOW,
    };
    let asking = engine.ask(&question).unwrap();
    let evaluated = |id: &str| {
        let account = super::uid(&entity_type("Account").unwrap(), id);
        let action = super::uid(&engine.names.action, "read");
        let (rules, _) = asking.candidates(&action, &account).unwrap();
        rules.iter().map(|rule| rule.policy.id().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(evaluated("1"), ["policy15", "policy6"]);
    assert_eq!(evaluated("2").len(), 501);
}

fn text_of(look: &Look) -> String {
    match look {
        Look::Value(value) => value.to_string(),
        Look::Address(address) => format!("ip(\"{address}\")"),
        Look::Nothing | Look::Broken => format!("{look:?}"),
    }
}

/// Conditions that begin with a value, and whether it is read from the request.
const VALUES: [(&str, bool); 12] = [
    (r#"principal.claims.level == "1""#, true),
    (r#"principal.claims has level && principal.claims.level == "1""#, true),
    (r#"principal has claims && principal.claims.level == "1""#, true),
    (r#"principal has claims.level && principal.claims.level == "1""#, true),
    (r#"context.source.ip.isInRange(ip("192.0.2.0/24"))"#, true),
    (r#"context has source && context.source.ip.isInRange(ip("192.0.2.0/24"))"#, true),
    (r#"context has source.ip && context.source.ip.isInRange(ip("192.0.2.0/24"))"#, true),
    (r#"context.source has ip && context.source.ip.isInRange(ip("192.0.2.0/24"))"#, true),
    // Cedar has to look.
    (r#"principal.claims has other && principal.claims.level == "1""#, false),
    (r#"resource.claims.level == "1""#, false),
    (r#"principal.claims.level.deep == "1""#, false),
    (r#"context.http.method == "GET""#, false),
];

/// A guard that looks at the request itself finds what Cedar does.
#[test]
fn a_look_at_the_request_finds_what_cedar_finds() {
    let text: String = VALUES
        .iter()
        .map(|(condition, _)| {
            format!("permit(principal, action, resource) when {{ {condition} }};")
        })
        .collect();
    let world = World { policies: text.parse().unwrap(), entities: AllEntities::empty() };
    let engine = compiled(&world);
    let target = Target {
        asset_type: "Account".to_owned(),
        asset_id: "1".to_owned(),
        action: "read".to_owned(),
    };
    let (path, mut with_address) = (fixture::path("/"), fixture::request("GET", "/"));
    with_address.source.ip = Some("192.0.2.7".parse().unwrap());
    let mut without = with_address.clone();
    without.source.ip = None;
    let stated = policy::Stated {
        context: json!({"source": {"ip": "192.0.2.7"}, "http": {}}).as_object().unwrap().clone(),
        ..policy::Stated::default()
    };
    let contexts = [
        policy::Context::Http { request: &with_address, path: &path },
        policy::Context::Http { request: &without, path: &path },
        policy::Context::Stated(&stated),
    ];
    let claims =
        [json!("1"), json!(1), json!(1.5), json!(null), json!({"deep": "1"}), json!(["1"])];
    let claims = claims.iter().map(|level| json!({"level": level})).chain([json!({})]);
    for (claims, context) in
        claims.flat_map(|claims| contexts.map(|context| (claims.clone(), context)))
    {
        let mut alice = fixture::user("alice");
        alice.claims = claims.as_object().unwrap().clone();
        let question = Question { principal: &alice.into(), target: &target, context, now: NOW };
        let asking = engine.ask(&question).unwrap();
        let action = super::uid(&engine.names.action, "read");
        let account = super::uid(&entity_type("Account").unwrap(), "1");
        let caller = &asking.shown(true).unwrap().caller;
        let entities = engine.store.slice(caller, [asking.caller.uid()], &[], 1).unwrap();
        let request = asking.request(&action, &account, true).unwrap();
        let evaluator = Evaluator::new(request, &entities, Extensions::all_available());
        let mut easy = 0;
        for number in 0..VALUES.len() {
            let Some(guard) = engine.index.guard(number) else { break };
            let Some(look) = guard.look_at_request(&question) else { continue };
            easy += 1;
            let (found, cedars) = (text_of(&look), text_of(&guard.look(&evaluator)));
            assert_eq!(found, cedars, "{guard:?} {claims}");
        }
        assert_eq!(easy, VALUES.iter().filter(|(_, is_easy)| *is_easy).count());
    }
}

#[test]
fn a_condition_that_begins_like_a_head_is_looked_up_like_one() {
    let candidates = |text: &str, id: &str| {
        let world = World { policies: text.parse().unwrap(), entities: AllEntities::empty() };
        let engine = compiled(&world);
        let key =
            |name: &str, id: &str| engine.index.keys(&super::uid(&entity_type(name).unwrap(), id));
        let (action, resource) = (key("Action", "read"), key("Account", "1"));
        engine.index.candidates(&key("User", id), &action, &resource).plain.len()
    };
    for (condition, expected) in [
        (r#"when { principal == User::"1" }"#, 0),
        (r#"when { principal in User::"1" && context.absent }"#, 0),
        (r#"when { principal has claims && principal == User::"1" }"#, 0),
        (r#"when { principal is Robot }"#, 0),
        (r#"when { action == Action::"write" }"#, 0),
        (r#"when { resource in Folder::"1" } unless { context.absent }"#, 0),
        // These have to be evaluated: they could hold, or fail.
        (r#"when { principal == User::"2" }"#, 1),
        (r#"when { context.absent && principal == User::"1" }"#, 1),
        (r#"when { principal == User::"1" || context.absent }"#, 1),
        (r#"unless { principal == User::"1" }"#, 1),
    ] {
        let text = format!("forbid(principal, action, resource) {condition};");
        assert_eq!(candidates(&text, "2"), expected, "{condition}");
    }
}
