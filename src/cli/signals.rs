//! Signals, received by a thread of their own: neither a busy runtime nor a blocked log keeps the
//! process from ending.

use crate::cli::log::Log;
use std::io;
use std::time::Duration;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a shutdown may take before the process ends all the same: less than containers get.
const SHUTDOWN_MAX: Duration = Duration::from_secs(8);

/// The signals that end the process.
#[derive(Debug)]
pub struct Signals(watch::Receiver<Option<&'static str>>);

impl Signals {
    /// Starts the thread. From now on SIGHUP is logged and changes nothing.
    ///
    /// # Errors
    /// The system refuses the thread or a descriptor.
    pub fn listen(log: Log) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let mut heard = SignalStreams {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        };
        drop(entered);
        let (told, telling) = watch::channel(None);
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(move || {
            runtime.block_on(async {
                let name = heard.end().await;
                told.send_replace(Some(name));
                let reason = match timeout(SHUTDOWN_MAX, heard.end()).await {
                    Ok(again) => format!("{again} while shutting down"),
                    Err(_) => format!("the shutdown took longer than {} s", SHUTDOWN_MAX.as_secs()),
                };
                log.last_line(&format!("leveret: ended at once: {reason}; the next start recovers what was confirmed"));
                log.flush();
                std::process::exit(1);
            });
        })?;
        Ok(Self(telling))
    }

    /// Waits for SIGTERM or SIGINT and returns its name. The process ends at once on a second
    /// signal, and when the shutdown takes too long.
    pub async fn wait(&mut self) -> &'static str {
        match self.0.wait_for(Option::is_some).await {
            Ok(name) => name.unwrap_or_default(),
            // The thread outlives everything but the process.
            Err(_) => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
struct SignalStreams {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl SignalStreams {
    async fn end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => tracing::info!(
                    signal = "SIGHUP", "signal ignored: the configuration is read at start only, and the log goes to standard error"
                ),
            }
        }
    }
}
