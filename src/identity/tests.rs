//! What authenticates, and what must not: each attack beside the token it was made from.

use aws_lc_rs::digest;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixture::*;
use super::jwks::{IssuerKeys, Pace};
use super::*;
use crate::json::JsonFault;
use crate::keys::Algorithm;

/// Why `request` is refused by an issuer as configured by `settings`; panics if it is not.
#[track_caller]
fn refused(settings: IdentitySettings, request: &Request) -> BadToken {
    match identity(settings).authenticate_now(request, NOW) {
        Err(Refusal::BadToken(cause)) => cause,
        other => panic!("{other:?}"),
    }
}

/// The cause the usual settings refuse `token` for.
#[track_caller]
fn cause(token: &str) -> BadToken {
    refused(settings(), &bearing(token))
}

#[track_caller]
fn accepted(token: &str) -> Principal {
    identity(settings()).authenticate_now(&bearing(token), NOW).unwrap()
}

fn excerpt(text: &str) -> Excerpt {
    Excerpt::new(text)
}

#[test]
fn a_good_token_is_its_subject() {
    let principal = accepted(&token(&header(), &claims()));
    assert_eq!(
        principal,
        Principal {
            kind: PrincipalKind::Jwt,
            entity_type: "User".to_owned(),
            id: "alice".to_owned(),
            subject: Some("alice".to_owned()),
            issuer: Some(ISSUER.to_owned()),
            groups: vec!["eng".to_owned(), "oncall".to_owned()],
            claims: claims().as_object().unwrap().clone(),
            expires: Some(Timestamp::from_seconds(NOW.seconds() + 300)),
            peer: None,
        }
    );
}

#[test]
fn every_algorithm_verifies_and_only_as_itself() {
    for algorithm in Algorithm::ALL {
        let kid = match algorithm {
            Algorithm::ES256 => "p256",
            Algorithm::ES384 => "p384",
            Algorithm::EdDsa => "ed",
            _ => "rsa",
        };
        let header = json!({"alg": algorithm.name(), "kid": kid}).to_string();
        let key = TestKey::of(algorithm);
        let good = token_of(&header, claims().to_string(), key, algorithm);
        assert_eq!(accepted(&good).id, "alice", "{algorithm}");

        let mut only = settings();
        only.issuers[0].algorithms.retain(|accepted| *accepted != algorithm);
        assert_eq!(
            refused(only, &bearing(&good)),
            BadToken::AlgorithmNotAccepted { alg: algorithm }
        );

        for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
            let header = json!({"alg": other.name(), "kid": kid}).to_string();
            let confused = token_of(header, claims().to_string(), key, algorithm);
            let expected = match (algorithm, other) {
                (Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDsa, _)
                | (_, Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDsa) => {
                    BadToken::KeyUnfit { kid: excerpt(kid), alg: other }
                }
                _ => BadToken::Signature { kid: excerpt(kid), alg: other },
            };
            assert_eq!(cause(&confused), expected, "{algorithm} as {other}");
        }
    }
    let header = json!({"alg": "Ed25519", "kid": "ed"}).to_string();
    accepted(&token_of(header, claims().to_string(), &ED, Algorithm::EdDsa));
}

#[test]
fn a_header_that_steers_the_verifier_is_refused() {
    let of = |change: Value| token(&with(header(), change), &claims());
    accepted(&of(json!({})));
    accepted(&of(json!({"x5t": "abc", "unknown": {"a": [1]}, "cty": "x"})));

    for alg in [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "es256", "RS1", "ES256K",
        "dir", "RSA-OAEP",
    ] {
        let token = of(json!({ "alg": alg }));
        assert_eq!(cause(&token), BadToken::UnknownAlgorithm { alg: excerpt(alg) });
        // The classic form: nothing after the last dot.
        let (signed, _) = token.rsplit_once('.').unwrap();
        assert_eq!(cause(&format!("{signed}.")), BadToken::UnknownAlgorithm { alg: excerpt(alg) });
    }
    assert_eq!(cause(&of(json!({"alg": null}))), BadToken::NoAlgorithm);
    assert_eq!(cause(&of(json!({"alg": ["ES256"]}))), BadToken::NoAlgorithm);

    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("jku", json!("https://evil.example/keys")),
        ("x5u", json!("https://evil.example/cert")),
        ("jwk", P256.jwk("p256")),
        ("x5c", json!(["MIIB"])),
    ] {
        assert_eq!(cause(&of(json!({ name: value }))), BadToken::HeaderRefused { name });
    }
}

