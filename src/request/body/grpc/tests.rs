//! Messages of a small service: what its methods take is shown, and nothing else is.

use proptest::prelude::*;
use std::sync::LazyLock;

use prost::Message;
use prost_types::Any;
use serde_json::json;

use super::*;

const ORDERS: &str = r#"
    syntax = "proto3";
    package shop.v1;
    import "google/protobuf/any.proto";
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    enum Kind { UNKNOWN = 0; GIFT = 1; }
    message Order {
        string account_id = 1;
        int64 amount = 2;
        repeated string tags = 3;
        bytes note = 4;
        Kind kind = 5;
        map<string, double> rates = 6;
        Order child = 7;
        google.protobuf.Any extra = 8;
        google.protobuf.Timestamp at = 9;
        float rate = 10;
        oneof by { string card = 11; bool cash = 12; }
        google.protobuf.FloatValue weight = 13;
    }
    service Orders {
        rpc Place(Order) returns (Order);
        rpc Watch(Order) returns (stream Order);
        rpc Upload(stream Order) returns (Order);
    }
"#;

/// The same message, written by another hand.
#[derive(Clone, PartialEq, Message)]
struct Order {
    #[prost(string, tag = "1")]
    account_id: String,
    #[prost(int64, tag = "2")]
    amount: i64,
    #[prost(string, repeated, tag = "3")]
    tags: Vec<String>,
    #[prost(bytes = "vec", tag = "4")]
    note: Vec<u8>,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(btree_map = "string, double", tag = "6")]
    rates: std::collections::BTreeMap<String, f64>,
    #[prost(message, optional, boxed, tag = "7")]
    child: Option<Box<Self>>,
    #[prost(message, optional, tag = "8")]
    extra: Option<Any>,
    #[prost(message, optional, tag = "9")]
    at: Option<prost_types::Timestamp>,
    #[prost(float, tag = "10")]
    rate: f32,
    #[prost(string, optional, tag = "11")]
    card: Option<String>,
    /// A field that the descriptors don't name.
    #[prost(string, tag = "99")]
    secret: String,
}

fn set(source: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("orders.proto"), source).unwrap();
    protox::compile(["orders.proto"], [folder.path()]).unwrap().encode_to_vec()
}

static KNOWN: LazyLock<Descriptors> = LazyLock::new(|| Descriptors::parse(set(ORDERS)).unwrap());

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [[0].as_slice(), &length, message].concat()
}

fn place(order: &Order) -> Result<Option<Value>, BodyFault> {
    KNOWN.read("/shop.v1.Orders/Place", &framed(&order.encode_to_vec()))
}

fn packed(order: &Order) -> Any {
    Any { type_url: "type.googleapis.com/shop.v1.Order".to_owned(), value: order.encode_to_vec() }
}

#[test]
fn a_message_is_its_protobuf_json() {
    let order = Order {
        account_id: "7".to_owned(),
        amount: 9_007_199_254_740_993,
        tags: vec!["a".to_owned(), "a".to_owned()],
        note: vec![0, 255],
        kind: 1,
        rates: [("x".to_owned(), 1.5)].into(),
        child: Some(Box::new(Order { kind: 5, ..Order::default() })),
        extra: Some(packed(&Order { amount: -1, ..Order::default() })),
        at: Some(prost_types::Timestamp { seconds: 0, nanos: 1_000_000 }),
        rate: 0.1,
        card: Some(String::new()),
        secret: "unseen".to_owned(),
    };
    let expected = json!({
        "accountId": "7",
        "amount": "9007199254740993",
        "tags": ["a", "a"],
        "note": "AP8=",
        "kind": "GIFT",
        "rates": {"x": 1.5},
        "child": {"kind": 5},
        "extra": {"@type": "type.googleapis.com/shop.v1.Order", "amount": "-1"},
        "at": "1970-01-01T00:00:00.001Z",
        "rate": 0.1,
        "card": "",
    });
    assert_eq!(place(&order), Ok(Some(expected)));
    assert_eq!(place(&Order::default()), Ok(Some(json!({}))));
    let watched = KNOWN.read("/shop.v1.Orders/Watch", &framed(b""));
    assert_eq!(watched, Ok(Some(json!({}))));
}

