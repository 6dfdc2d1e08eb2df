//! Any request target to its canonical path, under every set of allowances: what is accepted has
//! one form, holds nothing that two readers could take differently, and routes agree with it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::path::{Allowances, CanonicalPath, decoded};
use placet::route::{Pattern, Resolved, Route, Routes};

fuzz_target!(|raw: &str| {
    for choice in 0..16_u8 {
        let allow = Allowances {
            encoded_slash: choice & 1 != 0,
            double_slash: choice & 2 != 0,
            semicolon: choice & 4 != 0,
            double_encoding: choice & 8 != 0,
        };
        if let Ok(path) = CanonicalPath::parse(raw, allow) {
            check(&path, allow);
            check_routes(&path, allow);
        }
    }
});

fn check(path: &CanonicalPath, allow: Allowances) {
    let text = path.as_str();
    assert_eq!(CanonicalPath::parse(text, allow).as_ref(), Ok(path), "a fixed point");
    assert!(text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!text.contains(['\\', '#']));
    assert!(allow.semicolon || !text.contains(';'));
    assert!(allow.double_slash || !text.contains("//"));
    assert!(allow.encoded_slash || !text.contains("%2F"));
    for segment in path.segments() {
        let plain = decoded(segment);
        assert!(plain.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control()));
        assert!(!plain.contains('\\'));
        for part in plain.split('/') {
            let before_parameters = part.split(';').next().unwrap_or(part);
            assert!(!matches!(before_parameters, "." | ".."), "a dot segment in `{text}`");
        }
    }
}

fn check_routes(path: &CanonicalPath, allow: Allowances) {
    let is_whole = path.segments().all(|segment| !segment.is_empty());
    let resolved = routes("/{rest*}", "{rest}", allow).resolve("GET", path);
    let Resolved::Target(target) = resolved else {
        assert!(!is_whole, "`{path}` is in no route");
        return;
    };
    assert!(is_whole, "`{path}` has an empty segment");
    let segments: Vec<_> = path.segments().map(decoded).collect();
    assert_eq!(target.asset_id, segments.join("/"));
}

fn routes(pattern: &str, id: &str, allow: Allowances) -> Routes {
    let pattern = Pattern::parse(pattern, allow).expect("the pattern is good");
    let route = Route::target(Vec::new(), pattern, "A".to_owned(), id, "read".to_owned());
    Routes::new(vec![route.expect("the route is good")])
}
