//! The program: arguments in, exit code out. Everything else is the library's.

#![deny(clippy::unwrap_used, clippy::expect_used)]

mod allocator;

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    leveret::cli::run(leveret::cli::Arguments::parse(), allocator::give_back)
}
