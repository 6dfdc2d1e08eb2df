//! Compiles the messages with a protobuf compiler written in Rust: nothing to install.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut ours = protox::compile(["placet/v1/decision.proto", "placet/v1/pdp.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    // What the decision log writes.
    let logged = [
        "DecisionRecord",
        "ShadowRecord",
        "Opinion",
        "HttpRequest",
        "Principal",
        "Target",
        "Policy",
    ];
    for message in logged {
        let message = format!(".placet.v1.{message}");
        config.type_attribute(&message, "#[derive(serde::Serialize)]");
        config.type_attribute(&message, "#[serde(rename_all = \"camelCase\")]");
    }
    config.compile_fds(ours.clone())?;
    let control = protox::compile(["placet/control/v1/snapshots.proto"], ["proto"])?;
    prost_build::Config::new().bytes([".placet.control.v1.File.contents"]).compile_fds(control)?;
    ours.file.iter_mut().for_each(|file| file.source_code_info = None);
    std::fs::write(out.join("placet.bin"), ours.encode_to_vec())?;
    // For reflection only: the types come from a crate.
    let mut envoy = protox::compile(["envoy/service/auth/v3/external_auth.proto"], ["proto"])?;
    envoy.file.iter_mut().for_each(|file| file.source_code_info = None);
    std::fs::write(out.join("ext_authz.bin"), envoy.encode_to_vec())?;
    Ok(())
}
