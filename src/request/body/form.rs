//! `application/x-www-form-urlencoded`: the WHATWG form, refused where it would replace bytes that
//! are no text.

use percent_encoding::percent_decode;

use super::{BodyFault, Fields};

/// Reads `bytes` as a form.
pub(super) fn read(bytes: &[u8]) -> Result<Fields, BodyFault> {
    if percent_decode(bytes).decode_utf8().is_err() {
        return Err(BodyFault::Form);
    }
    let mut fields = Fields::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        fields.entry(name.into_owned()).or_default().push(value.into_owned().into());
    }
    Ok(fields)
}
