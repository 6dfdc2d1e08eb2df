//! A credential or a reference to one: a text without double braces is itself, one with them is
//! never passed on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::secrets::reference::resolve;

const VALUE: &str = "the value of a variable";

fuzz_target!(|text: &str| {
    let has_braces = text.contains("{{") || text.contains("}}");
    match resolve(text, &|name| (name == "SET").then(|| VALUE.to_owned())) {
        Ok(secret) if has_braces => assert_eq!(secret.expose(), VALUE),
        Ok(secret) => assert_eq!(secret.expose(), text),
        Err(error) => assert!(has_braces && !error.to_string().contains('\n')),
    }
});
