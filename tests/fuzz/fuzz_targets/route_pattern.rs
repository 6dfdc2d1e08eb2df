//! A route as written in the settings, and a request. The input is four lines: the pattern, the
//! asset id, the method, the path.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::path::{Allowances, CanonicalPath};
use placet::route::{Pattern, Resolved, Route, Routes};

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (written, id, method, raw) = (line(), line(), line(), line());
    let allow = Allowances::default();
    let pattern = match Pattern::parse(written, allow) {
        Ok(pattern) => pattern,
        Err(error) => return check_prose(&error.to_string()),
    };
    let route = Route::target(Vec::new(), pattern.clone(), "A".to_owned(), id, "read".to_owned());
    let route = match route {
        Ok(route) => route,
        Err(error) => return check_prose(&error.to_string()),
    };
    let routes = Routes::new(vec![route]);
    if let Ok(path) = CanonicalPath::parse(raw, allow) {
        let bypass = Routes::new(vec![Route::bypass(Vec::new(), pattern)]);
        let is_bypass = bypass.resolve(method, &path) == Resolved::Bypass;
        let is_target = matches!(routes.resolve(method, &path), Resolved::Target(_));
        assert_eq!(is_bypass, is_target, "one pattern, two answers");
        if !written.contains('{') {
            let is_same = CanonicalPath::parse(written, allow).as_ref() == Ok(&path);
            assert_eq!(is_target, is_same, "a pattern without variables is one path");
        }
    }
});

fn check_prose(error: &str) {
    assert!(!error.is_empty() && !error.contains('\n'), "an error text is one line: {error:?}");
}