#[test]
fn an_hmac_with_the_public_key_is_refused() {
    use aws_lc_rs::hmac;
    let public = RSA.jwk("rsa")["n"].as_str().unwrap().to_owned();
    let header = b64(json!({"alg": "HS256", "kid": "rsa"}).to_string());
    let signed = format!("{header}.{}", b64(claims().to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
    let token = format!("{signed}.{}", b64(hmac::sign(&key, signed.as_bytes())));
    assert_eq!(cause(&token), BadToken::UnknownAlgorithm { alg: excerpt("HS256") });
}

#[test]
fn a_key_id_only_selects() {
    let of = |kid: Value| token(&with(header(), json!({ "kid": kid })), &claims());
    accepted(&of(json!("p256")));
    for kid in
        ["P256", "p256 ", "../../p256", "/dev/null", "' OR 1=1 --", "p256\0", "", "p256\r\nx: y"]
    {
        assert_eq!(cause(&of(json!(kid))), BadToken::UnknownKey { kid: excerpt(kid) });
    }
    assert_eq!(
        cause(&of(json!("rsa"))),
        BadToken::KeyUnfit { kid: excerpt("rsa"), alg: Algorithm::ES256 }
    );
    for kid in [json!(1), json!(["p256"]), json!({}), json!(true)] {
        assert_eq!(cause(&of(kid)), BadToken::KeyIdNotText);
    }
    let null = r#"{"alg":"ES256","kid":null}"#;
    let token = token_of(null, claims().to_string(), &P256, Algorithm::ES256);
    assert_eq!(cause(&token), BadToken::KeyIdNotText);
}

#[test]
fn a_type_is_accepted_by_name_in_any_case() {
    let of = |typ: Value| token(&with(header(), json!({ "typ": typ })), &claims());
    for typ in [
        json!("JWT"),
        json!("jwt"),
        json!("application/JWT"),
        json!("at+jwt"),
        json!("Application/AT+JWT"),
        Value::Null,
    ] {
        accepted(&of(typ));
    }
    for typ in [
        "",
        "JOSE",
        "dpop+jwt",
        "application/",
        "application/application/jwt",
        "jwt ",
        "logout+jwt",
    ] {
        assert!(matches!(cause(&of(json!(typ))), BadToken::Type { .. }), "{typ}");
    }
    assert_eq!(cause(&of(json!(1))), BadToken::TypeNotText);

    let mut strict = settings();
    strict.issuers[0].types = vec![TokenType::named("at+jwt")];
    assert_eq!(refused(strict, &bearing(&of(Value::Null))), BadToken::TypeAbsent);
}

#[test]
fn only_strict_compact_jws_is_a_token() {
    let good = token(&header(), &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    accepted(&good);

    let jwe = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a2V5.aXY.Y2lwaGVy.dGFn";
    for token in [
        jwe,
        signed,
        head,
        &format!("{good}."),
        &format!(".{good}"),
        &format!("{head}..{payload}.{signature}"),
        "a.b.c.d.e.f",
    ] {
        assert_eq!(cause(token), BadToken::NotCompact, "{token}");
    }
    let flattened = json!({"protected": head, "payload": payload, "signature": signature});
    // A comma is a repeated place; without one, a single member is no compact token either.
    assert!(matches!(cause(&flattened.to_string()), BadToken::Repeated { .. }));
    assert_eq!(cause(r#"{"payload":"e30"}"#), BadToken::NotCompact);

    let encoding = |part| BadToken::Encoding { part };
    assert_eq!(cause(&format!("{head}=.{payload}.{signature}")), encoding(Part::Header));
    assert_eq!(cause(&format!("{head}.{payload}=.{signature}")), encoding(Part::Payload));
    assert_eq!(cause(&format!("{good}==")), encoding(Part::Signature));
    assert_eq!(cause(&format!(" {good}")), encoding(Part::Header));
    assert_eq!(cause(&format!("{good} ")), encoding(Part::Signature));
    // 62 and 63 are `-` and `_` here, not `+` and `/`.
    let standard = format!("{head}.{payload}.{}", "+/".repeat(43));
    assert_eq!(cause(&standard), encoding(Part::Signature));
}

#[test]
fn a_signature_has_one_spelling() {
    let good = token(&header(), &claims());
    // 64 bytes are 86 characters: the last has four bits that must be zero.
    let (start, last) = good.split_at(good.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let value = alphabet.find(last).unwrap();
    for bits in 1..16 {
        let other = alphabet.chars().nth(value | bits).unwrap();
        let token = format!("{start}{other}");
        assert_eq!(cause(&token), BadToken::Encoding { part: Part::Signature });
    }
    accepted(&good);
}

#[test]
fn a_forged_signature_is_refused() {
    let good = token(&header(), &claims());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = BadToken::Signature { alg: Algorithm::ES256, kid: excerpt("p256") };
    for signature in [
        vec![],
        vec![0; 64],
        vec![0; 63],
        vec![0; 65],
        vec![0xff; 64],
        [vec![0; 31], vec![1], vec![0; 31], vec![1]].concat(),
        vec![0x30, 6, 2, 1, 0, 2, 1, 0],
    ] {
        assert_eq!(cause(&format!("{signed}.{}", b64(signature))), forged);
    }
    let other = fresh_p256();
    let token = token_of(header().to_string(), claims().to_string(), &other, Algorithm::ES256);
    assert_eq!(cause(&token), forged);

    for (kid, alg, length) in [
        ("ed", Algorithm::EdDsa, 64),
        ("p384", Algorithm::ES384, 96),
        ("rsa", Algorithm::RS256, 256),
        ("rsa", Algorithm::PS256, 256),
    ] {
        let header = b64(json!({"alg": alg.name(), "kid": kid}).to_string());
        let token = format!("{header}.{}.{}", b64(claims().to_string()), b64(vec![0; length]));
        assert_eq!(cause(&token), BadToken::Signature { alg, kid: excerpt(kid) });
    }
}

#[test]
fn doubled_members_and_deep_nesting_are_refused() {
    let signed = |header: &str, payload: &str| token_of(header, payload, &P256, Algorithm::ES256);
    let (head, body) = (header().to_string(), claims().to_string());
    accepted(&signed(&head, &body));

    let doubled = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
    let json = |part, fault| BadToken::Json { part, fault };
    for member in [r#""alg":"none""#, r#""\u0061lg":"ES256""#, r#""kid":"p256""#] {
        let token = signed(&doubled(&head, member), &body);
        assert_eq!(cause(&token), json(Part::Header, JsonFault::Duplicate), "{member}");
    }
    for member in [
        r#""sub":"root""#,
        r#""exp":9999999999"#,
        r#""iss":"https://idp.example/""#,
        r#""a":{"b":[{"c":1,"c":1}]}"#,
    ] {
        let token = signed(&head, &doubled(&body, member));
        assert_eq!(cause(&token), json(Part::Payload, JsonFault::Duplicate), "{member}");
    }
    accepted(&signed(&head, &doubled(&body, r#""a":{"b":[{"c":1},{"c":1}]}"#)));

    let deep = |lists: usize| format!(r#""a":{}{}"#, "[".repeat(lists), "]".repeat(lists));
    accepted(&signed(&head, &doubled(&body, &deep(31))));
    let token = signed(&head, &doubled(&body, &deep(32)));
    assert_eq!(cause(&token), json(Part::Payload, JsonFault::TooDeep));
    assert_eq!(cause(&signed(&head, "[]")), json(Part::Payload, JsonFault::NotObject));
    assert_eq!(cause(&signed("\"x\"", &body)), json(Part::Header, JsonFault::NotObject));
    assert_eq!(
        cause(&signed(&head, "{\"sub\":\"\u{0}\"}")),
        json(Part::Payload, JsonFault::Syntax)
    );
}

#[test]
fn a_token_is_bounded_in_size() {
    let sized =
        |padding: usize| token(&header(), &with(claims(), json!({"p": "x".repeat(padding)})));
    let padding = (16 * 1024 - sized(0).len()) / 4 * 3;
    let largest = sized(padding);
    assert!((16 * 1024 - 4..=16 * 1024).contains(&largest.len()), "{}", largest.len());
    accepted(&largest);
    let long = sized(padding + 8);
    assert_eq!(cause(&long), BadToken::TooLong { bytes: long.len(), limit: 16 * 1024 });
}

/// A token with the usual claims, but of its times only those in `change` (JSON members).
fn timed(change: &str) -> String {
    let untimed = with(claims(), json!({"exp": null, "iat": null})).to_string();
    let payload = untimed.replacen('{', &format!("{{{change},"), 1);
    token_of(header().to_string(), payload, &P256, Algorithm::ES256)
}

#[test]
fn times_are_numbers() {
    let now = NOW.seconds();
    for good in [
        format!(r#""exp":{}"#, now + 1),
        format!(r#""exp":{}.0"#, now + 1),
        format!(r#""exp":{now}.001"#),
        r#""exp":253402300799"#.to_owned(),
        format!(r#""exp":{}e-1"#, (now + 1) * 10),
        format!(r#""exp":{},"nbf":{},"iat":{}"#, now + 1, now + 30, now + 30),
        format!(r#""exp":{},"nbf":0,"iat":0"#, now + 1),
    ] {
        accepted(&timed(&good));
    }

    let time = |claim| BadToken::Time { claim };
    for value in [
        "\"1900000000\"",
        "1e400",
        "-1",
        "-1900000000",
        "null",
        "true",
        "[1900000000]",
        "{}",
        "1e300",
        "253402300800",
        "1900000000000",
        "18446744073709551615",
        "-0.5",
    ] {
        for claim in ["exp", "nbf", "iat"] {
            let token = match claim {
                "exp" => timed(&format!(r#""exp":{value}"#)),
                _ => timed(&format!(r#""exp":{},"{claim}":{value}"#, now + 1)),
            };
            let expected = match value {
                "1e400" => BadToken::Json { part: Part::Payload, fault: JsonFault::Syntax },
                _ => time(claim),
            };
            assert_eq!(cause(&token), expected, "{claim} {value}");
        }
    }
}

#[test]
fn a_token_counts_in_its_time_and_exp_has_no_leeway() {
    let now = NOW.seconds();
    assert_eq!(cause(&timed(r#""nbf":0"#)), BadToken::NoExpiry);
    assert_eq!(cause(&timed(&format!(r#""exp":{now}"#))), BadToken::Expired { seconds: 0 });
    assert_eq!(cause(&timed(&format!(r#""exp":{}"#, now - 29))), BadToken::Expired { seconds: 29 });
    assert_eq!(cause(&timed(r#""exp":-0.0"#)), BadToken::Expired { seconds: now });
    let exp = now + 300;
    let late = format!(r#""exp":{exp},"nbf":{}"#, now + 31);
    assert_eq!(cause(&timed(&late)), BadToken::NotYet { seconds: 31 });
    let late = format!(r#""exp":{exp},"iat":{}"#, now + 31);
    assert_eq!(cause(&timed(&late)), BadToken::IssuedLater { seconds: 31 });
    let late = format!(r#""exp":{exp},"iat":{}.001"#, now + 30);
    assert_eq!(cause(&timed(&late)), BadToken::IssuedLater { seconds: 30 });
}

#[test]
fn a_token_expires_to_the_millisecond() {
    let token = token(&header(), &with(claims(), json!({"exp": NOW.seconds() as f64 + 0.25})));
    let identity = identity(settings());
    let at = |millis| {
        let now = Timestamp::from_millis(NOW.millis() + millis);
        identity.authenticate_now(&bearing(&token), now).map(|principal| principal.expires)
    };
    assert_eq!(at(249), Ok(Some(Timestamp::from_millis(NOW.millis() + 250))));
    assert_eq!(at(250), Err(BadToken::Expired { seconds: 0 }.into()));
}

#[test]
fn the_issuer_and_the_audience_must_match() {
    let of = |change: Value| token(&header(), &with(claims(), change));
    for aud in [json!("orders"), json!(["orders"]), json!(["a", "orders", "b"])] {
        accepted(&of(json!({ "aud": aud })));
    }
    for aud in [json!("Orders"), json!("orders "), json!(["a"]), json!([]), json!(""), Value::Null]
    {
        assert_eq!(cause(&of(json!({ "aud": aud }))), BadToken::Audience, "{aud}");
    }
    for aud in
        [json!(1), json!({"orders": 1}), json!(["orders", 1]), json!([["orders"]]), json!(true)]
    {
        assert_eq!(cause(&of(json!({ "aud": aud }))), BadToken::AudienceMalformed, "{aud}");
    }

    let mut any = settings();
    any.issuers[0].audiences = Audiences::Any;
    let any = identity(any);
    for aud in [json!("x"), Value::Null, json!([])] {
        any.authenticate_now(&bearing(&of(json!({ "aud": aud }))), NOW).unwrap();
    }
    let malformed = any.authenticate_now(&bearing(&of(json!({"aud": 1}))), NOW);
    assert_eq!(malformed, Err(BadToken::AudienceMalformed.into()));

    for iss in ["https://idp.example", "https://IDP.example/", "https://idp.example//", ""] {
        let expected = BadToken::UnknownIssuer { iss: excerpt(iss) };
        assert_eq!(cause(&of(json!({ "iss": iss }))), expected);
    }
    assert_eq!(cause(&of(json!({"iss": null}))), BadToken::NoIssuer);
    assert_eq!(cause(&of(json!({"iss": [ISSUER]}))), BadToken::NoIssuer);
}

#[test]
fn a_decision_token_of_ours_is_never_a_credential() {
    let own = token(&header(), &with(claims(), json!({"iss": "placet"})));
    assert_eq!(cause(&own), BadToken::OwnToken { iss: excerpt("placet") });

    let mut accepting = settings();
    accepting.issuers.push(issuer("placet"));
    let error =
        Identity::new(accepting, vec![], None, Arc::new(["placet".to_owned()].into())).unwrap_err();
    assert_eq!(error, IdentityError::IssuerIsOwn { issuer: "placet".to_owned() });
}

#[test]
fn each_issuer_needs_its_own_keys() {
    let error = Identity::new(settings(), vec![], None, Arc::default()).unwrap_err();
    assert_eq!(error, IdentityError::KeysMissing { issuers: 1, keys: 0 });
}

/// Whose keys have changed makes no difference to how soon it is seen.
#[test]
fn credentials_are_known_by_the_keys_of_each_issuer() {
    let names = ["https://a.example", "https://b.example"];
    let started = names.map(|name| jwks::start(&issuer(name), Pace::default(), None).unwrap());
    let (keys, tasks): (Vec<_>, Vec<_>) = started.into_iter().unzip();
    let issuers = names.map(issuer).to_vec();
    let proofs = keys.into_iter().map(Proof::Keys).collect();
    let identity =
        Identity::new(IdentitySettings { issuers, ..settings() }, proofs, None, Arc::default());
    let identity = identity.unwrap();
    let set = || key_set(&[P256.jwk("p256")]);
    for task in &tasks {
        let before = identity.known_by();
        assert!(identity.is_known_by(&before));
        task.publish(set());
        for _ in 0..2 {
            assert!(!identity.is_known_by(&before), "{task:?}");
        }
        let known = identity.known_by();
        let (_, of_another) = jwks::start(&issuer(names[0]), Pace::default(), None).unwrap();
        of_another.publish(set());
        for _ in 0..2 {
            assert!(identity.is_known_by(&known), "another scope's issuer");
        }
    }
}

#[test]
fn the_subject_is_a_claim_of_choice() {
    let of = |change: Value| token(&header(), &with(claims(), change));
    for sub in [json!(1), json!(""), Value::Null, json!(["alice"]), json!({"a": 1}), json!(true)] {
        assert_eq!(cause(&of(json!({ "sub": sub }))), BadToken::Subject, "{sub}");
    }
    let at = |path: &str, change: Value| {
        let mut settings = settings();
        settings.issuers[0].subject = ClaimPath::new(path);
        identity(settings)
            .authenticate_now(&bearing(&of(change)), NOW)
            .map(|principal| principal.id)
    };
    assert_eq!(at("email", json!({"email": "a@b.c"})), Ok("a@b.c".to_owned()));
    assert_eq!(
        at("user.name.first", json!({"user": {"name": {"first": "A"}}})),
        Ok("A".to_owned())
    );
    let both = json!({"https://a.b/id": "whole", "https://a": {"b/id": "parts"}});
    assert_eq!(at("https://a.b/id", both), Ok("whole".to_owned()));
    assert_eq!(
        at("https://a.b/id", json!({"https://a": {"b/id": "parts"}})),
        Ok("parts".to_owned())
    );
    let nothing = Err(BadToken::Subject.into());
    assert_eq!(at("email", json!({})), nothing);
    assert_eq!(at("sub.name", json!({})), nothing);
    assert_eq!(at("user.name", json!({"user": {"name": {}}})), nothing);
    assert_eq!(at("groups.0", json!({})), nothing);
}

#[test]
fn groups_are_names_behind_their_prefix() {
    let of = |change: Value| token(&header(), &with(claims(), change));
    let groups = |value: Value| {
        let mut settings = settings();
        settings.issuers[0].group_prefix = "idp:".to_owned();
        let authenticated =
            identity(settings).authenticate_now(&bearing(&of(json!({"groups": value}))), NOW);
        authenticated.map(|principal| principal.groups)
    };
    assert_eq!(groups(json!(["a", "b"])), Ok(vec!["idp:a".to_owned(), "idp:b".to_owned()]));
    assert_eq!(groups(json!("a")), Ok(vec!["idp:a".to_owned()]));
    assert_eq!(groups(json!([])), Ok(vec![]));
    assert_eq!(groups(Value::Null), Ok(vec![]));
    for bad in [
        json!(1),
        json!([1]),
        json!(["a", null]),
        json!({"a": true}),
        json!(""),
        json!(["a", ""]),
        json!([["a"]]),
    ] {
        assert_eq!(groups(bad.clone()), Err(BadToken::Groups.into()), "{bad}");
    }
    let null = claims().to_string().replacen(r#"["eng","oncall"]"#, "null", 1);
    let token = token_of(header().to_string(), null, &P256, Algorithm::ES256);
    assert_eq!(cause(&token), BadToken::Groups);
}

#[test]
fn a_bound_token_counts_only_from_its_holder() {
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap()
    };
    let (own, other) = (certificate("own.example"), certificate("other.example"));
    let thumbprint = b64(digest::digest(&digest::SHA256, own.der()));
    let of = |cnf: Value| token(&header(), &with(claims(), json!({ "cnf": cnf })));
    let from = |token: &str, pem: Option<String>| {
        let mut request = bearing(token);
        request.source.certificate = pem;
        identity(settings()).authenticate_now(&request, NOW).map(|principal| principal.id)
    };
    let bound = of(json!({"x5t#S256": thumbprint}));
    assert_eq!(from(&bound, Some(own.pem())), Ok("alice".to_owned()));

    let refused = Err(BadToken::Certificate.into());
    assert_eq!(from(&bound, Some(other.pem())), refused);
    assert_eq!(from(&bound, None), refused);
    assert_eq!(from(&bound, Some(String::new())), refused);
    assert_eq!(from(&bound, Some("not a certificate".to_owned())), refused);
    assert_eq!(from(&bound, Some(own.pem().replace("CERTIFICATE", "PUBLIC KEY"))), refused);
    assert_eq!(from(&of(json!({"x5t#S256": ""})), Some(own.pem())), refused);

    let unknown = Err(BadToken::Confirmation.into());
    for cnf in [
        json!({}),
        json!({"jkt": "abc"}),
        json!({"x5t#S256": thumbprint, "jkt": "abc"}),
        json!({"x5t#S256": 1}),
        json!([thumbprint]),
        json!(thumbprint),
        json!(false),
        P256.jwk("k"),
    ] {
        assert_eq!(from(&of(cnf.clone()), Some(own.pem())), unknown, "{cnf}");
    }
    let null = claims().to_string().replacen('{', r#"{"cnf":null,"#, 1);
    let token = token_of(header().to_string(), null, &P256, Algorithm::ES256);
    assert_eq!(from(&token, Some(own.pem())), unknown);
}

#[test]
fn an_issuer_counts_only_at_its_own_places() {
    let mut two = settings();
    let cookie = vec![Place::Cookie { name: "session".to_owned() }];
    two.issuers.push(IssuerSettings {
        from: cookie,
        principal_type: "Guest".to_owned(),
        ..issuer("https://other.example")
    });
    let identity = identity(two);
    let of = |iss: &str| token(&header(), &with(claims(), json!({ "iss": iss })));
    let in_cookie = |token: &str| {
        let mut request = Request::default();
        request.headers.push("cookie", format!("a=b; session={token}"));
        request
    };
    let types = |request| identity.authenticate_now(&request, NOW).map(|p| p.entity_type);
    assert_eq!(types(bearing(&of(ISSUER))), Ok("User".to_owned()));
    assert_eq!(types(in_cookie(&of("https://other.example"))), Ok("Guest".to_owned()));
    let elsewhere = |iss| Err(BadToken::UnknownIssuer { iss: excerpt(iss) }.into());
    assert_eq!(types(bearing(&of("https://other.example"))), elsewhere("https://other.example"));
    assert_eq!(types(in_cookie(&of(ISSUER))), elsewhere(ISSUER));

    // The first place present decides, even when the second holds a good token.
    let mut both = in_cookie(&of("https://other.example"));
    both.headers.push("authorization", "Bearer x.y.z");
    assert!(matches!(identity.authenticate_now(&both, NOW), Err(Refusal::BadToken(_))));
}

#[test]
fn an_issuer_can_not_sign_for_another() {
    let mut two = settings();
    two.issuers.push(issuer("https://other.example"));
    let sets = vec![
        Proof::Keys(IssuerKeys::fixed(key_set(&[P256.jwk("p256")]))),
        Proof::Keys(IssuerKeys::fixed(key_set(&[ED.jwk("p256")]))),
    ];
    let identity = Identity::new(two, sets, None, Arc::default()).unwrap().remembering();
    let of = |iss: &str| token(&header(), &with(claims(), json!({ "iss": iss })));
    assert!(identity.authenticate_now(&bearing(&of(ISSUER)), NOW).is_ok());
    let refused = identity.authenticate_now(&bearing(&of("https://other.example")), NOW);
    let unfit = BadToken::KeyUnfit { kid: excerpt("p256"), alg: Algorithm::ES256 };
    assert_eq!(refused, Err(unfit.into()));
}

#[test]
fn a_place_present_twice_is_bad_whatever_it_holds() {
    let good = format!("Bearer {}", token(&header(), &claims()));
    let identity = identity(settings());
    assert!(identity.authenticate_now(&request(&good), NOW).is_ok());
    let repeated = |request: &Request| match identity.authenticate_now(request, NOW) {
        Err(Refusal::BadToken(BadToken::Repeated { .. })) => true,
        other => panic!("{other:?}"),
    };
    let mut twice = request(&good);
    twice.headers.push("Authorization", good.as_str());
    assert!(repeated(&twice));
    assert!(repeated(&request(format!("{good},{good}"))));
    assert!(repeated(&request(format!("{good}, Basic YTpi"))));
}

#[test]
fn keys_that_never_came_are_our_fault() {
    let (keys, _task) = jwks::start(&settings().issuers[0], jwks::Pace::default(), None).unwrap();
    let identity = Identity::new(settings(), vec![Proof::Keys(keys)], None, Arc::default())
        .unwrap()
        .remembering();
    let refusal =
        identity.authenticate_now(&bearing(&token(&header(), &claims())), NOW).unwrap_err();
    assert_eq!(refusal, Refusal::KeysUnavailable { issuer: ISSUER.to_owned() });
    // What is bad without looking at a key stays the caller's fault.
    let refusal = identity.authenticate_now(&bearing("x"), NOW).unwrap_err();
    assert_eq!(refusal, BadToken::NotCompact.into());
}

const PEER: &str = "spiffe://cluster.local/ns/a/sa/b";

/// What presents a credential, or not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    Good,
    Bad,
    Nothing,
}

/// What the settings `require`, with and without `anonymous`, make of a token and a peer.
fn outcome(require: Require, anonymous: bool, jwt: Shown, peered: Shown) -> &'static str {
    let mut settings = settings();
    settings.require = require;
    settings.anonymous = anonymous;
    settings.peer = Some(peer(&["cluster.local"]));
    if require == Require::Peer {
        settings.issuers.clear();
    }
    let mut request = match jwt {
        Shown::Good => bearing(&token(&header(), &claims())),
        Shown::Bad => bearing("x.y.z"),
        Shown::Nothing => Request::default(),
    };
    request.source.principal = match peered {
        Shown::Good => Some(PEER.to_owned()),
        Shown::Bad => Some("spiffe://evil.example/a".to_owned()),
        Shown::Nothing => None,
    };
    match identity(settings).authenticate_now(&request, NOW) {
        Ok(principal) => {
            assert_eq!(principal.peer.as_deref(), (peered == Shown::Good).then_some(PEER));
            match principal.kind {
                PrincipalKind::Jwt => "user",
                PrincipalKind::Workload => {
                    assert_eq!(
                        (principal.entity_type.as_str(), principal.id.as_str()),
                        ("Workload", PEER)
                    );
                    assert_eq!(
                        (principal.subject.as_deref(), principal.issuer),
                        (Some(PEER), None)
                    );
                    "workload"
                }
                kind @ (PrincipalKind::Certificate | PrincipalKind::ApiKey) => panic!("{kind:?}"),
                PrincipalKind::Anonymous => {
                    assert_eq!(principal.subject, None);
                    assert_eq!(
                        (principal.entity_type.as_str(), principal.id.as_str()),
                        ("Anonymous", "anonymous")
                    );
                    "anonymous"
                }
                PrincipalKind::Stated => panic!("no request states its principal"),
            }
        }
        Err(Refusal::NoCredentials) => "none",
        Err(Refusal::BadToken(_)) => "bad",
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn what_is_required_decides_who_it_is() {
    use Require::{Both, Either, Jwt, Peer};
    use Shown::{Bad, Good, Nothing};
    for (require, jwt, peer, strict, with_anonymous) in [
        (Jwt, Good, Good, "user", "user"),
        (Jwt, Good, Bad, "user", "user"),
        (Jwt, Good, Nothing, "user", "user"),
        (Jwt, Bad, Good, "bad", "bad"),
        (Jwt, Bad, Nothing, "bad", "bad"),
        (Jwt, Nothing, Good, "none", "anonymous"),
        (Jwt, Nothing, Bad, "none", "anonymous"),
        (Jwt, Nothing, Nothing, "none", "anonymous"),
        (Peer, Good, Good, "workload", "workload"),
        (Peer, Bad, Good, "workload", "workload"),
        (Peer, Nothing, Good, "workload", "workload"),
        (Peer, Nothing, Bad, "bad", "bad"),
        (Peer, Good, Nothing, "none", "anonymous"),
        (Peer, Nothing, Nothing, "none", "anonymous"),
        (Both, Good, Good, "user", "user"),
        (Both, Good, Bad, "bad", "bad"),
        (Both, Good, Nothing, "none", "none"),
        (Both, Bad, Good, "bad", "bad"),
        (Both, Bad, Bad, "bad", "bad"),
        (Both, Bad, Nothing, "bad", "bad"),
        (Both, Nothing, Good, "none", "none"),
        (Both, Nothing, Bad, "bad", "bad"),
        (Both, Nothing, Nothing, "none", "anonymous"),
        (Either, Good, Good, "user", "user"),
        (Either, Good, Bad, "user", "user"),
        (Either, Good, Nothing, "user", "user"),
        (Either, Bad, Good, "bad", "bad"),
        (Either, Bad, Nothing, "bad", "bad"),
        (Either, Nothing, Good, "workload", "workload"),
        (Either, Nothing, Bad, "bad", "bad"),
        (Either, Nothing, Nothing, "none", "anonymous"),
    ] {
        let found = (outcome(require, false, jwt, peer), outcome(require, true, jwt, peer));
        assert_eq!(found, (strict, with_anonymous), "{require:?}: token {jwt:?}, peer {peer:?}");
    }
}

#[test]
fn without_identity_settings_there_is_at_most_anonymous() {
    let open = |anonymous| {
        let nothing = IdentitySettings { issuers: vec![], peer: None, anonymous, ..settings() };
        let mut request = bearing(&token(&header(), &claims()));
        request.source.principal = Some(PEER.to_owned());
        identity(nothing).authenticate_now(&request, NOW)
    };
    assert_eq!(open(false), Err(Refusal::NoCredentials));
    assert_eq!(open(true), Ok(Principal::anonymous()));
}

#[test]
fn no_cause_shows_the_token() {
    let canary = "canary-7f3a";
    let secret = with(claims(), json!({"sub": canary, "exp": 1, "x": canary}));
    let mut causes = vec![
        cause(&token(&header(), &secret)),
        cause(&token(&header(), &with(secret.clone(), json!({"exp": canary})))),
        cause(&token(&header(), &with(claims(), json!({"aud": canary})))),
        cause(&token(&header(), &with(claims(), json!({"cnf": {"x5t#S256": canary}})))),
        cause(canary),
        cause(&format!("{canary}.{canary}.{canary}")),
        refused(settings(), &request(format!("Basic {canary}"))),
        refused(settings(), &request(format!("Bearer {canary},{canary}"))),
    ];
    let (signed, _) = token(&header(), &secret)
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    causes.push(cause(&format!("{signed}.{}", b64(canary))));
    for cause in causes {
        let shown = format!("{cause} {cause:?} {}", Refusal::from(cause.clone()));
        assert!(!shown.contains(canary), "{shown}");
        assert!(!shown.contains(&b64(canary)), "{shown}");
    }
    let principal =
        accepted(&token(&header(), &with(claims(), json!({"x": canary, "groups": canary}))));
    assert!(!format!("{principal:?}").contains(canary));
}

proptest! {
    #[test]
    fn no_authorization_panics_or_authenticates(value in any::<Vec<u8>>()) {
        let refusal = identity(settings()).authenticate_now(&request(value), NOW);
        prop_assert!(matches!(refusal, Err(Refusal::BadToken(_))));
    }

    #[test]
    fn nothing_like_a_token_authenticates(header in "\\PC{0,40}", payload in "\\PC{0,40}", signature in any::<Vec<u8>>()) {
        let token = format!("{}.{}.{}", b64(header), b64(payload), b64(signature));
        let refusal = identity(settings()).authenticate_now(&bearing(&token), NOW);
        prop_assert!(matches!(refusal, Err(Refusal::BadToken(_))));
    }

    #[test]
    fn no_changed_token_authenticates(index in any::<prop::sample::Index>(), change in "[A-Za-z0-9_.=+/ -]{0,3}", replaced in 0..3_usize) {
        let good = token(&header(), &claims());
        let at = index.index(good.len());
        let end = (at + replaced).min(good.len());
        let mut changed = good.clone();
        changed.replace_range(at..end, &change);
        prop_assume!(changed != good);
        let refusal = identity(settings()).authenticate_now(&bearing(&changed), NOW);
        prop_assert!(matches!(refusal, Err(Refusal::BadToken(_))), "{:?}", refusal);
    }

    #[test]
    fn no_cookie_panics_or_authenticates(line in any::<Vec<u8>>(), name in "[a-z]{1,3}") {
        let mut settings = settings();
        settings.issuers[0].from = vec![Place::Cookie { name }];
        let mut request = Request::default();
        request.headers.push("cookie", line);
        prop_assert!(identity(settings).authenticate_now(&request, NOW).is_err());
    }
}

mod depth;
