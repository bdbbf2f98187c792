//! Parses, runs, and gives the exit code; everything else is the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    zeoraidctl::cli::main(std::env::args_os())
}
