//! Policies of every shape of head and condition, entities in every relation, and requests on them.
//!
//! Few names, so that they meet; some of them known to nobody. Conditions are terms that look at
//! each part of a request and of the entities, some of which fail.

use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy::{Entities as AllEntities, EntityUid, PolicyId, PolicySet, SlotId, Template};
use proptest::prelude::*;
use proptest::sample::{Index as Pick, select, subsequence};
use serde_json::{Value as Json, json};

use crate::fixture;
use crate::identity::Principal;
use crate::request::Request;
use crate::route::Target;

const HEADS: [&str; 12] = [
    "",
    "",
    " == User::\"u0\"",
    " == User::\"u4\"",
    " in Group::\"g0\"",
    " in Group::\"g1\"",
    " in Group::\"g3\"",
    " in Group::\"g4\"",
    " is User",
    " is User in Group::\"g1\"",
    " is Account in Group::\"g1\"",
    " in User::\"u1\"",
];
const ACTIONS: [&str; 7] = [
    "",
    "",
    " == Action::\"read\"",
    " in Action::\"change\"",
    " == Action::\"change\"",
    " in [Action::\"read\", Action::\"change\", Action::\"all\"]",
    " in []",
];
const RESOURCES: [&str; 11] = [
    "",
    "",
    " == Account::\"a0\"",
    " == Account::\"a4\"",
    " in Folder::\"f0\"",
    " in Folder::\"f2\"",
    " is Account",
    " is Account in Folder::\"f1\"",
    " in User::\"u0\"",
    " in Group::\"g1\"",
    " == User::\"u0\"",
];
const TERMS: [&str; 75] = [
    "true",
    "principal == User::\"u0\"",
    "principal in Group::\"g1\"",
    "principal is User in Group::\"g3\"",
    "resource == Account::\"a0\"",
    "resource in Folder::\"f1\"",
    "resource is Account",
    "action == Action::\"read\"",
    "context.http.method == \"GET\"",
    "context.http.host == \"orders.example\"",
    "context.http.path like \"/accounts/*\"",
    "context.http.headers has \"x-a\"",
    "context.http.headers[\"x-a\"] == \"1,2\"",
    "context.http.headers == {\"x-a\": \"1,2\"}",
    "context.http.headers has a.b",
    "context has http.headers.nothing",
    "context.http.query has a",
    "context.http.query.a.contains(\"1\")",
    "context.http.query == {\"a\": [\"1\", \"2\"]}",
    "context.http has query",
    "context == {\"http\": context.http, \"source\": context.source, \"time\": context.time}",
    "{\"all\": context}.all.http.method == \"GET\"",
    "(if context.http.method == \"GET\" then context.http else context.source) has query",
    "(if context.http.method == \"GET\" then context.source else context.http).ip.isIpv4()",
    "context.source has ip && context.source.ip.isInRange(ip(\"192.0.2.0/24\"))",
    "context.source.ip.isInRange(ip(\"192.0.0.0/8\"))",
    "context has source.ip && context.source.ip.isInRange(ip(\"192.0.2.7\"))",
    "context has source.ip && context.source.ip.isInRange(ip(\"192.0.2.99/0\"))",
    "context has source.ip && context.source.ip.isInRange(ip(\"198.51.100.0/24\"), ip(\"2001:db8::1/32\"))",
    "context has source.ip && context.source.ip.isInRange(ip(\"::/0\"))",
    "context has source.ip && context.source.ip.isInRange(ip(\"::ffff:192.0.2.7\"))",
    "context.http.method.isInRange(ip(\"192.0.2.0/24\"))",
    "resource.net.isInRange(ip(\"10.1.0.0/16\"))",
    "resource has net && resource.net.isInRange(ip(\"10.0.0.0/9\"))",
    "resource.net == ip(\"10.1.2.0/24\")",
    "context has source.principal",
    "context.source.principal like \"spiffe://*\"",
    "context.time > datetime(\"2020-01-01\")",
    "context.http.metod == \"GET\"",
    "context.absent",
    "principal has issuer && principal.issuer == \"https://idp.example/\"",
    "principal.claims.level > 1",
    "principal.claims has level",
    "principal has claims",
    "principal has claims.deep.x",
    "principal.claims.deep.x == \"y\"",
    "principal.claims == {\"level\": 1}",
    "{\"c\": principal.claims}.c has level",
    "principal in Group::\"g2\"",
    "principal in [Group::\"g0\", Group::\"g4\"]",
    "principal in resource.owner",
    "resource in principal",
    "resource in Group::\"g3\"",
    "resource in [Folder::\"f2\", User::\"u1\"]",
    "resource.owner == principal",
    "resource.owner.level > 1",
    "resource.owner.claims.level == 1",
    "resource.next.next.level == 2",
    "resource.next.info.owner.next == principal",
    "resource.next.next.next in Group::\"g1\"",
    "resource has info.owner.level",
    "resource has next.next.claims.level",
    "User::\"u1\".level == 1",
    "User::\"u1\".next in Group::\"g2\"",
    "User::\"u0\".claims has level",
    "resource.hasTag(\"t\") && resource.getTag(\"t\").level == 1",
    "resource.getTag(\"t\").next in Group::\"g1\"",
    "principal.hasTag(\"t\")",
    "action in Action::\"change\"",
    "(if principal has level then principal else resource).next.level == 1",
    "{\"e\": resource.next}.e.level == 1",
    "[resource.owner, principal].contains(resource.next)",
    "resource.friends.contains(principal) || principal in resource.friends",
    "principal.desk like \"a*\"",
    "resource.level",
];

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) policies: PolicySet,
    pub(super) entities: AllEntities,
}

