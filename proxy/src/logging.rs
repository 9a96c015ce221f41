//! Logs: text for people, JSON for machines, and a level that can be changed while running.

use std::fmt;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// How log lines are written, to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The right to change the level.
#[derive(Clone)]
pub struct LogLevel(Option<reload::Handle<Targets, Registry>>);

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

/// A level that cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("not a level, nor a filter such as `info,outrider_proxy=debug`: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("logs are set up by someone else in this process")]
    NotOurs,
    #[error("the log's filter is gone: {0}")]
    Gone(#[from] reload::Error),
}

impl LogLevel {
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let handle = self.0.as_ref().ok_or(LogError::NotOurs)?;
        Ok(handle.reload(filter.parse::<Targets>()?)?)
    }
}

/// Sets up the logs of this process.
pub fn init(format: LogFormat, filter: &str) -> Result<LogLevel, LogError> {
    let (filter, handle) = reload::Layer::new(filter.parse::<Targets>()?);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => registry
            .with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())))
            .try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    Ok(LogLevel(result.is_ok().then_some(handle)))
}
