//! `outrider up --netns`: a mesh whose workloads have network namespaces, on a machine that is a
//! network namespace itself. So every mesh has the addresses and ports that it likes, and nothing of
//! the machine that runs the tests is touched but `/run/netns`, `/etc/netns` and `/run/outrider`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::metrics::Metrics;
use crate::netns::{self, Netns};
use crate::process::{Finished, Process, command, run};
use crate::programs::{find, outrider};
use crate::quiet;
use crate::wait::{PATIENCE, eventually};

/// What `up` says when everything is ready.
const READY: &str = "Ctrl-C ends it";
/// The folders in which a mesh has something of its own while it runs.
const FOLDERS: [&str; 3] = ["/run/netns", "/etc/netns", "/run/outrider"];

/// A machine with a directory of YAML, and `up` once it was started. Fields are dropped in this order.
#[derive(Debug)]
pub struct Placed {
    pub up: Option<Process>,
    pub machine: Netns,
    pub folder: TempDir,
    logs: TempDir,
    _turn: quiet::Turn,
}

impl Placed {
    /// A machine, and a directory with these files of YAML.
    pub fn prepare(label: &str, files: &[(&str, &str)]) -> Result<Self> {
        let turn = quiet::shared();
        let machine = Netns::new(label)?;
        let folder = tempfile::Builder::new().prefix("placed-").tempdir()?;
        for (name, yaml) in files {
            fs::write(folder.path().join(name), yaml)?;
        }
        Ok(Self {
            up: None,
            machine,
            folder,
            logs: tempfile::tempdir()?,
            _turn: turn,
        })
    }

    /// The same with everything started and ready.
    pub fn start(label: &str, files: &[(&str, &str)]) -> Result<Self> {
        let mut placed = Self::prepare(label, files)?;
        placed.begin(&[])?;
        placed.process()?.wait_for_log(READY, PATIENCE)?;
        Ok(placed)
    }

    /// Starts `up`, without waiting for it. What an earlier one wrote is forgotten.
    pub fn begin(&mut self, arguments: &[&str]) -> Result<()> {
        let _ = fs::remove_file(self.logs.path().join("up.log"));
        let mut start = self.command(&outrider()?)?;
        start
            .arg("up")
            .arg(self.folder.path())
            .arg("--netns")
            .args(arguments);
        let process = Process::start("up", self.logs.path(), &mut start)?;
        self.up = Some(process.stopped_by(Signal::TERM));
        Ok(())
    }

    /// Starts `up`, and waits until everything is ready.
    pub fn again(&mut self) -> Result<()> {
        self.begin(&[])?;
        self.process()?.wait_for_log(READY, PATIENCE)
    }

    pub fn process(&mut self) -> Result<&mut Process> {
        self.up.as_mut().context("up was not started")
    }

