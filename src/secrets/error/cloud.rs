//! Why a cloud's secret store has no key for us. As in every [`super::SecretError`], the text says
//! what to do, and quotes neither a secret nor a credential.

use std::fmt;

/// Whose store it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cloud {
    /// AWS Secrets Manager.
    Aws,
    /// Azure Key Vault.
    Azure,
}

impl Cloud {
    const fn feature(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
        }
    }

    const fn where_to_look(self) -> &'static str {
        match self {
            Self::Aws => "check `pathToKey`, `region` and the account",
            Self::Azure => "check `keyName` and `vaultUrl`",
        }
    }

    const fn credentials(self) -> &'static str {
        match self {
            Self::Aws => {
                "give the process a role (web identity, pod identity, task or instance role), a \
                 profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            Self::Azure => {
                "give the process a managed or workload identity, or AZURE_TENANT_ID, \
                 AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
            }
        }
    }

    const fn permission(self) -> &'static str {
        match self {
            Self::Aws => {
                "allow it in the policy of the role, and `kms:Decrypt` where the secret has a KMS \
                 key of its own"
            }
            Self::Azure => {
                "give the identity the role `Key Vault Secrets User`, and look into the vault's \
                 firewall"
            }
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aws => "AWS",
            Self::Azure => "Azure",
        })
    }
}

/// Why a cloud's store was refused, or had no key for us.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// The cargo feature is off.
    #[error("this build has no {cloud} support: build with --features {}", cloud.feature())]
    NotBuilt {
        /// Which cloud.
        cloud: Cloud,
    },
    /// AWS: no `pathToKey`.
    #[error("no secret for key `{name}`: set the scope's `pathToKey` to the secret's name or ARN")]
    NoSecretName {
        /// The key's name.
        name: String,
    },
    /// Azure: a key name that no secret can have.
    #[error(
        "`{}` is no name of a Key Vault secret, which has letters, digits and `-`: set the scope's \
         `keyName`",
        name.escape_debug()
    )]
    UnusableName {
        /// The key's name.
        name: String,
    },
    /// There is no such secret, or no longer that version.
    #[error(
        "there is no secret `{secret}` in {place}: {}, or create it there",
        cloud.where_to_look()
    )]
    NotFound {
        /// Which cloud.
        cloud: Cloud,
        /// The secret.
        secret: String,
        /// The region or the vault.
        place: String,
    },
    /// AWS: it is there, waiting for its end.
    #[error("the secret `{secret}` is marked for deletion: restore it, or name another")]
    Deleted {
        /// The secret.
        secret: String,
    },
    /// A field was asked of a secret that has none.
    #[error(
        "the secret `{secret}` is no JSON object and so has no field `{field}`: take `keyName` away \
         to use the whole secret, or store JSON"
    )]
    NotJson {
        /// The secret.
        secret: String,
        /// The field looked for.
        field: String,
    },
    /// The identity is known and may not.
    #[error("{cloud} denies us `{action}` on the secret `{secret}`: {}", cloud.permission())]
    Denied {
        /// Which cloud.
        cloud: Cloud,
        /// What was asked for, as policies call it.
        action: &'static str,
        /// The secret.
        secret: String,
    },
    /// There is nobody we could be.
    #[error("no {cloud} credentials ({reason}): {}", cloud.credentials())]
    NoCredentials {
        /// Which cloud.
        cloud: Cloud,
        /// What was tried last and why it failed.
        reason: String,
    },
    /// Credentials that are not good, or no longer.
    #[error("{cloud} refused our credentials (`{code}`): renew them, and check the clock")]
    RefusedCredentials {
        /// Which cloud.
        cloud: Cloud,
        /// The cloud's code.
        code: String,
    },
    /// No answer.
    #[error("can't reach {address}: {reason}; check `{setting}` and the network")]
    Unreachable {
        /// Whom.
        address: String,
        /// What the connection said.
        reason: String,
        /// The setting that names it.
        setting: &'static str,
    },
    /// Throttled, or a fault of theirs.
    #[error(
        "{cloud} can't answer now (`{code}`): look at its state, and where it throttles us, raise \
         `refreshInterval` or the quota"
    )]
    Failing {
        /// Which cloud.
        cloud: Cloud,
        /// The cloud's code.
        code: String,
    },
    /// An endpoint from the environment that would show the key to the network.
    #[error(
        "the address `{address}` would send secrets in the clear: use https, or say `insecureHttp: \
         true`"
    )]
    PlainHttp {
        /// Its scheme and host.
        address: String,
    },
    /// Azure: a list of versions that goes on at another host.
    #[error("the list of versions goes on at `{host}`, which is not the vault: check `vaultUrl`")]
    ForeignPage {
        /// The other host.
        host: String,
    },
    /// Something none of the above.
    #[error("unexpected answer for the secret `{secret}` (`{code}`): look into {cloud}'s own log")]
    Unexpected {
        /// Which cloud.
        cloud: Cloud,
        /// The secret.
        secret: String,
        /// The cloud's code.
        code: String,
    },
    /// An answer that isn't what the cloud sends there.
    #[error("the answer for the secret `{secret}` is not what {cloud} sends: check the address")]
    Unreadable {
        /// Which cloud.
        cloud: Cloud,
        /// The secret.
        secret: String,
    },
}

impl CloudError {
    /// Whether the store answered and what it holds is at fault: another version may be good.
    pub const fn is_about_content(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotJson { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_that_was_not_built_in_is_named_with_its_feature() {
        let text = CloudError::NotBuilt { cloud: Cloud::Aws }.to_string();
        assert_eq!(text, "this build has no AWS support: build with --features aws");
    }
}
