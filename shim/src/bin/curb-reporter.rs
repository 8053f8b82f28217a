//! The node reporter; see [`curb::reporter`].

fn main() -> std::process::ExitCode {
    curb::reporter::main()
}
