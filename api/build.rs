//! Compiles the wire protocol with protox, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/outrider.proto");
    let descriptors = protox::compile(["outrider.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Clients take any transport: this crate opens no sockets.
        .build_transport(false)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
