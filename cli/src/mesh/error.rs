//! Why a mesh did not come up.

use thiserror::Error;

use super::START_LIMIT;
use super::credentials::CredentialsError;
use super::event::ChildName;
use super::netns::NetworkError;
use super::ports::PortProblem;

/// Why a mesh did not come up.
#[derive(Debug, Error)]
pub enum StartError {
    /// Credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// This program's own path.
    #[error("cannot find this program's own file: {0}")]
    OwnPath(std::io::Error),
    /// A Workload's command.
    #[error(
        "Workload {workload}: spec.command[0]: no program {program:?} in PATH; install it, or give its full path"
    )]
    Program {
        /// NAMESPACE/NAME
        workload: String,
        /// As written.
        program: String,
    },
    /// The network of its own.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Somebody else listens there.
    #[error("{}", lines(.0))]
    Ports(Vec<PortProblem>),
    /// `proxy-init`.
    #[error("the connections of Workload {workload} cannot be intercepted: {said}")]
    Intercept {
        /// NAMESPACE/NAME
        workload: String,
        /// Its words.
        said: String,
    },
    /// A child ended before it was ready.
    #[error("{child} ended before it was ready ({how}){}", quoted(.last))]
    Ended {
        /// Which one.
        child: ChildName,
        /// Its exit status.
        how: String,
        /// Its last lines.
        last: Vec<String>,
    },
    /// A child runs but does not become ready.
    #[error("{child} is not ready after {} s: {why}{}", START_LIMIT.as_secs(), quoted(.last))]
    NotReady {
        /// Which one.
        child: ChildName,
        /// What its health port says.
        why: String,
        /// Its last lines.
        last: Vec<String>,
    },
    /// There is no such child.
    #[error("there is no {0} in this mesh")]
    Unknown(ChildName),
}

fn lines(problems: &[PortProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn quoted(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_the_last_lines() {
        let error = StartError::Ended {
            child: ChildName::control_plane(),
            how: "exit status: 1".to_owned(),
            last: vec!["mesh.yaml:3:1: kind: unknown".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "control-plane ended before it was ready (exit status: 1)\n  | mesh.yaml:3:1: kind: unknown"
        );
    }
}
