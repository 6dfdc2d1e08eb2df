use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderMap, HeaderValue, Pipe, SocketAddress,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Request, TlsSession,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Timestamp, Value};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Both readings of a message, where the quick one has one; maps have no order.
fn readings(message: &[u8]) -> Option<(View<'_>, Result<CheckRequest, prost::DecodeError>)> {
    View::of(message).map(|view| (sorted(view), CheckRequest::decode(message)))
}

fn sorted(mut view: View<'_>) -> View<'_> {
    view.headers.sort();
    // Of two entries alike the last counts.
    let last: HashMap<_, _> = view.extensions.drain(..).collect();
    view.extensions = last.into_iter().collect();
    view.extensions.sort_unstable();
    view
}

fn captured() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let captures = files.filter(|path| path.extension().is_some_and(|ext| ext == "bin"));
    captures.map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn all_that_envoy_writes_is_read_here() {
    let captured = captured();
    assert!(captured.len() >= 8, "{}", captured.len());
    for (name, message) in captured {
        let (view, decoded) = readings(&message).unwrap_or_else(|| panic!("{name} is not read"));
        assert_eq!(view, sorted(View::over(&decoded.unwrap()).unwrap()), "{name}");
    }
}

#[test]
fn what_would_have_to_be_merged_is_left_to_the_general_decoder() {
    let check = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let http = HttpRequest { headers: headers.collect(), ..HttpRequest::default() };
        let request = Request { http: Some(http), ..Request::default() };
        let attributes = AttributeContext { request: Some(request), ..Default::default() };
        CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    };
    let (one, other) = (check(&[("a", "1")]), check(&[("b", "2")]));
    assert!(View::of(&one).is_some());
    assert!(View::of(&[one.clone(), other].concat()).is_none(), "two halves of one message");
    assert!(View::of(&check(&[("A", "1")])).is_none(), "a name in another case");
    let twice = HttpRequest {
        header_map: Some(HeaderMap { headers: vec![field("a", "1"), field("a", "2")] }),
        ..HttpRequest::default()
    };
    let request = Request { http: Some(twice), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..Default::default() };
    let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    assert_eq!(
        View::of(&message).unwrap().headers,
        [(b"a".as_slice(), b"1".as_slice()), (b"a", b"2")]
    );
    assert!(View::of(&[]).is_none());
    assert!(View::of(&CheckRequest::default().encode_to_vec()).is_none());
}

/// A name that a map has twice is in `HttpRequest` twice: no writer does so, a forger might.
#[test]
fn a_map_with_a_name_twice_is_left_to_the_general_decoder() {
    let entry = |value| [b"\x1a\x06\x0a\x01a\x12\x01".as_slice(), value].concat();
    let wrapped = |number: u8, message: &[u8]| {
        [&[number << 3 | 2, u8::try_from(message.len()).unwrap()], message].concat()
    };
    let message = |http: &[u8]| wrapped(1, &wrapped(4, &wrapped(2, http)));
    assert!(View::of(&message(&entry(b"1"))).is_some());
    let twice = message(&[entry(b"1"), entry(b"2")].concat());
    assert!(View::of(&twice).is_none());
    assert_eq!(
        View::over(&CheckRequest::decode(twice.as_slice()).unwrap()).unwrap().headers.len(),
        1
    );
}

#[test]
fn a_structure_is_as_deep_as_the_general_decoder_lets_it_be() {
    for depth in 1..60 {
        let mut value = Value { kind: Some(Kind::BoolValue(true)) };
        for _ in 0..depth {
            let fields = HashMap::from([("a".to_owned(), value)]);
            value = Value { kind: Some(Kind::StructValue(Struct { fields })) };
        }
        let fields = Struct { fields: HashMap::from([("a".to_owned(), value)]) };
        let metadata = Metadata {
            filter_metadata: HashMap::from([("n".to_owned(), fields)]),
            ..Metadata::default()
        };
        let request = Request { http: Some(HttpRequest::default()), ..Request::default() };
        let attributes = AttributeContext {
            request: Some(request),
            metadata_context: Some(metadata),
            ..Default::default()
        };
        let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
        let decoded = CheckRequest::decode(message.as_slice());
        assert_eq!(View::of(&message).is_some(), decoded.is_ok(), "{depth}");
    }
}

fn field(key: &str, value: &str) -> HeaderValue {
    HeaderValue { key: key.to_owned(), value: value.to_owned(), ..HeaderValue::default() }
}

fn short() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z:A-Z-]{0,6}", "\\PC{0,4}"]
}

