//! Whether what signs, verifies, digests and encrypts is a FIPS module, and whether that is in force.
//!
//! With the feature `fips` all of it is done by the module of AWS-LC, which tests itself when the program
//! is loaded and ends it where a test fails. Should the program run and the module not be in FIPS mode,
//! every command fails before it does anything. Without the feature there is nothing to hold.

use rustls::crypto::aws_lc_rs::default_provider;

/// Whether this build has the feature.
pub const IS_ON: bool = cfg!(feature = "fips");

/// The version, as `placet --version` says it.
pub const VERSION: &str = if IS_ON {
    concat!(env!("CARGO_PKG_VERSION"), " (FIPS module of AWS-LC)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// The build has the feature, and its promise is not kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is not in FIPS mode, which this build is for: build it anew, or without the feature `fips`"
)]
pub struct NotInForce(&'static str);

/// Looks whether the module is in force, and whether TLS keeps to it: the ciphers, the key exchanges and
/// the signatures of the connections we accept and of those that we and our libraries open.
///
/// # Errors
/// Only with the feature, if it is not so.
pub fn require() -> Result<(), NotInForce> {
    if IS_ON {
        aws_lc_rs::try_fips_mode().map_err(|_| NotInForce("the cryptography"))?;
        require_of(default_provider().fips(), "the provider of TLS")?;
    }
    Ok(())
}

/// Holds what a part says of itself.
///
/// # Errors
/// Only with the feature, if the part `is_fips` not.
pub fn require_of(is_fips: bool, part: &'static str) -> Result<(), NotInForce> {
    if IS_ON && !is_fips { Err(NotInForce(part)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_in_force_if_and_only_if_the_feature_is_on() {
        require().unwrap();
        assert_eq!(aws_lc_rs::try_fips_mode().is_ok(), IS_ON);
        assert_eq!(default_provider().fips(), IS_ON);
        assert_eq!(VERSION.contains("FIPS"), IS_ON);
    }

    #[test]
    fn tls_keeps_to_what_the_module_approves_of_if_and_only_if_the_feature_is_on() {
        let provider = default_provider();
        let suites = provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite()));
        let groups = provider.kx_groups.iter().map(|group| format!("{:?}", group.name()));
        let has = |names: &[String], part: &str| names.iter().any(|name| name.contains(part));
        let (suites, groups) = (suites.collect::<Vec<_>>(), groups.collect::<Vec<_>>());
        assert!(has(&suites, "AES_256_GCM") && has(&suites, "AES_128_GCM"), "{suites:?}");
        assert_eq!(has(&suites, "CHACHA20"), !IS_ON, "{suites:?}");
        assert!(has(&groups, "secp256r1") && has(&groups, "X25519MLKEM768"), "{groups:?}");
        assert_eq!(groups.contains(&"X25519".to_owned()), !IS_ON, "{groups:?}");
    }

    #[test]
    fn a_part_that_is_not_fips_is_named() {
        assert!(require_of(true, "a part").is_ok());
        let refused = require_of(false, "a part").err().map(|error| error.to_string());
        assert_eq!(refused.is_some(), IS_ON);
        assert!(refused.is_none_or(|text| text.starts_with("a part is not in FIPS mode")));
    }
}
