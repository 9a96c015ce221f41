//! The `outrider` program: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrider_cli::main()
}
