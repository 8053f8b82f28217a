//! The shim containerd runs.
fn main() -> std::process::ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "launch") {
        return curb::launch::helper_main();
    }
    std::process::ExitCode::FAILURE
}
