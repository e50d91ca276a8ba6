//! `lbctl`: shows what Fairlead has put into the kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_userspace::cli::main()
}
