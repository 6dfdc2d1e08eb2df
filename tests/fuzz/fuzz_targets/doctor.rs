//! A proxy's configuration: nothing panics, and each finding is a line with a place and a remedy.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::doctor::{Expected, Source, examine};

fuzz_target!(|text: &str| {
    let expected = Expected::by_default().expect("the default header");
    let source = Source { name: "fuzzed".to_owned(), text: text.to_owned() };
    for finding in examine(&[source], &expected).unwrap_or_default() {
        assert!(!finding.what.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
    }
});
