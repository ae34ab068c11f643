//! Generates the gRPC code from `proto/` with protox: no protoc on the machine.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["shunt/v1/admin.proto", "shunt/v1/routing.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    // Kept whole (with google.protobuf's files) for reflection and for the canonical JSON.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Ordered maps: the same message has the same bytes and the same JSON everywhere.
        .btree_map(".")
        .compile_fds_with_config(descriptors, {
            let mut config = tonic_prost_build::Config::new();
            // A message knows its name, which its JSON needs.
            config.enable_type_names();
            config
        })?;
    Ok(())
}