fn clause() -> impl Strategy<Value = String> {
    (select(&TERMS[..]), select(&["&&", "||", "&& !"][..]), select(&TERMS[..]), any::<[bool; 2]>())
        .prop_map(|(one, joint, other, [is_pair, is_when])| {
            let condition = if is_pair { format!("({one}) {joint}({other})") } else { one.into() };
            format!("{} {{ {condition} }}", if is_when { "when" } else { "unless" })
        })
}

fn policy() -> impl Strategy<Value = String> {
    let conditions = prop::collection::vec(clause(), 0..3);
    let effect = prop::sample::select(&["permit", "permit", "permit", "forbid"][..]);
    (effect, select(&HEADS[..]), select(&ACTIONS[..]), select(&RESOURCES[..]), conditions).prop_map(
        |(effect, principal, action, resource, conditions)| {
            let conditions = conditions.join(" ");
            format!(
                "{effect}(principal{principal}, action{action}, resource{resource}) {conditions};"
            )
        },
    )
}

fn template() -> impl Strategy<Value = (String, Vec<(usize, usize)>)> {
    let principal = select(&["", " == ?principal", " in ?principal", " is User in ?principal"][..]);
    let resource = select(&[" == ?resource", " in ?resource", " is Account in ?resource"][..]);
    let links = prop::collection::vec((0..uids().len(), 0..uids().len()), 0..4);
    (principal, select(&ACTIONS[..]), resource, clause(), links).prop_map(
        |(principal, action, resource, clause, links)| {
            (
                format!(
                    "permit(principal{principal}, action{action}, resource{resource}) {clause};"
                ),
                links,
            )
        },
    )
}

fn uids() -> Vec<(&'static str, String)> {
    let mut uids = Vec::new();
    for (name, letter, count) in
        [("User", 'u', 5), ("Group", 'g', 5), ("Folder", 'f', 3), ("Account", 'a', 5)]
    {
        uids.extend((0..count).map(|number| (name, format!("{letter}{number}"))));
    }
    uids
}

fn uid_json((name, id): &(&str, String)) -> Json {
    json!({"type": name, "id": id})
}

pub(super) fn uid(pair: &(&str, String)) -> EntityUid {
    EntityUid::from_json(uid_json(pair)).unwrap()
}

/// One entity's luck: whether it is in the file, its parents, and what its attributes name.
type Luck = (bool, Vec<usize>, [Option<Pick>; 4], Option<i64>);

fn entities(lucks: &[Luck]) -> Json {
    let all = uids();
    let reference = |pick: &Pick| json!({"__entity": uid_json(&all[pick.index(all.len())])});
    let mut file = vec![
        json!({"uid": {"type": "Action", "id": "write"}, "attrs": {}, "parents": [{"type": "Action", "id": "change"}]}),
        json!({"uid": {"type": "Action", "id": "change"}, "attrs": {}, "parents": [{"type": "Action", "id": "all"}]}),
    ];
    for (number, (is_there, parents, [owner, next, deep, tag], level)) in lucks.iter().enumerate() {
        if !is_there {
            continue;
        }
        let mut attributes = json!({"desk": "a1", "claims": {"level": 2}});
        let mut tags = json!({});
        if let Some(owner) = owner {
            attributes["owner"] = reference(owner);
            attributes["friends"] = json!([reference(owner)]);
        }
        if let Some(next) = next {
            attributes["next"] = reference(next);
        }
        if let Some(deep) = deep {
            attributes["info"] = json!({"owner": reference(deep), "other": 1});
        }
        if let Some(level) = level {
            attributes["level"] = json!(level);
            attributes["net"] = match level {
                0 => json!({"__extn": {"fn": "ip", "arg": "10.1.2.0/24"}}),
                1 => json!({"__extn": {"fn": "ip", "arg": "10.0.0.0/8"}}),
                _ => json!({"__extn": {"fn": "decimal", "arg": "10.1"}}),
            };
        }
        if let Some(tag) = tag {
            tags["t"] = reference(tag);
        }
        // Below what comes later only, so that the file itself has no circle.
        let parents = parents.iter().filter(|parent| **parent > number);
        let parents: Vec<_> = parents.map(|parent| uid_json(&order()[*parent])).collect();
        file.push(json!({"uid": uid_json(&order()[number]), "attrs": attributes, "parents": parents, "tags": tags}));
    }
    Json::Array(file)
}

