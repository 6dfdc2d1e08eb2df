//! The body of an AuthZEN request: nothing panics, what is read names everyone and everything it is
//! about, and a page is bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::api::question::{self, Evaluations};
use placet::authorizer::Statement;
use placet::search::{Cursor, Open};
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data)
        && let Ok(cursor) = Cursor::parse(text)
    {
        assert_eq!(cursor.text(), text);
    }
    let Ok(body) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    let single = question::single(&body);
    if let Ok(single) = &single {
        check(&single.statement);
    }
    match question::evaluations(&body) {
        Ok(Evaluations::Single(read)) => {
            assert_eq!(single.unwrap().statement.target, read.statement.target);
        }
        Ok(Evaluations::Batch(batch)) => {
            assert!((1..=1_000).contains(&batch.items.len()));
            batch.items.iter().flatten().for_each(check);
        }
        Err(_) => {}
    }
    for open in [Open::Subject, Open::Asset, Open::Action] {
        if let Ok(read) = question::search(open, &body) {
            assert!((1..=1_000).contains(&read.limit));
            assert_eq!(read.search.principal.issuer, None);
        }
    }
});

fn check(statement: &Statement) {
    let Statement { principal, target, .. } = statement;
    assert!(!principal.entity_type.is_empty() && !principal.id.is_empty());
    assert!(!matches!(principal.entity_type.as_str(), "Group" | "Action"));
    assert!(principal.issuer.is_none() && principal.peer.is_none());
    assert!(!target.asset_type.is_empty() && !target.asset_id.is_empty());
    assert!(!target.action.is_empty());
}
