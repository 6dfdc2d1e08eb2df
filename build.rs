//! Compiles the messages with a protobuf compiler written in Rust: nothing to install.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let ours = protox::compile(["placet/v1/decision.proto"], ["proto"])?;
    prost_build::Config::new()
        .type_attribute(".placet.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".placet.v1", "#[serde(rename_all = \"camelCase\")]")
        .compile_fds(ours)?;
    // For reflection only: the types come from a crate.
    let mut envoy = protox::compile(["envoy/service/auth/v3/external_auth.proto"], ["proto"])?;
    envoy.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("ext_authz.bin"), envoy.encode_to_vec())?;
    Ok(())
}
