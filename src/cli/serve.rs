//! `leveret serve`: configuration, log, runtime, signals, exit code. Serving itself is the server's.
//!
//! Exit codes: 0 after SIGTERM or Ctrl-C, 1 when the broker cannot start or its store has failed, 2 for a bad configuration or argument.

use crate::config::{Config, PREFIX, StoreKind};
use crate::server::Broker;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What `leveret serve` may be told. Arguments win over `LEVERET_...` variables, those over the file.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// The configuration file [default: config.toml in the working directory, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An address to listen on; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Vec<SocketAddr>,
    /// Where the broker keeps its files
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep everything in memory: nothing touches the disk, and everything ends with the broker
    #[arg(long)]
    ephemeral: bool,
    /// What to log, as a tracing filter: error, warn, info, debug, or module=level,...
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Serves until a signal comes.
pub fn run(arguments: &Arguments) -> ExitCode {
    let config = match load(arguments) {
        Ok(config) => config,
        Err(message) => return fail(2, &message),
    };
    if let Err(message) = start_log(&config.log) {
        return fail(2, &message);
    }
    let directory = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    match config.store.kind {
        StoreKind::Disk => {
            tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir = %directory.display(), "starting leveret");
        }
        StoreKind::Memory => tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting leveret"),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("cannot start the runtime: {error}")),
    };
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &format!("cannot listen for signals: {error}")),
    };
    let broker = match Broker::start(config).await {
        Ok(broker) => broker,
        Err(error) => return fail(1, &error.to_string()),
    };
    tracing::info!("Server startup complete");
    let failed = tokio::select! {
        signal = signals.wait() => {
            tracing::info!(signal, "shutting down");
            None
        }
        reason = broker.failed() => Some(reason),
    };
    let stopped = broker.shutdown().await;
    if let Some(reason) = failed {
        return fail(1, &format!("the store has failed: {reason}"));
    }
    if let Err(reason) = stopped {
        return fail(1, &reason);
    }
    tracing::info!("shutdown complete");
    ExitCode::SUCCESS
}

fn load(arguments: &Arguments) -> Result<Config, String> {
    let mut config = Config::load(arguments.config.as_deref(), variables()?).map_err(|error| error.to_string())?;
    if !arguments.bind.is_empty() {
        config.bind = arguments.bind.clone();
    }
    if let Some(data_dir) = &arguments.data_dir {
        config.data_dir = data_dir.clone();
    }
    if arguments.ephemeral {
        config.store.kind = StoreKind::Memory;
    }
    if let Some(log) = &arguments.log {
        config.log = log.clone();
    }
    Ok(config)
}

/// The environment as text. What is none and is not ours concerns nobody here.
fn variables() -> Result<impl Iterator<Item = (String, String)>, String> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(value) if name.starts_with(PREFIX) => {
                return Err(format!("environment variable {name}: found {value:?}, expected UTF-8"));
            }
            Err(_) => {}
        }
    }
    Ok(variables.into_iter())
}

fn start_log(filter: &str) -> Result<(), String> {
    let targets: Targets = filter.parse().map_err(|error| {
        format!("log: found {filter:?}, expected a filter such as \"info\" or \"warn,leveret::session=debug\": {error}")
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(lines).with(targets).init();
    Ok(())
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("leveret: {message}");
    ExitCode::from(code)
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn wait(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}
