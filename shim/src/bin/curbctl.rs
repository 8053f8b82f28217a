//! The reviewer's tool; see [`curb::ctl`].

fn main() -> std::process::ExitCode {
    curb::ctl::main()
}
