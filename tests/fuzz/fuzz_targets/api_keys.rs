//! A list of API keys: nothing panics, and what is said of it quotes none of it and is fit for a log
//! line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::identity::ApiKeys;

fuzz_target!(|text: &[u8]| {
    let marked = [b"c4n4ry: c4n4ry\n", text].concat();
    assert!(ApiKeys::parse(&marked).is_err(), "an entry that is no map was accepted");
    for text in [text, &marked] {
        if let Err(error) = ApiKeys::parse(text) {
            assert!(!error.contains("c4n4ry") && !error.contains(char::is_control), "{error:?}");
        }
    }
});
