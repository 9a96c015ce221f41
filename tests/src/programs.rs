//! The programs that the tests drive, and a clear word where one is missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::command;

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The released command that is tested: `OUTRIDER_BIN`, or what `cargo build --release` made.
pub fn outrider() -> Result<PathBuf> {
    let path = match env::var_os("OUTRIDER_BIN") {
        Some(path) => PathBuf::from(path),
        None => target().join("release/outrider"),
    };
    if !path.is_file() {
        bail!(
            "{} is missing: run tests/run, which builds it",
            path.display()
        );
    }
    Ok(path)
}

/// What starts a sidecar: `outrider proxy`, or the small program that `OUTRIDER_PROXY_BIN` names.
pub fn sidecar() -> Result<Command> {
    match env::var_os("OUTRIDER_PROXY_BIN") {
        Some(path) => command(Path::new(&path)),
        None => {
            let mut start = command(&outrider()?)?;
            start.arg("proxy");
            Ok(start)
        }
    }
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A program of Debian's, by name. `package` is what provides it.
pub fn find(name: &str, package: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is missing: run tests/run, or apt-get install {package}"))
}

/// A program of Postgres, which Debian keeps outside of PATH, in a folder for each version.
pub fn find_postgres(name: &str) -> Result<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql");
    let mut found: Vec<PathBuf> = versions
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().map_or_else(|| find(name, "postgresql"), Ok)
}

/// The interpreter of the virtual environment that `tests/run` makes.
pub fn python() -> Result<PathBuf> {
    let path = root().join("tests/.venv/bin/python");
    if !path.exists() {
        bail!(
            "{} is missing: run tests/run, which makes it",
            path.display()
        );
    }
    Ok(path)
}

/// The grpc-go peer that `tests/run` builds.
pub fn grpc_go() -> Result<PathBuf> {
    let path = target().join("peers/grpc-go");
    if !path.is_file() {
        bail!(
            "{} is missing: run tests/run, which builds it",
            path.display()
        );
    }
    Ok(path)
}

/// Java with a class of the peers that `tests/run` builds: ours, or one of Kafka's.
pub fn java(class: &str) -> Result<Vec<String>> {
    let peers = target().join("peers/java");
    let jar = peers.join("peers-1.jar");
    if !jar.is_file() {
        bail!(
            "{} is missing: run tests/run, which builds it",
            jar.display()
        );
    }
    let java = find("java", "default-jre-headless")?;
    let path = format!("{}:{}/lib/*", jar.display(), peers.display());
    let options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"].map(str::to_owned);
    Ok([java.display().to_string()]
        .into_iter()
        .chain(options)
        .chain([path, class.to_owned()])
        .collect())
}

/// The Node peer that `tests/run` installs.
pub fn node_peer() -> Result<PathBuf> {
    let path = target().join("peers/node/grpc_client.js");
    if !path.is_file() {
        bail!(
            "{} is missing: run tests/run, which installs it",
            path.display()
        );
    }
    Ok(path)
}

/// A script of ours in tests/peers.
pub fn script(name: &str) -> PathBuf {
    root().join("tests/peers").join(name)
}
