//! Processes that a test starts: their output in a file, and gone when the test is over, also when
//! the test is killed.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::programs;
use crate::wait::{PATIENCE, eventually, until};

/// How many lines of a process's output a failing test shows.
const TAIL: usize = 120;

/// Whether processes show their output when they are dropped.
static SHOWN: AtomicBool = AtomicBool::new(true);

/// For programs that nobody captures the output of.
pub fn keep_output_to_files() {
    SHOWN.store(false, Ordering::SeqCst);
}

/// A program to start: it dies with the thread that started it.
pub fn command(program: &Path) -> Result<Command> {
    let mut command = Command::new(programs::find("setpriv", "util-linux")?);
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .stdin(Stdio::null());
    Ok(command)
}

/// Like [`command`]; when the tests run as root, as `user` instead.
pub fn command_as(user: &str, group: &str, program: &Path) -> Result<Command> {
    if !rustix::process::geteuid().is_root() {
        return command(program);
    }
    let mut command = Command::new(programs::find("setpriv", "util-linux")?);
    command
        .args([
            "--reuid",
            user,
            "--regid",
            group,
            "--clear-groups",
            "--pdeathsig",
            "KILL",
            "--",
        ])
        .arg(program)
        .stdin(Stdio::null());
    Ok(command)
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Finished {
    /// Fails unless the program exited with 0.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!(
            "{}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout,
            self.stderr
        );
    }

    /// Both outputs, for messages that may be in either.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end, which must come within `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    run_with_input(command, &[], limit)
}

/// Like [`run`], with something to read on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    let mut stdin = tempfile::tempfile()?;
    stdin.write_all(input)?;
    stdin.rewind()?;
    let mut stdout = tempfile::tempfile()?;
    let mut stderr = tempfile::tempfile()?;
    let start = Instant::now();
    let mut child = command
        .stdin(stdin)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let status = eventually("the program exits", limit, || Ok(child.try_wait()?));
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let took = start.elapsed();
    let (stdout, stderr) = (read_all(&mut stdout)?, read_all(&mut stderr)?);
    let status = status.with_context(|| format!("{command:?}\n{stdout}\n{stderr}"))?;
    Ok(Finished {
        status,
        stdout,
        stderr,
        took,
    })
}

fn read_all(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a process holds in memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    pub resident: u64,
    /// Of that, what no file is behind: heap, stacks, and pages of files that were written to.
    pub anonymous: u64,
}

impl Footprint {
    /// Pages of files: of the program itself, mostly.
    pub fn of_files(self) -> u64 {
        self.resident - self.anonymous
    }
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(field))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// A process in the background.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    stop: Signal,
    exited: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output in `folder`. A process that was started under the same name
    /// before has its output kept: the new one's comes after it.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self {
            name: name.into(),
            child,
            log,
            stop: Signal::KILL,
            exited: None,
        })
    }

    /// On drop, asks with this signal and waits; for those that have children of their own.
    pub fn stopped_by(mut self, signal: Signal) -> Self {
        self.stop = signal;
        self
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub fn log_file(&self) -> &Path {
        &self.log
    }

    pub fn running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().ok().flatten();
        }
        self.exited
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        let pid = Pid::from_raw(pid).context("a process has a number")?;
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))?;
        if signal == Signal::STOP {
            // It may run for a moment longer.
            let stat = format!("/proc/{}/stat", self.child.id());
            until(&format!("{} is stopped", self.name), PATIENCE, || {
                let stat = std::fs::read_to_string(&stat)?;
                let state = stat.rsplit(')').next().map(str::trim_start);
                Ok(state.is_some_and(|state| state.starts_with('T')))
            })?;
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), without waiting.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it at once (SIGKILL), and waits.
    pub fn kill(&mut self) -> Result<()> {
        if self.running() {
            self.child.kill()?;
            self.exited = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// Waits until it has exited.
    pub fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        eventually(&format!("{name} exits"), limit, || Ok(self.exit_status()))
    }

    /// Waits until its output has `text`; fails at once if it has ended without it.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<()> {
        let found = until(&format!("{} says {text:?}", self.name), limit, || {
            Ok(self.log().contains(text) || !self.running())
        });
        if found.is_err() || !self.log().contains(text) {
            bail!(
                "{} never said {text:?}; it said:\n{}",
                self.name,
                self.log()
            );
        }
        Ok(())
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, bytes.
    pub fn peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kib = kibibytes(&status, field).with_context(|| format!("{field} of {}", self.name))?;
        Ok(kib * 1024)
    }

    /// What is resident now, by what is behind it.
    pub fn footprint(&self) -> Result<Footprint> {
        Self::footprint_of(self.id())
    }

    /// The same of any process.
    pub fn footprint_of(pid: u32) -> Result<Footprint> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let bytes = |field: &'static str| {
            kibibytes(&rollup, field)
                .map(|kib| 1024 * kib)
                .context(field)
        };
        Ok(Footprint {
            resident: bytes("Rss:")?,
            anonymous: bytes("Anonymous:")?,
        })
    }

    /// User and system time it has used.
    pub fn cpu_time(&self) -> Result<Duration> {
        Self::cpu_time_of(self.id())
    }

    /// The same of any process.
    pub fn cpu_time_of(pid: u32) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in brackets, may hold spaces. After it: state is field 3, utime 14, stime 15.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has a name")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap_or(0))
            .sum();
        let each = 1_000_000 / rustix::param::clock_ticks_per_second();
        Ok(Duration::from_micros(ticks * each))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.running() && self.stop != Signal::KILL {
            let _ = self.signal(self.stop);
            let _ = self.exit(Duration::from_secs(15));
        }
        let _ = self.kill();
        if !SHOWN.load(Ordering::SeqCst) {
            return;
        }
        // Captured by the test runner, which shows it only when the test has failed.
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let skipped = lines.len().saturating_sub(TAIL);
        eprintln!("---- {} ({skipped} lines before these)", self.name);
        for line in &lines[skipped..] {
            eprintln!("{line}");
        }
    }
}
