//! The program: arguments in, exit code out. Everything else is the library's.

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    leveret::cli::run(leveret::cli::Arguments::parse())
}
