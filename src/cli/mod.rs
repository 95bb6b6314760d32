//! The command line: commands and their arguments, one file a command. Names no AMQP.

pub mod perf;
pub mod serve;
pub mod store;

mod error;
mod log;
mod signals;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A small, fast AMQP 0-9-1 broker that RabbitMQ clients use unchanged.
#[derive(Debug, Parser)]
#[command(name = "leveret", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<CliCommand>,
    #[command(flatten)]
    serve: serve::ServeArguments,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Serve clients (the default).
    Serve(serve::ServeArguments),
    /// Load a broker, this one or another, and measure it.
    Perf(Box<perf::PerfArguments>),
    /// Check a data directory, or repair it, while no broker uses it.
    Store(store::StoreArguments),
}

/// Runs the command that the arguments name.
pub fn run(arguments: Arguments, give_back: fn()) -> ExitCode {
    match arguments.command {
        Some(CliCommand::Serve(serve)) => serve::run(&serve, give_back),
        Some(CliCommand::Perf(perf)) => perf::run(&perf),
        Some(CliCommand::Store(store)) => store::run(&store),
        None => serve::run(&arguments.serve, give_back),
    }
}
