//! Placet: the sidecar that Envoy asks about every request, and that signs its answer.
//!
//! One request, straight down:
//!
//! ```text
//! Envoy ──▶ envoy::decode ──Request──▶ scope::Scopes::select ──Scope──▶ authorizer ──▶ envoy::encode ──▶ Envoy
//!                                                                      │ path      → CanonicalPath
//!                                                                      │ route     → Target, or a bypass
//!                                                                      │ identity  → Principal
//!                                                                      │ policy    → Permit
//!                                                                      └ token     → Token
//! off the request path, one writer each, readers take a snapshot:
//!   secrets ──▶ keys ──watch──▶ token::Minter, api::jwks
//!   settings, policies ──▶ config ──swap──▶ scope::Scopes
//!   the control plane ──▶ source ──▶ config
//!   the deny list ──watch──▶ authorizer
//!   issuers ──▶ identity::jwks ──watch──▶ identity
//!   what was answered ──queue──▶ shadow ──▶ audit
//!                     ──queue──▶ telemetry ──▶ a collector
//! ```
//!
//! Start reading at [`authorizer`]: it is the whole product in one function. [`app`] puts the rooms
//! together and is the only one that starts tasks.

pub mod api;
pub mod app;
pub mod audit;
pub mod authorizer;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "control")]
pub mod control;
pub mod deny_list;
pub mod digest;
pub mod doctor;
pub mod entitlement;
pub mod envoy;
pub mod files;
pub mod fips;
#[cfg(test)]
mod fixture;
pub mod identity;
pub mod json;
pub mod keys;
pub mod metrics;
pub mod path;
pub mod policy;
pub mod readiness;
pub mod remote;
pub mod request;
pub mod reuse;
pub mod route;
pub mod scope;
pub mod search;
pub mod secrets;
pub mod shadow;
pub mod source;
pub mod stages;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod trace;

/// Placet's own messages, from `proto/placet/v1`.
pub mod proto {
    #![expect(missing_docs, reason = "generated; the .proto file has the documentation")]

    /// The serialised descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/placet.bin"));

    include!(concat!(env!("OUT_DIR"), "/placet.v1.rs"));

    /// What the control plane and its sidecars say to each other, from `proto/placet/control/v1`.
    pub mod control {
        include!(concat!(env!("OUT_DIR"), "/placet.control.v1.rs"));
    }
}
