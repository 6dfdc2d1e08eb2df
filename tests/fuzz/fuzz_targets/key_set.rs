//! An issuer's JWK set: nothing panics, a set that is read has a key, and what is said of the keys
//! left out is fit for a log line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::identity::KeySet;

fuzz_target!(|text: &[u8]| match KeySet::parse(text) {
    Ok(set) => {
        assert!(set.count() > 0);
        for unused in set.unused() {
            check_prose(&unused.kid.to_string());
            check_prose(unused.reason);
        }
        check_prose(&format!("{set:?}"));
    }
    Err(error) => check_prose(&error.to_string()),
});

fn check_prose(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