/// Accounts and folders first, so that they may be below users, and some users below groups, one
/// group below a user.
fn order() -> Vec<(&'static str, String)> {
    let mut all = uids();
    all.rotate_left(10);
    let group = all.remove(13);
    all.insert(9, group);
    all
}

pub(super) fn world() -> impl Strategy<Value = World> {
    let parents = subsequence((0..uids().len()).collect::<Vec<_>>(), 0..4);
    let luck = (
        prop::bool::weighted(0.8),
        parents,
        any::<[Option<Pick>; 4]>(),
        prop::option::of(0..3_i64),
    );
    let lucks = prop::collection::vec(luck, uids().len());
    let policies = prop::collection::vec(policy(), 0..14);
    (policies, prop::collection::vec(template(), 0..3), lucks).prop_map(
        |(policies, templates, lucks)| {
            let mut set: PolicySet = policies.concat().parse().unwrap();
            for (number, (text, links)) in templates.iter().enumerate() {
                let id = PolicyId::new(format!("template{number}"));
                let template = Template::parse(Some(id.clone()), text).unwrap();
                let slots: HashSet<SlotId> = template.slots().cloned().collect();
                set.add_template(template).unwrap();
                for (place, (principal, resource)) in links.iter().enumerate() {
                    let values = [(SlotId::principal(), principal), (SlotId::resource(), resource)];
                    let values = values.into_iter().filter(|(slot, _)| slots.contains(slot));
                    let values = values.map(|(slot, number)| (slot, uid(&uids()[*number])));
                    let link = PolicyId::new(format!("link{number}-{place}"));
                    set.link(id.clone(), link, values.collect()).unwrap();
                }
            }
            let file = entities(&lucks);
            World { policies: set, entities: AllEntities::from_json_value(file, None).unwrap() }
        },
    )
}

fn ip() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(select(&["192.0.2.7", "192.0.2.7", "198.51.100.1", "2001:db8:7::1"][..]))
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) principal: Arc<Principal>,
    pub(super) targets: Vec<Target>,
    pub(super) request: Request,
}

pub(super) fn asked() -> impl Strategy<Value = Asked> {
    let principal = prop_oneof![8 => 0..5_usize, 1 => 5..10_usize];
    let groups = subsequence((0..5).collect::<Vec<_>>(), 0..3);
    let claims = select(vec![
        json!({}),
        json!({"level": 1}),
        json!({"level": 3, "deep": {"x": "y"}}),
        json!({"level": "high"}),
    ]);
    let actions = select(&["read", "write", "change"][..]);
    let targets = prop::collection::vec((0..uids().len(), actions), 1..6);
    (principal, groups, claims, targets, ip(), any::<[bool; 3]>()).prop_map(
        |(principal, groups, claims, targets, ip, [has_peer, has_header, is_get])| {
            let (name, id) = uids()[principal].clone();
            let mut principal = fixture::user(&id);
            principal.entity_type = name.to_owned();
            principal.groups = groups.iter().map(|number| format!("g{number}")).collect();
            principal.claims = claims.as_object().unwrap().clone();
            principal.peer = has_peer.then(|| "spiffe://cluster.local/a".to_owned());
            let method = if is_get { "GET" } else { "POST" };
            let mut request = fixture::request(method, "/accounts/1?a=1&a=2");
            request.source.ip = ip.map(|ip| ip.parse().unwrap());
            if has_header {
                request.headers.push("x-a", "1");
                request.headers.push("X-A", "2");
            }
            let targets = targets.into_iter().map(|(number, action)| {
                let (asset_type, asset_id) = uids()[number].clone();
                Target { asset_type: asset_type.to_owned(), asset_id, action: action.to_owned() }
            });
            Asked { principal: Arc::new(principal), targets: targets.collect(), request }
        },
    )
}
