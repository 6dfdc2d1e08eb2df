use super::*;

fn env_store(id: &str, default: bool) -> StoreSettings {
    let kind = StoreKind::Env { prefix: "X_".to_owned() };
    StoreSettings { id: id.to_owned(), default, kind }
}

#[test]
fn the_default_store_and_others_by_id() {
    let stores = SecretStores::open(vec![env_store("a", false), env_store("b", true)]).unwrap();
    assert_eq!(stores.choose(None).unwrap().id(), "b");
    assert_eq!(stores.choose(Some("a")).unwrap().id(), "a");
    let error = stores.choose(Some("c")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no secret store `c`: use one of `a`, `b`, or add it to `secretStores`"
    );
}

#[test]
fn a_single_store_is_not_the_default_by_itself() {
    let errors = SecretStores::open(vec![env_store("a", false)]).unwrap_err();
    assert!(matches!(errors.as_slice(), [SecretError::NoDefault { .. }]), "{errors:?}");
    let errors = SecretStores::open(Vec::new()).unwrap_err();
    assert!(matches!(errors.as_slice(), [SecretError::NoDefault { .. }]), "{errors:?}");
}

#[test]
fn every_fault_is_reported_at_once() {
    let errors =
        SecretStores::open(vec![env_store("a", true), env_store("b", true), env_store("a", false)])
            .unwrap_err();
    assert!(
        matches!(
            errors.as_slice(),
            [SecretError::DuplicateStore { .. }, SecretError::SeveralDefaults { .. }]
        ),
        "{errors:?}"
    );
}

#[test]
fn debug_shows_no_secret() {
    assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "Secret");
}

#[cfg(not(feature = "aws"))]
#[test]
fn a_store_that_was_not_built_in_says_how_to_build_it() {
    let (timeout, refresh_interval) = (Duration::from_secs(2), Duration::from_secs(30));
    let region = "eu-west-1".to_owned();
    let aws =
        AwsSettings { region, address: None, is_insecure_fine: false, timeout, refresh_interval };
    let settings = StoreSettings { id: "aws".to_owned(), default: true, kind: StoreKind::Aws(aws) };
    let [error] = SecretStores::open(vec![settings]).unwrap_err().try_into().unwrap();
    assert_eq!(
        error.to_string(),
        "secret store `aws`: this build has no AWS support: build with --features aws"
    );
}
