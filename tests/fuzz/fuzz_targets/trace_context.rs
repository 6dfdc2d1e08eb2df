//! Header fields that name a trace (W3C, B3): what is read stood there, a field that came twice says
//! nothing, and neither others nor what B3 says take a well-formed `traceparent` away.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::trace::Incoming;

type Field<'a> = (&'a [u8], &'a [u8]);

fuzz_target!(|data: &[u8]| {
    // A field a line: its name, a colon, and its value.
    let fields: Vec<Field<'_>> = data.split(|byte| *byte == b'\n').filter_map(field).collect();
    let found = Incoming::among(fields.iter().copied());

    let twice = fields.iter().chain(&fields).copied();
    assert_eq!(Incoming::among(twice), None);
    let others = [(&b"tracestate"[..], data), (&b"x-b3-parentspanid"[..], data)];
    assert_eq!(Incoming::among(others.into_iter().chain(fields.iter().copied())), found);

    let Some(Incoming::Within { trace, span, sampled }) = found else { return };
    let (trace_hex, span_hex) = (trace.to_string(), span.to_string());
    let text = String::from_utf8_lossy(data).to_ascii_lowercase();
    assert!(trace.bytes() != [0; 16] && span.bytes() != [0; 8]);
    assert!(text.contains(&span_hex) && text.contains(&trace_hex[16..]));
    assert!(trace_hex.starts_with(&"0".repeat(16)) || text.contains(&trace_hex));

    let is_sampled = sampled == Some(true);
    let written = format!("00-{trace_hex}-{span_hex}-0{}", u8::from(is_sampled));
    let rest = fields.iter().copied().filter(|(name, _)| name != b"traceparent");
    let anew = rest.chain([(&b"traceparent"[..], written.as_bytes())]);
    let same = Incoming::Within { trace, span, sampled: Some(is_sampled) };
    assert_eq!(Incoming::among(anew), Some(same));
});

fn field(line: &[u8]) -> Option<Field<'_>> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], &line[colon + 1..]))
}