prop_compose! {
    fn http()(
        texts in prop::array::uniform6(short()),
        headers in prop::option::of(prop::collection::hash_map("[a-z:-]{0,4}", short(), 0..6)),
        raw in prop::option::of(prop::collection::vec(("[a-z:A]{0,3}", any::<[u8; 3]>(), any::<bool>()), 0..5)),
        bodies in (short(), prop::collection::vec(any::<u8>(), 0..5)),
        size in any::<i64>(),
    ) -> HttpRequest {
        let [id, method, path, host, scheme, protocol] = texts;
        let raw = raw.map(|fields| HeaderMap {
            headers: fields.into_iter().map(|(key, raw, is_raw)| HeaderValue {
                key,
                value: "v".to_owned(),
                raw_value: if is_raw { raw.to_vec() } else { Vec::new() },
            }).collect(),
        });
        HttpRequest {
            id, method, path, host, scheme, protocol, size,
            headers: headers.unwrap_or_default(),
            header_map: raw,
            body: bodies.0,
            raw_body: bodies.1,
            ..HttpRequest::default()
        }
    }
}

prop_compose! {
    fn peer_message()(
        texts in prop::array::uniform4(short()),
        port in any::<u32>(),
        kind in 0..3,
        labels in prop::collection::hash_map(short(), short(), 0..2),
    ) -> attribute_context::Peer {
        let [ip, service, principal, certificate] = texts;
        let address = match kind {
            0 => None,
            1 => Some(address::Address::Pipe(Pipe { path: ip, mode: port })),
            _ => Some(address::Address::SocketAddress(SocketAddress {
                address: ip,
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..SocketAddress::default()
            })),
        };
        let address = address.map(|address| Address { address: Some(address) });
        attribute_context::Peer { address, service, principal, certificate, labels }
    }
}

prop_compose! {
    fn check()(
        http in http(),
        peers in (prop::option::of(peer_message()), prop::option::of(peer_message())),
        time in prop::option::of((any::<i64>(), any::<i32>())),
        extensions in prop::collection::hash_map(short(), short(), 0..3),
        sni in prop::option::of(short()),
        metadata in prop::option::of(short()),
    ) -> CheckRequest {
        let time = time.map(|(seconds, nanos)| Timestamp { seconds, nanos });
        let metadata = metadata.map(|text| {
            let value = Value { kind: Some(Kind::StringValue(text.clone())) };
            let fields = Struct { fields: HashMap::from([("f".to_owned(), value)]) };
            let filter_metadata = HashMap::from([(text, fields)]);
            Metadata { filter_metadata, ..Metadata::default() }
        });
        CheckRequest {
            attributes: Some(AttributeContext {
                source: peers.0,
                destination: peers.1,
                request: Some(Request { time, http: Some(http) }),
                context_extensions: extensions,
                metadata_context: metadata.clone(),
                route_metadata_context: metadata,
                tls_session: sni.map(|sni| TlsSession { sni }),
            }),
        }
    }
}

/// Whatever the quick reader reads, the general one reads the same.
fn agree(message: &[u8]) -> Result<(), TestCaseError> {
    let Some((view, decoded)) = readings(message) else { return Ok(()) };
    let decoded = decoded.map_err(|error| TestCaseError::fail(format!("{view:?}: {error}")))?;
    let general = View::over(&decoded).map(sorted);
    prop_assert_eq!(Some(view), general);
    Ok(())
}

proptest! {
    #[test]
    fn what_is_read_is_what_the_general_decoder_reads(check in check()) {
        agree(&check.encode_to_vec())?;
    }

    #[test]
    fn nor_do_they_differ_on_what_is_spoiled(
        check in check(),
        other in check(),
        spoils in prop::collection::vec((any::<Index>(), any::<u8>(), 0..5), 1..6),
    ) {
        let mut message = check.encode_to_vec();
        for (at, byte, how) in spoils {
            let place = at.index(message.len() + 1);
            match how {
                0 => if let Some(old) = message.get_mut(place) { *old = byte },
                1 => if let Some(old) = message.get_mut(place) { *old = old.wrapping_add(1) },
                2 => message.insert(place, byte),
                3 => message.truncate(place),
                _ => message.splice(place..place, other.encode_to_vec()).for_each(drop),
            }
            agree(&message)?;
        }
    }

    #[test]
    fn nor_on_captures_that_are_spoiled(
        which in any::<Index>(),
        spoils in prop::collection::vec((any::<Index>(), any::<u8>()), 1..8),
    ) {
        let captured = captured();
        let mut message = which.get(&captured).1.clone();
        for (at, byte) in spoils {
            *at.get_mut(&mut message) = byte;
            agree(&message)?;
        }
    }
}

proptest! {
    #[test]
    fn a_name_is_ascii_without_capital_letters(bytes: Vec<u8>, ascii in "[ -~]{0,40}") {
        let slowly = |bytes: &[u8]| bytes.iter().all(|it| it.is_ascii() && !it.is_ascii_uppercase());
        for name in [&bytes[..], ascii.as_bytes(), ascii.to_lowercase().as_bytes()] {
            prop_assert_eq!(is_name(name), slowly(name));
        }
    }
}

#[test]
fn of_each_byte_is_known_whether_it_is_of_a_name() {
    for byte in 0..=u8::MAX {
        let is_of_one = byte.is_ascii() && !byte.is_ascii_uppercase();
        for place in 0..20 {
            let mut name = [b'a'; 20];
            name[place] = byte;
            assert_eq!(is_name(&name), is_of_one, "{byte} at {place}");
        }
    }
}
