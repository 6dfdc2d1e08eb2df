//! Compiles Placet's own messages with a protobuf compiler written in Rust: nothing to install.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = ["proto/placet/v1/decision.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(protos, ["proto"])?;
    prost_build::Config::new()
        .type_attribute(".placet.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".placet.v1", "#[serde(rename_all = \"camelCase\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
