//! The template of a key id: what is accepted renders into one line, and without any of its own
//! braces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::keys::KeyIdTemplate;

fuzz_target!(|text: &str| match KeyIdTemplate::parse(text) {
    Ok(template) => {
        let rendered = template.render("orders", "7", "thumbprint");
        assert!(!rendered.is_empty());
        assert!(!rendered.contains(char::is_control) && !rendered.contains(['{', '}']));
    }
    Err(error) => assert!(!error.to_string().contains('\n')),
});
