//! iproute2's `ip`: many commands at once, and what it knows. Owns how it is run and how its errors
//! are told; blocking, since it takes milliseconds.

use std::io::{self, Seek as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;

/// Why `ip` did not do what it was told.
#[derive(Debug, Error)]
pub enum IpError {
    /// It is not installed.
    #[error("there is no `ip`, which makes network namespaces: apt-get install iproute2")]
    Missing,
    /// It did not run.
    #[error("cannot run ip: {0}")]
    Start(io::Error),
    /// It could do nothing.
    #[error(
        "this machine lets nobody make network namespaces here (ip {command}: {said}): run it outside \
         of the container, or in one with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    )]
    Forbidden {
        /// What it was told.
        command: String,
        /// Its words.
        said: String,
    },
    /// It failed.
    #[error("ip {command}: {said}")]
    Failed {
        /// What it was told.
        command: String,
        /// Its words.
        said: String,
    },
    /// What it says of routes or links cannot be read.
    #[error("cannot read what ip {0} says: {1}")]
    Unreadable(String, String),
}

/// A route of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub to: IpNet,
    /// By which link.
    pub link: String,
}

/// The program.
#[derive(Debug, Clone)]
pub struct Ip {
    program: PathBuf,
}

impl Ip {
    /// Finds it: it may be where only root has it in PATH.
    pub fn find() -> Result<Self, IpError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(usual)
            .map(|folder| folder.join("ip"))
            .find(|candidate| candidate.is_file())
            .map(|program| Self { program })
            .ok_or(IpError::Missing)
    }

    /// Where it is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs `lines`, one command each, up to the first that fails.
    pub fn batch(&self, lines: &str) -> Result<(), IpError> {
        finish(self.start(&[], lines)?, lines)
    }

    /// The same in many namespaces at once.
    pub fn batch_in(&self, each: &[(&str, String)]) -> Result<(), IpError> {
        // All run before one is waited for.
        let started: Vec<_> = each
            .iter()
            .map(|(namespace, lines)| (self.start(&["-n", namespace], lines), lines))
            .collect();
        let finished: Vec<_> = started
            .into_iter()
            .map(|(started, lines)| finish(started?, lines))
            .collect();
        finished.into_iter().collect()
    }

    /// Runs `lines` to the end, whatever fails.
    pub fn batch_regardless(&self, lines: &str) -> Result<(), IpError> {
        let child = self.start(&["-force"], lines)?;
        child.wait_with_output().map(drop).map_err(IpError::Start)
    }

    /// Every route of this machine, in whichever table, but the default ones.
    pub fn routes(&self) -> Result<Vec<Route>, IpError> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            let listed = self.ask(&[family, "-json", "route", "show", "table", "all"])?;
            routes.extend(listed.iter().filter_map(route));
        }
        Ok(routes)
    }

    /// The names of the links of this machine.
    pub fn links(&self) -> Result<Vec<String>, IpError> {
        let listed = self.ask(&["-json", "link", "show"])?;
        let name = |link: &Value| link["ifname"].as_str().map(str::to_owned);
        Ok(listed.iter().filter_map(name).collect())
    }

    /// The processes that are in a namespace.
    pub fn processes(&self, namespace: &str) -> Result<Vec<i32>, IpError> {
        let said = self.output(&["netns", "pids", namespace])?;
        Ok(said
            .split_whitespace()
            .filter_map(|process| process.parse().ok())
            .collect())
    }

    fn ask(&self, arguments: &[&str]) -> Result<Vec<Value>, IpError> {
        let said = self.output(arguments)?;
        if said.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&said)
            .map_err(|error| IpError::Unreadable(arguments.join(" "), error.to_string()))
    }

    fn output(&self, arguments: &[&str]) -> Result<String, IpError> {
        let output = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(IpError::Start)?;
        if !output.status.success() {
            return Err(failure(arguments.join(" "), &output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn start(&self, options: &[&str], lines: &str) -> Result<Child, IpError> {
        // A file, not a pipe: who writes to it and reads errors at the same time may wait forever.
        let input = || {
            let mut input = tempfile::tempfile()?;
            input.write_all(lines.as_bytes())?;
            input.rewind()?;
            Ok(input)
        };
        let input = input().map_err(IpError::Start)?;
        Command::new(&self.program)
            .args(options)
            .args(["-batch", "-"])
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(IpError::Start)
    }
}

fn finish(child: Child, lines: &str) -> Result<(), IpError> {
    let output = child.wait_with_output().map_err(IpError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    // "Command failed -:3"
    let said = String::from_utf8_lossy(&output.stderr);
    let number = said
        .rsplit_once("-:")
        .and_then(|(_, number)| number.trim().parse::<usize>().ok())
        .and_then(|number| number.checked_sub(1));
    let command = number.and_then(|number| lines.lines().nth(number));
    Err(failure(
        command.unwrap_or("-batch").to_owned(),
        &output.stderr,
    ))
}

fn failure(command: String, stderr: &[u8]) -> IpError {
    let said: Vec<String> = String::from_utf8_lossy(stderr)
        .lines()
        .filter(|line| !line.starts_with("Command failed"))
        .map(|line| line.trim_start_matches("RTNETLINK answers: ").to_owned())
        .collect();
    let said = said.join("; ");
    if said.contains("not permitted") || said.contains("Permission denied") {
        IpError::Forbidden { command, said }
    } else {
        IpError::Failed { command, said }
    }
}

/// None for a default route, and for what leads nowhere.
fn route(listed: &Value) -> Option<Route> {
    let to = listed["dst"].as_str()?;
    let to = to
        .parse::<IpNet>()
        .ok()
        .or_else(|| to.parse::<IpAddr>().ok().map(IpNet::from))?;
    let link = listed["dev"].as_str()?.to_owned();
    (to.prefix_len() > 0).then_some(Route { to, link })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let read = |text: &str| route(&serde_json::from_str(text).unwrap());
        let found = read(r#"{"dst": "10.88.0.0/16", "dev": "podman0", "flags": []}"#).unwrap();
        assert_eq!(found.to, "10.88.0.0/16".parse().unwrap());
        assert_eq!(found.link, "podman0");
        let found = read(r#"{"type": "local", "dst": "192.0.2.2", "dev": "eth0"}"#).unwrap();
        assert_eq!(found.to, "192.0.2.2/32".parse().unwrap());
        for other in [
            r#"{"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"}"#,
            r#"{"dst": "0.0.0.0/0", "dev": "eth0"}"#,
            r#"{"type": "unreachable", "dst": "10.0.0.0/8"}"#,
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_failure_names_the_command_and_what_to_do() {
        let stderr = b"RTNETLINK answers: File exists\nCommand failed -:2\n";
        let error = failure("link add name outr-1".to_owned(), stderr);
        assert_eq!(error.to_string(), "ip link add name outr-1: File exists");
        let stderr = b"mount --make-shared /run/netns failed: Operation not permitted\n";
        let error = failure("netns add outr-1-a".to_owned(), stderr);
        assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
    }
}
