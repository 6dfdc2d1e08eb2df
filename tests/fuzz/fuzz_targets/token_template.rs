//! A template, a delimiter and values: whatever the values hold, a reader that splits the claim at
//! the delimiter finds as many items as were written.

#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use placet::route::Target;
use placet::token::Template;

#[derive(Arbitrary, Debug)]
struct Input {
    template: String,
    delimiter: Option<String>,
    values: Vec<[String; 3]>,
}

fuzz_target!(|input: Input| {
    let Input { template: text, delimiter, values } = input;
    let template = match Template::parse(&text, delimiter.as_deref()) {
        Ok(template) => template,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let rendered: Vec<_> = values.iter().map(|value| item(&template, value)).collect();
    let Some(delimiter) = delimiter.filter(|delimiter| !delimiter.is_empty()) else { return };
    if values.is_empty() || values.iter().flatten().any(String::is_empty) {
        return;
    }
    // What a value of one harmless character would make: a template may hold its own delimiter.
    let Some(harmless) = ['x', 'y', '~', '\u{e000}']
        .into_iter()
        .find(|harmless| !delimiter.contains(*harmless) && !text.contains(*harmless))
    else {
        return;
    };
    let plain = item(&template, &[(); 3].map(|()| harmless.to_string()));
    let expected = vec![plain; values.len()].join(&delimiter).split(&delimiter).count();
    let claim = rendered.join(&delimiter);
    assert_eq!(claim.split(&delimiter).count(), expected, "a value forged an item in {claim:?}");
});

/// One item, in which every attribute is the asset's id.
fn item(template: &Template, value: &[String; 3]) -> String {
    let attribute = |_: &str| Ok::<_, Infallible>(value[1].clone());
    template.render(&target(value), attribute).unwrap()
}

fn target([asset_type, asset_id, action]: &[String; 3]) -> Target {
    Target { asset_type: asset_type.clone(), asset_id: asset_id.clone(), action: action.clone() }
}
