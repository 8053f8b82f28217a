//! Generates the interface from the `.proto` files without a system `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: &[&str] = &["curb/v1/reporter.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={proto}");
    }
    println!("cargo:rerun-if-changed=build.rs");

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(PROTOS)?;

    // Reflection serves the set as it is: with comments, so that a client can show what a field means.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("curb.v1.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
