//! Fairlead's agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_userspace::agent::main()
}
