//! Sets up the process's log. Owns nothing afterwards.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Args, LogFormat};

/// The client of the API server.
const CLIENT: &str = "kube_client";

/// Installs the log that `args` ask for, on standard error.
///
/// A log that is already installed (the control plane is embedded) is left as it is.
///
/// # Errors
/// The filter could not be read.
pub(crate) fn init(args: &Args) -> Result<(), tracing_subscriber::filter::ParseError> {
    let mut filter: Targets = args.log_level.parse()?;
    if !args.log_level.contains(CLIENT) {
        // It warns of every kind that does not exist, which is nothing to warn of.
        let level = filter.default_level().unwrap_or(LevelFilter::OFF);
        filter = filter.with_target(CLIENT, level.min(LevelFilter::ERROR));
    }
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let installed = match args.log_format {
        LogFormat::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log is already installed");
    }
    Ok(())
}

/// `text` on one line: control characters are escaped, so that what somebody else wrote (a file, a
/// sidecar) cannot add lines to the log; cut at `limit` bytes.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit));
    for character in text.chars() {
        if line.len() >= limit {
            line.push('…');
            break;
        }
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m", 100), "a\\nb\\u{1b}[31m");
        assert_eq!(one_line("abcdef", 3), "abc…");
    }
}
