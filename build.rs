//! Compiles the messages with a protobuf compiler written in Rust: nothing to install. And tells the linker
//! what to lay side by side.

use std::env;
use std::error::Error;
use std::path::{self, PathBuf};
use std::process::Command;

use prost::Message;

/// The functions that run, by tests/bench/functions.
const FUNCTIONS: &str = "deploy/release/functions.txt";

fn main() -> Result<(), Box<dyn Error>> {
    messages()?;
    layout()?;
    Ok(())
}

fn messages() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut ours = protox::compile(["placet/v1/decision.proto", "placet/v1/pdp.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    // What the decision log writes, but for decisions: src/audit/record.rs.
    for message in ["ShadowRecord", "Opinion", "Policy"] {
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

/// Lays what runs side by side in the release: it then takes a third less memory, since a page that is used
/// brings its neighbours along, and somewhat less time. Only the linker that Rust brings for this target can.
fn layout() -> Result<(), Box<dyn Error>> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    println!("cargo:rerun-if-changed={FUNCTIONS}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("TARGET", TARGET) && is_linked_by_rust(TARGET)? {
        let functions = path::absolute(FUNCTIONS)?;
        let functions = functions.display();
        println!("cargo:rustc-link-arg-bin=placet=-Wl,--symbol-ordering-file={functions}");
        println!("cargo:rustc-link-arg-bin=placet=-Wl,--no-warn-symbol-ordering");
    }
    Ok(())
}

/// Whether this Rust brings a linker, and nobody asks for another.
fn is_linked_by_rust(target: &str) -> Result<bool, Box<dyn Error>> {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let printed = Command::new(env::var("RUSTC")?).args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(printed.stdout)?.trim());
    let linker = sysroot.join("lib/rustlib").join(target).join("bin/gcc-ld/ld.lld");
    Ok(linker.exists() && !flags.contains("linker") && !flags.contains("fuse-ld"))
}
