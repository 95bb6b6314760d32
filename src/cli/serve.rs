//! `leveret serve`: configuration, log, runtime, exit code. The broker itself is in `server`.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 1 when the broker cannot start, cannot stop, or its store
//! has failed, 2 for a bad configuration or argument.

use crate::cli::error::ServeError;
use crate::cli::log::{self, Log};
use crate::cli::signals::Signals;
use crate::config::error::ConfigError;
use crate::config::{Config, StoreKind};
use crate::server::Broker;
use crate::server::descriptors;
use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Arguments of `leveret serve`. They override `LEVERET_...` variables, and those the file.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct ServeArguments {
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
    /// Give up what is damaged in the data directory instead of refusing to start
    #[arg(long)]
    repair: bool,
    /// Tracing filter of the log: error, warn, info, debug, or module=level,...
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Runs a broker until a signal comes. `give_back` returns free memory to the system.
pub fn run(arguments: &ServeArguments, give_back: fn()) -> ExitCode {
    let config = match load(arguments) {
        Ok(config) => config,
        Err(error) => return fail(&ServeError::Config(error)),
    };
    let log = match log::start(&config.log) {
        Ok(log) => log,
        Err(error) => return fail(&ServeError::Log(error)),
    };
    let code = match work(config, &log, give_back) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.last_line(&format!("leveret: {error}"));
            ExitCode::from(error.exit_code())
        }
    };
    log.flush();
    code
}

/// Runs a broker until a signal comes.
fn work(config: Config, log: &Log, give_back: fn()) -> Result<(), ServeError> {
    let directory = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    match config.store.kind {
        StoreKind::Disk => {
            tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir = %directory.display(), "starting leveret");
        }
        StoreKind::Memory => tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting leveret"),
    }
    let descriptors::Raised { before, now } = descriptors::raise();
    tracing::info!(limit = now, before, "limit of open files");
    let signals = Signals::listen(log.clone()).map_err(ServeError::Signals)?;
    let given_back = Arc::new(AtomicU64::new(0));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().on_thread_park(give_back_on_park(Arc::clone(&given_back), give_back)).build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    let served = runtime.block_on(serve(config, signals, &given_back, give_back));
    // The broker is shut down: background tasks have nothing left to finish.
    runtime.shutdown_background();
    served
}

/// Returns the action of a worker before it waits for work: the allocator keeps memory by thread,
/// so each gives back its own, once for each time that the counter goes up.
fn give_back_on_park(given_back: Arc<AtomicU64>, give_back: fn()) -> impl Fn() + Send + Sync {
    thread_local!(static SEEN: Cell<u64> = const { Cell::new(0) });
    move || {
        let times = given_back.load(Ordering::Relaxed);
        if SEEN.replace(times) != times {
            give_back();
        }
    }
}

async fn serve(
    config: Config,
    mut signals: Signals,
    given_back: &AtomicU64,
    give_back: fn(),
) -> Result<(), ServeError> {
    let broker = Broker::start(config).await.map_err(ServeError::Start)?;
    tracing::info!("Server startup complete");
    let failed = tokio::select! {
        signal = signals.wait() => {
            tracing::info!(signal, "shutting down");
            None
        }
        reason = broker.failed() => Some(reason),
        never = give_back_freed(&broker, given_back, give_back) => match never {},
    };
    let stopped = broker.shutdown().await;
    if let Some(reason) = failed {
        return Err(ServeError::StoreFailed(reason));
    }
    stopped.map_err(ServeError::Shutdown)?;
    tracing::info!("shutdown complete");
    Ok(())
}

/// Gives memory back to the system whenever much was freed, and what is freed with it.
async fn give_back_freed(broker: &Broker, given_back: &AtomicU64, give_back: fn()) -> Infallible {
    loop {
        broker.memory_freed().await;
        given_back.fetch_add(1, Ordering::Relaxed);
        give_back();
        // They find nothing to do, and give back theirs before they wait again.
        broker.wake_workers();
    }
}

fn load(arguments: &ServeArguments) -> Result<Config, ConfigError> {
    let mut config = Config::load(arguments.config.as_deref(), std::env::vars_os())?;
    if !arguments.bind.is_empty() {
        config.bind = arguments.bind.clone();
    }
    if let Some(data_dir) = &arguments.data_dir {
        config.data_dir = data_dir.clone();
    }
    config.store.repair |= arguments.repair;
    if arguments.ephemeral {
        config.store.kind = StoreKind::Memory;
    }
    if let Some(log) = &arguments.log {
        config.log = log.clone();
    }
    Ok(config)
}

fn fail(error: &ServeError) -> ExitCode {
    eprintln!("leveret: {error}");
    ExitCode::from(error.exit_code())
}
