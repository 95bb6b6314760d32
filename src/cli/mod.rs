//! The command line: which command, with which arguments. One file a command; it knows no AMQP.

pub mod perf;
pub mod serve;
pub mod store;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A small, fast AMQP 0-9-1 broker that RabbitMQ clients use unchanged.
#[derive(Debug, Parser)]
#[command(name = "leveret", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients (the default).
    Serve(serve::Arguments),
    /// Load a broker, this one or another, and measure it.
    Perf(Box<perf::Arguments>),
    /// Look at a data directory, or mend it, while no broker uses it.
    Store(store::Arguments),
}

/// Runs the command that the arguments name.
pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Some(Command::Serve(serve)) => serve::run(&serve),
        Some(Command::Perf(perf)) => perf::run(&perf),
        Some(Command::Store(store)) => store::run(&store),
        None => serve::run(&arguments.serve),
    }
}
