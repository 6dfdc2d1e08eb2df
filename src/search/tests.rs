use futures_util::FutureExt as _;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::fixture::{self, NOW};

/// Who has `even` may read what ends in an even digit; a forbid fails on account 5.
const POLICY: &str = r#"
    permit(principal, action == Action::"read", resource)
        when { principal has even && resource has even };
    permit(principal == User::"alice", action in [Action::"write", Action::"delete"], resource);
    forbid(principal, action == Action::"write", resource == Account::"5")
        when { resource.absent };
"#;

fn entities(count: usize) -> String {
    let entity = |kind: &str, id: usize| {
        let even = if id.is_multiple_of(2) { r#""even": true"# } else { "" };
        format!(
            r#"{{"uid": {{"type": "{kind}", "id": "{id}"}}, "attrs": {{{even}}}, "parents": []}}"#
        )
    };
    let all = (0..count).flat_map(|id| [entity("Account", id), entity("User", id)]);
    format!("[{}]", all.collect::<Vec<_>>().join(","))
}

fn search(open: Open, subject: &str, action: &str, asset: &str) -> Search {
    Search {
        open,
        principal: Principal::stated("User", subject, Map::new()).unwrap(),
        target: Target {
            asset_type: "Account".to_owned(),
            asset_id: asset.to_owned(),
            action: action.to_owned(),
        },
        stated: Stated::default(),
    }
}

fn page(
    search: &Search,
    policy: &Policy,
    from: Option<&Cursor>,
    limit: usize,
) -> Result<Found, SearchError> {
    let routes = fixture::routes();
    let mut run = Box::pin(search.run(policy, &routes, &|_| false, from, limit, NOW));
    loop {
        if let Some(found) = run.as_mut().now_or_never() {
            return found;
        }
    }
}

/// Every page, one after the other, by the cursors' texts.
fn pages(search: &Search, policy: &Policy, limit: usize) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut from = None;
    loop {
        let found = page(search, policy, from.as_ref(), limit).unwrap();
        pages.push(found.ids);
        match found.next {
            Some(next) => from = Some(Cursor::parse(&next.text()).unwrap()),
            None => return pages,
        }
    }
}

#[test]
fn each_place_can_be_left_open() {
    let policy = fixture::policy(POLICY, &entities(6));
    let all = |search: Search| pages(&search, &policy, 100).concat();
    assert_eq!(all(search(Open::Subject, "", "read", "2")), ["0", "2", "4"]);
    assert_eq!(all(search(Open::Subject, "ignored", "read", "3")), [""; 0]);
    assert_eq!(all(search(Open::Asset, "2", "read", "")), ["0", "2", "4"]);
    assert_eq!(all(search(Open::Action, "alice", "", "1")), ["delete", "write"]);
    assert_eq!(all(search(Open::Action, "2", "ignored", "2")), ["read"]);
    assert_eq!(all(search(Open::Action, "nobody", "", "1")), [""; 0]);
}

#[test]
fn what_can_not_be_decided_is_not_found() {
    let policy = fixture::policy(POLICY, &entities(6));
    let found = pages(&search(Open::Asset, "alice", "write", ""), &policy, 100).concat();
    assert_eq!(found, ["0", "1", "2", "3", "4"]);
}

#[test]
fn an_unknown_type_is_nothing_found() {
    let policy = fixture::policy(POLICY, &entities(2));
    for kind in ["Spaceship", "no entity type", ""] {
        let mut subject = search(Open::Subject, "", "read", "0");
        subject.principal.entity_type = kind.to_owned();
        let mut asset = search(Open::Asset, "0", "read", "");
        asset.target.asset_type = kind.to_owned();
        let mut other = search(Open::Asset, "0", "read", "");
        other.principal.entity_type = kind.to_owned();
        for search in [subject, asset, other] {
            let found = page(&search, &policy, None, 10).unwrap();
            assert_eq!(found, Found { ids: Vec::new(), next: None }, "{search:?}");
        }
    }
}

#[test]
fn a_search_over_more_than_a_page_decides_goes_on_in_the_next() {
    let policy = fixture::policy("", &entities(MAX_DECIDED + 2));
    let asking = search(Open::Asset, "1", "read", "");
    let first = page(&asking, &policy, None, 10).unwrap();
    assert!(first.ids.is_empty() && first.next.is_some());
    let second = page(&asking, &policy, first.next.as_ref(), 10).unwrap();
    assert_eq!(second, Found { ids: Vec::new(), next: None });
}

#[test]
fn a_cursor_is_of_one_search_and_one_set_of_policies() {
    let policy = fixture::policy(POLICY, &entities(6));
    let asking = search(Open::Asset, "2", "read", "");
    let next = page(&asking, &policy, None, 1).unwrap().next.unwrap();
    let mut stated = asking.clone();
    stated.stated.context.insert("a".to_owned(), Value::from(1));
    let mut claims = asking.clone();
    claims.principal.claims.insert("a".to_owned(), Value::from(1));
    for other in [
        search(Open::Asset, "4", "read", ""),
        search(Open::Asset, "2", "write", ""),
        search(Open::Subject, "2", "read", ""),
        stated,
        claims,
    ] {
        assert_eq!(page(&other, &policy, Some(&next), 1), Err(SearchError::Cursor), "{other:?}");
    }
    for (text, known) in [(POLICY, 8), ("permit(principal, action, resource);", 6)] {
        let other = fixture::policy(text, &entities(known));
        assert_eq!(page(&asking, &other, Some(&next), 1), Err(SearchError::Cursor));
    }
    assert_eq!(page(&asking, &policy, Some(&next), 1).unwrap().ids, ["2"]);
}

#[test]
fn a_forged_cursor_only_skips() {
    let policy = fixture::policy(POLICY, &entities(6));
    let asking = search(Open::Asset, "2", "read", "");
    let next = page(&asking, &policy, None, 1).unwrap().next.unwrap();
    let forged = Cursor { position: u32::MAX, ..next };
    let found = page(&asking, &policy, Some(&forged), 1).unwrap();
    assert_eq!(found, Found { ids: Vec::new(), next: None });
    for text in ["", "?", "AAAA", &"A".repeat(28), &"A".repeat(26), &"A".repeat(100_000)] {
        assert_eq!(Cursor::parse(text), Err(SearchError::Cursor), "{}", text.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_pages_hold_every_result_once_and_in_order(count in 0_usize..40, limit in 1_usize..12) {
        let policy = fixture::policy(POLICY, &entities(count));
        let asking = search(Open::Asset, "0", "read", "");
        let mut expected: Vec<String> = (0..count).step_by(2).map(|id| id.to_string()).collect();
        expected.sort();
        let pages = pages(&asking, &policy, limit);
        for (number, page) in (1..).zip(&pages) {
            prop_assert!(page.len() == limit || number == pages.len(), "a page of {}", page.len());
        }
        prop_assert_eq!(pages.concat(), expected);
    }

    #[test]
    fn a_cursor_comes_back(digest in any::<[u8; DIGEST_BYTES]>(), position in any::<u32>()) {
        let cursor = Cursor { digest, position };
        prop_assert_eq!(Cursor::parse(&cursor.text()), Ok(cursor));
    }

    #[test]
    fn no_text_panics(text in ".{0,64}") {
        let _ = Cursor::parse(&text);
    }
}
