//! The shim containerd runs.
fn main() -> std::process::ExitCode {
    curb::bootstrap::main()
}
