//! A deny list: nothing panics, and what is said of it quotes none of it and is fit for a log line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::deny_list::DenyList;

fuzz_target!(|text: &[u8]| {
    let marked = [b"c4n4ry: c4n4ry\n", text].concat();
    assert!(DenyList::parse(&marked).is_err(), "an unknown list was accepted");
    for text in [text, &marked] {
        match DenyList::parse(text) {
            Ok(list) => {
                assert_eq!(list.is_empty(), list.len() == 0);
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!error.contains("c4n4ry") && !error.contains(char::is_control), "{error:?}");
            }
        }
    }
});
