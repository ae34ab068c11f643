//! Generates the client of etcd's API from `proto/etcd.proto` with protox: no protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["etcd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // Values are copied once, out of the frame that they came in.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