    /// A program on the machine, outside of every workload. Unlike `ip netns exec` it shares the mounts
    /// of the tests, so that namespaces that it makes can be entered from here.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let mut command = command(&find("nsenter", "util-linux")?)?;
        command
            .arg(format!("--net=/run/netns/{}", self.machine.name()))
            .arg("--")
            .arg(program);
        Ok(command)
    }

    /// `outrider` on the machine.
    pub fn outrider(&self, arguments: &[&str]) -> Result<Finished> {
        run(self.command(&outrider()?)?.args(arguments), PATIENCE)
    }

    /// The id in the names of what this mesh made: that of the folder that names our process.
    pub fn id(&self) -> Result<String> {
        let own = self.up.as_ref().context("up was not started")?.id();
        eventually("the mesh has an id", PATIENCE, || {
            for entry in fs::read_dir("/run/outrider")?.flatten() {
                let owner = fs::read_to_string(entry.path().join("lock")).unwrap_or_default();
                if owner.trim() == own.to_string() {
                    return Ok(entry.file_name().into_string().ok());
                }
            }
            Ok(None)
        })
    }

    pub fn bridge(&self) -> Result<String> {
        Ok(format!("outr-{}", self.id()?))
    }

    /// The namespace of a workload.
    pub fn netns(&self, workload: &str) -> Result<String> {
        Ok(format!("outr-{}-{workload}", self.id()?))
    }

    /// A program as a workload would run it.
    pub fn inside(&self, workload: &str, program: &str, package: &str) -> Result<Command> {
        let mut command = command(&find("ip", "iproute2")?)?;
        command
            .args(["netns", "exec", &self.netns(workload)?])
            .arg(find(program, package)?);
        Ok(command)
    }

    /// curl in a workload: the status of the answer and its head.
    pub fn curl(&self, workload: &str, arguments: &[&str]) -> Result<Answer> {
        let mut curl = self.inside(workload, "curl", "curl")?;
        Answer::of(&mut curl, arguments)
    }

    /// curl on the machine, outside of every workload.
    pub fn curl_from_outside(&self, arguments: &[&str]) -> Result<Answer> {
        Answer::of(&mut self.command(&find("curl", "curl")?)?, arguments)
    }

    /// The addresses by which a workload knows a name: IPv4 first.
    pub fn addresses(&self, workload: &str, name: &str) -> Result<Vec<String>> {
        let file = Path::new("/etc/netns").join(self.netns(workload)?);
        let hosts = fs::read_to_string(file.join("hosts"))?;
        let found: Vec<String> = hosts
            .lines()
            .filter(|line| line.split_whitespace().skip(1).any(|known| known == name))
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
        ensure!(
            !found.is_empty(),
            "{workload} does not know {name}:\n{hosts}"
        );
        Ok(found)
    }

    /// The process of a workload's sidecar.
    pub fn sidecar(&self, workload: &str) -> Result<u32> {
        let ip = find("ip", "iproute2")?;
        let netns = self.netns(workload)?;
        let listed = run(command(&ip)?.args(["netns", "pids", &netns]), PATIENCE)?;
        let pids = listed.success()?.stdout;
        let mut pids = pids.split_whitespace();
        let found = pids.find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"proxy")
        });
        Ok(found.context("the sidecar runs")?.parse()?)
    }

    /// The command line of a workload's sidecar.
    pub fn sidecar_line(&self, workload: &str) -> Result<Vec<String>> {
        let line = fs::read(format!("/proc/{}/cmdline", self.sidecar(workload)?))?;
        let words = line.split(|byte| *byte == 0);
        let words = words.filter(|word| !word.is_empty());
        Ok(words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect())
    }

    /// Another sidecar of a workload, in its namespace and as its user: with the command line of the one
    /// that `up` started, and what `more` says.
    pub fn another_sidecar(
        &self,
        workload: &str,
        line: &[String],
        more: &[&str],
    ) -> Result<Command> {
        let mut start = self.inside(workload, "setpriv", "util-linux")?;
        start
            .args(["--reuid=2102", "--regid=2102", "--clear-groups"])
            .args(["--pdeathsig", "KILL", "--"])
            .args(line)
            .args(more);
        Ok(start)
    }

    /// Runs `work` on a thread in a workload's namespace, as do the threads that it starts.
    pub fn within<T: Send>(
        &self,
        workload: &str,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        netns::within(&self.netns(workload)?, work)
    }

    /// Where a workload's sidecar tells how it is.
    pub fn telemetry(&self, workload: &str) -> Result<String> {
        let own = self.addresses(workload, workload)?;
        Ok(format!("http://{}:15020", own[0]))
    }

    /// The metrics of a workload's sidecar.
    pub fn metrics(&self, workload: &str) -> Result<Metrics> {
        let url = format!("{}/metrics", self.telemetry(workload)?);
        let answer = self.curl(workload, &["--fail", &url])?;
        ensure!(answer.status == 200, "no metrics: {answer:?}");
        Metrics::parse(&answer.body)
    }

    /// Everything that a mesh of this id has left on the machine.
    pub fn left(&self, id: &str) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for folder in FOLDERS {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.path());
            left.extend(
                names
                    .filter(|path| is_of(path, id))
                    .map(|path| path.display().to_string()),
            );
        }
        let links = self.machine.ip(&["-oneline", "link", "show"])?;
        let ours = links.lines().filter(|line| line.contains("outr-"));
        left.extend(ours.map(str::to_owned));
        Ok(left)
    }
}

fn is_of(path: &Path, id: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name == id || name.starts_with(&format!("outr-{id}")))
}

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    /// curl's own: 0, or 7 for a connection that was refused.
    pub code: Option<i32>,
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn of(curl: &mut Command, arguments: &[&str]) -> Result<Self> {
        const LIMIT: Duration = Duration::from_secs(30);
        curl.args(["--silent", "--include", "--max-time", "10"]);
        let finished = run(curl.args(arguments), LIMIT)?;
        let (head, body) = finished
            .stdout
            .split_once("\r\n\r\n")
            .unwrap_or((&finished.stdout, ""));
        let status = head.split_whitespace().nth(1);
        Ok(Self {
            code: finished.status.code(),
            status: status.and_then(|status| status.parse().ok()).unwrap_or(0),
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    /// The connection ended with a reset: before curl had it, while it sent, or while it waited.
    pub fn was_reset(&self) -> bool {
        self.status == 0 && matches!(self.code, Some(7 | 55 | 56))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Where a test keeps what it writes beside the directory of YAML, which is watched.
impl Placed {
    pub fn logs(&self) -> PathBuf {
        self.logs.path().to_path_buf()
    }
}