#[test]
fn what_is_not_known_is_not_read() {
    for path in [
        "/",
        "/shop.v1.Orders",
        "/shop.v1.Orders/",
        "/shop.v1.Orders/Cancel",
        "/shop.v1.orders/Place",
        "/shop.v1.Orders/Place/",
        "/Orders/Place",
        "/x/shop.v1.Orders/Place",
        "/shop.v1.Orders/Upload",
    ] {
        assert_eq!(KNOWN.read(path, b"no frame"), Ok(None), "{path}");
    }
    assert_eq!(KNOWN.read("/shop.v1.Orders/Place", b"\x01\0\0\0\x01\x1f"), Ok(None), "compressed");
}

#[test]
fn the_body_is_exactly_one_message_of_the_method() {
    let read = |body: &[u8]| KNOWN.read("/shop.v1.Orders/Place", body);
    let one = framed(b"\x0a\x01a");
    assert_eq!(read(&one), Ok(Some(json!({"accountId": "a"}))));
    let two = [one.clone(), one.clone()].concat();
    for body in [
        b"".as_slice(),
        b"\0\0\0\0",
        &one[..7],
        &[&one, b"\0".as_slice()].concat(),
        &two,
        b"\x02\0\0\0\0",
        b"\x01\0\0\0\x01",
    ] {
        assert_eq!(read(body), Err(GrpcFault::Frame.into()), "{body:?}");
    }
    for message in
        [b"\x0a".as_slice(), b"\x0a\x01\xff", b"\x09\x01", b"\x0a\x05a", b"\x00\x00", b"\x4b"]
    {
        assert_eq!(read(&framed(message)), Err(GrpcFault::Message.into()), "{message:?}");
    }
}

#[test]
fn nesting_is_bounded_within_any_too() {
    let nested = |depth: usize| {
        (1..depth).fold(Order::default(), |child, _| Order {
            child: Some(Box::new(child)),
            ..Order::default()
        })
    };
    assert!(place(&nested(DEPTH)).is_ok());
    assert_eq!(place(&nested(DEPTH + 1)), Err(GrpcFault::TooDeep.into()));
    let mut chain = Order::default();
    for _ in 0..5_000 {
        chain = Order { extra: Some(packed(&chain)), ..Order::default() };
    }
    assert_eq!(place(&chain), Err(GrpcFault::TooDeep.into()));
    let unknown =
        Any { type_url: "type.googleapis.com/shop.v1.Other".to_owned(), value: Vec::new() };
    let unknown = Order { extra: Some(unknown), ..Order::default() };
    assert_eq!(place(&unknown), Err(GrpcFault::Message.into()));
}

#[test]
fn what_tells_nothing_of_methods_is_refused() {
    let mut lacking = prost_types::FileDescriptorSet::decode(set(ORDERS).as_slice()).unwrap();
    lacking.file.retain(|file| !file.name().starts_with("google"));
    let bad = |bytes: Vec<u8>| Descriptors::parse(bytes).unwrap_err().to_string();
    for text in [bad(b"syntax = \"proto3\";".to_vec()), bad(lacking.encode_to_vec())] {
        assert!(text.contains("--include_imports") && !text.contains('\n'), "{text}");
    }
    for set in [Vec::new(), set("syntax = \"proto3\"; message A {}")] {
        assert!(bad(set).contains("no service"));
    }
}

proptest! {
    #[test]
    fn what_another_writes_is_read(account_id in any::<String>(), amount in any::<i64>(), tags in proptest::collection::vec(any::<String>(), 0..4)) {
        let order = Order { account_id: account_id.clone(), amount, tags: tags.clone(), ..Order::default() };
        let read = place(&order).unwrap().unwrap();
        prop_assert_eq!(read.get("accountId").map_or("", |text| text.as_str().unwrap()), account_id);
        prop_assert_eq!(read.get("amount").map_or("0".to_owned(), |text| text.as_str().unwrap().to_owned()), amount.to_string());
        prop_assert_eq!(read.get("tags").cloned().unwrap_or(json!([])), json!(tags));
    }

    #[test]
    fn no_message_panics(message in any::<Vec<u8>>()) {
            let _ = KNOWN.read("/shop.v1.Orders/Place", &framed(&message));
        let _ = KNOWN.read("/shop.v1.Orders/Place", &message);
        let _ = Descriptors::parse(message);
    }
}
