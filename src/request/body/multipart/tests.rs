//! Forms as clients write them, forms that two readers could read differently, and what comes back of
//! what is written; another reader, which forgives, must read what we read.

use futures_util::{FutureExt, stream};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";

fn of(parameters: &str, body: &[u8]) -> Result<Fields, BodyFault> {
    read(body, &Parameters::parse(parameters).unwrap())
}

fn fields(body: &[u8]) -> Result<Fields, BodyFault> {
    of(&format!("boundary={BOUNDARY}"), body)
}

/// A form of parts, each of its headers and its content.
fn written(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (headers, content) in parts {
        body.extend(format!("--{BOUNDARY}\r\n{headers}\r\n\r\n").bytes());
        body.extend_from_slice(content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    body
}

fn one(headers: &str, content: &[u8]) -> Result<Value, BodyFault> {
    let fields = fields(&written(&[(headers, content)]))?;
    assert_eq!(fields.len(), 1, "{fields:?}");
    Ok(fields.into_values().next().unwrap().pop().unwrap())
}

const NAMED: &str = "Content-Disposition: form-data; name=\"a\"";

#[test]
fn a_form_is_read_as_clients_write_it() {
    let body = written(&[
        ("Content-Disposition: form-data; name=\"amount\"", b"7"),
        ("content-disposition: form-data; name=amount", b"8\r\n--\r\n"),
        (
            "Content-Disposition: form-data; name=\"note\"\r\nContent-Type: text/plain; charset=UTF-8",
            "é".as_bytes(),
        ),
        (
            "Content-Disposition: form-data; name=\"order\"\r\nContent-Type: application/json",
            br#"{"id": [1]}"#,
        ),
        (
            "Content-Disposition: form-data; name=\"order\"; filename=\"a; name=b.png\"; filename*=utf-8''a.png\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\nContent-Length: 2",
            b"\x89P",
        ),
        ("Content-Disposition: form-data; name=\"empty\"", b""),
    ]);
    let expected = json!({
        "amount": ["7", "8\r\n--\r\n"],
        "note": ["é"],
        "order": [{"id": [1]}, null],
        "empty": [""],
    });
    assert_eq!(json!(fields(&body).unwrap()), expected);
    let without_last_line_end = body.strip_suffix(b"\r\n").unwrap();
    assert_eq!(json!(fields(without_last_line_end).unwrap()), expected);
    assert!(fields(&written(&[])).unwrap().is_empty());
}

#[test]
fn one_valid_boundary_is_named() {
    let body = b"--x y--".as_slice();
    assert!(of("boundary=\"x y\"; charset=utf-8", body).unwrap().is_empty());
    let long = format!("boundary={}", "x".repeat(71));
    for parameters in [
        "",
        "boundary=\"\"",
        "boundary=x; boundary=x",
        "boundary=\"x \"",
        "boundary=\"x@y\"",
        &long,
    ] {
        assert_eq!(of(parameters, b"--x--"), Err(MultipartFault::Boundary.into()), "{parameters}");
    }
}

#[test]
fn the_boundaries_enclose_the_parts() {
    let [head, content] = ["Content-Disposition: form-data; name=a", "1"];
    for body in [
        String::new(),
        "--x".to_owned(),
        "--x\r\n".to_owned(),
        "--x-".to_owned(),
        "--x--\r\n\r\n".to_owned(),
        "--x--trailing".to_owned(),
        "preamble\r\n--x--".to_owned(),
        "\r\n--x--".to_owned(),
        "--X--".to_owned(),
        format!("--x\r\n{head}\r\n\r\n{content}"),
        format!("--x\r\n{head}\r\n\r\n{content}\r\n"),
        format!("--x\r\n{head}\r\n\r\n{content}\r\n--x\r\n"),
        format!("--x\r\n{head}\r\n\r\n{content}\n--x--"),
        format!("--x\n{head}\n\n{content}\n--x--"),
        format!("--x \r\n{head}\r\n\r\n{content}\r\n--x--"),
        format!("--x\r\n{head}\r\n\r\n{content}\r\n--x--\r\n--x\r\n{head}\r\n\r\n2\r\n--x--"),
        format!("--x\r\n{head}\r\n\r\n{content}\r\n--xy\r\n--x--"),
        format!("--x\r\n{head}\r\n\r\na --x b\r\n--x--"),
        "--x\r\n--x--".to_owned(),
    ] {
        let refused = of("boundary=x", body.as_bytes());
        assert_eq!(refused, Err(MultipartFault::Frame.into()), "{body:?}");
    }
    let parts = |count| written(&vec![(NAMED, b"1".as_slice()); count]);
    assert_eq!(fields(&parts(PART_LIMIT)).unwrap()["a"].len(), PART_LIMIT);
    assert_eq!(fields(&parts(PART_LIMIT + 1)), Err(MultipartFault::Parts.into()));
}

#[test]
fn the_headers_of_a_part_are_read_in_one_way() {
    let long = format!("{NAMED}\r\nX-A: {}", "a".repeat(HEADER_LIMIT));
    for headers in [
        "",
        "Content-Disposition",
        &format!("{NAMED}\r\nContent-Disposition: form-data; name=\"b\""),
        &format!("{NAMED}\r\ncontent-type: text/plain\r\nContent-Type: application/json"),
        &format!("{NAMED}\nX-A: b"),
        &format!("{NAMED}\rX-A: b"),
        &format!("{NAMED};\r\n filename=\"b\""),
        &format!("{NAMED}\r\nX A: b"),
        &format!("{NAMED}\r\nX-A : b"),
        &format!("{NAMED}\r\nX-A: \0"),
        &format!("{NAMED}\r\nContent-Type: text/plain; charset"),
        &format!("{NAMED}\r\nContent-Type: text/plain, application/json"),
        &long,
    ] {
        assert_eq!(one(headers, b"1"), Err(MultipartFault::Headers.into()), "{headers:?}");
    }
    assert_eq!(of("boundary=x", b"--x\r\n\r\n--x--"), Err(MultipartFault::Headers.into()));
    let latin = [b"--x\r\n", NAMED.as_bytes(), b"; filename=\"\xe9\"\r\n\r\n1\r\n--x--"].concat();
    assert_eq!(of("boundary=x", &latin), Err(MultipartFault::Headers.into()));
}

#[test]
fn a_part_has_one_name() {
    for disposition in [
        "form-data",
        "form-data;",
        "form-data; filename=\"a\"",
        "form-data; name=\"\"",
        "form-data; name=\"a\"; name=\"a\"",
        "form-data; name=\"a\"; NAME=\"b\"",
        "form-data; name=\"a\"; name*=utf-8''b",
        "form-data; name=\"a\"; filename=\"b\"; filename=\"c\"",
        r#"form-data; name="a\"; filename="b""#,
        r#"form-data; name="a"; filename="C:\b""#,
        "attachment; name=\"a\"",
        "name=\"a\"",
    ] {
        let refused = one(&format!("Content-Disposition: {disposition}"), b"1");
        assert_eq!(refused, Err(MultipartFault::Name.into()), "{disposition}");
    }
    assert_eq!(one("Content-Type: text/plain", b"1"), Err(MultipartFault::Name.into()));
}

#[test]
fn what_is_no_text_is_a_file_or_refused() {
    let file = format!("{NAMED}; filename=\"f\"");
    assert_eq!(one(NAMED, b"\xff"), Err(BodyFault::Form));
    assert_eq!(one(&file, b"\xff"), Ok(Value::Null));
    assert_eq!(one(&file, b"text"), Ok("text".into()));
    let latin = "\r\nContent-Type: text/plain; charset=iso-8859-1";
    assert_eq!(one(&format!("{NAMED}{latin}"), b"a"), Err(BodyFault::Charset));
    assert_eq!(one(&format!("{file}{latin}"), b"a"), Ok(Value::Null));
    let json = "\r\nContent-Type: Application/JSON";
    let fault = BodyFault::Json(crate::json::JsonFault::Duplicate);
    assert_eq!(one(&format!("{file}{json}"), br#"{"a":1,"a":2}"#), Err(fault));
    let utf16 = format!("{file}{json}; charset=utf-16");
    assert_eq!(one(&utf16, b"{}"), Err(BodyFault::Charset));
    for header in [
        "Content-Transfer-Encoding: base64",
        "Content-Transfer-Encoding: quoted-printable",
        "Content-Type: multipart/mixed; boundary=y",
    ] {
        let refused = one(&format!("{NAMED}\r\n{header}"), b"YQ==");
        assert_eq!(refused, Err(MultipartFault::Encoding.into()), "{header}");
    }
    let charset = "Content-Disposition: form-data; name=\"_charset_\"";
    assert_eq!(one(charset, b"utf-7"), Err(BodyFault::Charset));
    assert_eq!(one(charset, b"UTF-8"), Ok("UTF-8".into()));
}

/// The names and contents that a reader sees that forgives more than we do.
fn forgiving(body: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let chunks = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(body))]);
    let mut form = multer::Multipart::new(chunks, BOUNDARY);
    let mut parts = Vec::new();
    while let Some(field) = form.next_field().now_or_never()?.ok()? {
        let name = field.name()?.to_owned();
        parts.push((name, field.bytes().now_or_never()?.ok()?.to_vec()));
    }
    Some(parts)
}

proptest! {
    #[test]
    fn what_is_written_comes_back(parts in proptest::collection::vec((r#"[^"\\\pC]{1,12}"#, any::<String>(), any::<bool>()), 0..6)) {
        let contents: Vec<(String, &[u8])> = parts.iter().map(|(name, text, is_file)| {
            let file = if *is_file { "; filename=\"name=x\"" } else { "" };
            (format!("Content-Disposition: form-data; name=\"{name}\"{file}"), text.as_bytes())
        }).collect();
        let borrowed: Vec<(&str, &[u8])> = contents.iter().map(|(headers, text)| (headers.as_str(), *text)).collect();
        let body = written(&borrowed);
        let mut expected = Fields::new();
        for (name, text, _) in &parts {
            expected.entry(name.clone()).or_default().push(text.as_str().into());
        }
        prop_assert_eq!(fields(&body), Ok(expected));
        let others = parts.iter().map(|(name, text, _)| (name.clone(), text.clone().into_bytes())).collect();
        prop_assert_eq!(forgiving(&body), Some(others));
    }

    #[test]
    fn what_is_read_another_reader_reads_too(pieces in proptest::collection::vec(prop_oneof![
        Just("\r\n"), Just("\r\n\r\n"), Just("\n"), Just("--"), Just(BOUNDARY), Just(NAMED), Just(";"),
        Just("; filename=\"b\""), Just("X: y"), Just("text"), Just("; name=\"c\""),
    ], 0..40)) {
        let text: String = pieces.concat();
        let body = format!("--{BOUNDARY}\r\n{NAMED}{text}\r\n--{BOUNDARY}--");
        if let Ok(fields) = fields(body.as_bytes()) {
            let read = fields.into_iter().flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)));
            let ours: Vec<_> = read.map(|(name, value)| (name, value.as_str().unwrap().as_bytes().to_vec())).collect();
            prop_assert_eq!(Some(ours), forgiving(body.as_bytes()));
        }
    }

    #[test]
    fn no_body_panics(body in any::<Vec<u8>>()) {
        let _ = fields(&body);
        let _ = one(&format!("{NAMED}\r\nContent-Type: application/json"), &body);
    }
}
