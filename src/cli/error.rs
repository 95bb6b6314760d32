//! The reasons why `leveret serve` ends with a code other than 0.

use crate::config::error::ConfigError;
use crate::server::error::{ShutdownError, StartError};
use std::{fmt, io};
use tracing_subscriber::filter::ParseError;

/// The reason why the log of the process did not start.
#[derive(Debug)]
pub enum LogError {
    /// The filter is none of tracing's.
    Filter {
        /// The filter.
        text: String,
        /// The parser's error.
        source: ParseError,
    },
    /// The system refused a thread or descriptor.
    Io(io::Error),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { text, source } => {
                let expected = "expected a filter such as \"info\" or \"warn,leveret::session=debug\"";
                write!(f, "log: found {text:?}, {expected}: {source}")
            }
            Self::Io(error) => write!(f, "cannot start the log: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// The reason why a broker was not served, or not to the end.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration is invalid.
    Config(ConfigError),
    /// The log did not start.
    Log(LogError),
    /// The system refused what listening for signals needs.
    Signals(io::Error),
    /// The system refused the runtime's threads or descriptors.
    Runtime(io::Error),
    /// The broker did not start.
    Start(StartError),
    /// The store has failed, for this reason.
    StoreFailed(String),
    /// The broker did not stop as it should.
    Shutdown(ShutdownError),
}

impl ServeError {
    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Log(_) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "cannot listen for signals: {error}"),
            Self::Runtime(error) => write!(f, "cannot start the runtime: {error}"),
            Self::Start(error) => error.fmt(f),
            Self::StoreFailed(reason) => write!(f, "the store has failed: {reason}"),
            Self::Shutdown(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {}
