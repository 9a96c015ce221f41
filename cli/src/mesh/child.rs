//! One child process: started, watched, its output read line by line, started again with backoff
//! when it dies, and ended on request. Owns the process and its process group; knows nothing of
//! meshes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::event::{ChildName, Event, Role};

/// How long the first restart waits; each further one twice as long, up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A child that ran this long is not in a crash loop.
const STEADY: Duration = Duration::from_secs(10);
/// Longer lines are split.
const LINE_LIMIT: u64 = 64 * 1024;
/// How many of a child's last lines are kept for the report of its failure.
const LAST_LINES: usize = 5;
/// How long the output of an ended child is waited for: a grandchild may hold it open.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// Its name in the mesh.
    pub(super) name: ChildName,
    /// The program, as an absolute path.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<OsString>,
    /// Variables added to this process's own.
    pub(super) env: Vec<(OsString, OsString)>,
}

impl Spec {
    /// The same inside of a network namespace.
    pub(super) fn inside(self, ip: &Path, namespace: &str) -> Self {
        let mut args: Vec<OsString> = ["netns", "exec", namespace].map(OsString::from).into();
        args.push(self.program.into());
        args.extend(self.args);
        Self {
            program: ip.to_path_buf(),
            args,
            ..self
        }
    }
}

/// How a child is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not started yet.
    New,
    /// Runs as this process.
    Running(u32),
    /// Died, and is started again soon.
    Waiting {
        /// How it died.
        how: String,
    },
    /// Killed on request; stays down until it is started again.
    Down,
    /// Ended for good.
    Gone,
}

enum Order {
    /// SIGKILL, and stay down.
    Kill,
    /// Start again after `Kill`.
    Start,
    /// A signal, and SIGKILL when its end takes longer.
    Stop(Signal, Duration),
}

/// The handle of a supervised child. When it is dropped the child is killed.
#[derive(Debug)]
pub(super) struct Child {
    role: Role,
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
    last: LastLines,
}

impl Child {
    /// Starts `spec` and a task that looks after it.
    pub(super) fn start(spec: Spec, events: broadcast::Sender<Event>) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let (state, watched) = watch::channel(State::New);
        let last = LastLines::default();
        let role = spec.name.role();
        let keeper = Keeper {
            spec,
            events,
            orders: received,
            state,
            last: last.clone(),
        };
        tokio::spawn(keeper.run());
        Self {
            role,
            orders,
            state: watched,
            last,
        }
    }

    /// Follows how the child is doing.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Its process, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Running(pid) => Some(pid),
            _ => None,
        }
    }

    /// The last lines that it printed.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.last.lock().iter().cloned().collect()
    }

    /// SIGKILL for the whole process group; the child stays down. Resolves when it is gone.
    pub(super) async fn kill(&self) {
        let _ = self.orders.send(Order::Kill);
        self.until(|state| matches!(state, State::Down | State::Gone))
            .await;
    }

    /// Starts the child again after [`Child::kill`]. Resolves when the process runs.
    pub(super) async fn start_again(&self) {
        let _ = self.orders.send(Order::Start);
        self.until(|state| !matches!(state, State::Down)).await;
    }

    /// Asks it to end, and SIGKILL after `deadline`. Resolves when it is gone. The app of a sidecar has
    /// ended by then, and SIGINT says so.
    pub(super) async fn stop(&self, deadline: Duration) {
        let signal = match self.role {
            Role::Sidecar => Signal::INT,
            Role::App | Role::ControlPlane => Signal::TERM,
        };
        self.end(signal, deadline).await;
    }

    /// The same for a sidecar whose app still serves.
    pub(super) async fn leave(&self, deadline: Duration) {
        self.end(Signal::TERM, deadline).await;
    }

    async fn end(&self, signal: Signal, deadline: Duration) {
        let _ = self.orders.send(Order::Stop(signal, deadline));
        self.until(|state| *state == State::Gone).await;
    }

    async fn until(&self, reached: impl FnMut(&State) -> bool) {
        // An error means that the keeper ended, and with it the child.
        let _ = self.state.clone().wait_for(reached).await;
    }
}

#[derive(Debug, Clone, Default)]
struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &str) {
        let mut lines = self.lock();
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

/// What comes after a process ended.
enum Next {
    Again { how: String, ran: Duration },
    Down,
    Gone,
}

struct Keeper {
    spec: Spec,
    events: broadcast::Sender<Event>,
    orders: mpsc::UnboundedReceiver<Order>,
    state: watch::Sender<State>,
    last: LastLines,
}

impl Keeper {
    async fn run(mut self) {
        let mut delay = BACKOFF.0;
        loop {
            let mut next = self.run_once().await;
            if let Next::Again { how, ran } = next {
                if ran > STEADY {
                    delay = BACKOFF.0;
                }
                next = self.wait_before_restart(how, delay).await;
                delay = (delay * 2).min(BACKOFF.1);
            }
            if let Next::Down = next {
                next = self.stay_down().await;
            }
            if let Next::Gone = next {
                break;
            }
        }
        self.state.send_replace(State::Gone);
    }

    async fn run_once(&mut self) -> Next {
        let started = Instant::now();
        let (mut process, pid) = match self.spawn() {
            Ok(spawned) => spawned,
            Err(how) => {
                return Next::Again {
                    how,
                    ran: Duration::ZERO,
                };
            }
        };
        let mut output = self.read_output(&mut process);
        self.state
            .send_replace(State::Running(pid.as_raw_nonzero().get().unsigned_abs()));
        let next = tokio::select! {
            status = process.wait() => Next::Again {
                how: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
                ran: started.elapsed(),
            },
            order = next_order(&mut self.orders) => match order {
                None => end(&mut process, pid, None, Next::Gone).await,
                Some(Order::Stop(signal, deadline)) => {
                    let farewell = Farewell { signal, deadline };
                    end(&mut process, pid, Some((farewell, &mut self.orders)), Next::Gone).await
                }
                Some(Order::Kill | Order::Start) => end(&mut process, pid, None, Next::Down).await,
            },
        };
        // What the child itself started must not outlive it.
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = timeout(OUTPUT_GRACE, async {
            while output.join_next().await.is_some() {}
        })
        .await;
        output.detach_all();
        next
    }

    fn spawn(&self) -> Result<(Process, Pid), String> {
        let process = Command::new(&self.spec.program)
            .args(&self.spec.args)
            .envs(self.spec.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.spec.program.display()))?;
        let pid = process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| "ended at once".to_owned())?;
        let _ = self.events.send(Event::Started {
            child: self.spec.name.clone(),
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
        });
        Ok((process, pid))
    }

    fn read_output(&self, process: &mut Process) -> JoinSet<()> {
        let mut readers = JoinSet::new();
        if let Some(stdout) = process.stdout.take() {
            readers.spawn(read_lines(
                stdout,
                self.spec.name.clone(),
                self.events.clone(),
                self.last.clone(),
            ));
        }
        if let Some(stderr) = process.stderr.take() {
            readers.spawn(read_lines(
                stderr,
                self.spec.name.clone(),
                self.events.clone(),
                self.last.clone(),
            ));
        }
        readers
    }

    /// Waits out the backoff, or less when an order comes.
    async fn wait_before_restart(&mut self, how: String, again_in: Duration) -> Next {
        let _ = self.events.send(Event::Ended {
            child: self.spec.name.clone(),
            how: how.clone(),
            again_in,
        });
        self.state.send_replace(State::Waiting { how: how.clone() });
        tokio::select! {
            () = sleep(again_in) => Next::Again { how, ran: Duration::ZERO },
            order = self.orders.recv() => match order {
                Some(Order::Start) => Next::Again { how, ran: Duration::ZERO },
                Some(Order::Kill) => Next::Down,
                Some(Order::Stop(..)) | None => Next::Gone,
            },
        }
    }

    async fn stay_down(&mut self) -> Next {
        self.state.send_replace(State::Down);
        loop {
            match self.orders.recv().await {
                Some(Order::Start) => {
                    self.state.send_replace(State::New);
                    return Next::Again {
                        how: String::new(),
                        ran: Duration::ZERO,
                    };
                }
                Some(Order::Kill) => {}
                Some(Order::Stop(..)) | None => return Next::Gone,
            }
        }
    }
}

/// The next order that means something to a running child.
async fn next_order(orders: &mut mpsc::UnboundedReceiver<Order>) -> Option<Order> {
    loop {
        match orders.recv().await {
            Some(Order::Start) => {}
            order => return order,
        }
    }
}

/// How a process is asked to end, and how long it may take.
struct Farewell {
    signal: Signal,
    deadline: Duration,
}

/// Ends the process: asks it first when there is a farewell, which a `Kill` cuts short.
async fn end(
    process: &mut Process,
    pid: Pid,
    graceful: Option<(Farewell, &mut mpsc::UnboundedReceiver<Order>)>,
    next: Next,
) -> Next {
    if let Some((farewell, orders)) = graceful {
        let _ = kill_process_group(pid, farewell.signal);
        tokio::select! {
            _ = process.wait() => return next,
            () = sleep(farewell.deadline) => {}
            () = killed(orders) => {}
        }
    }
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = process.wait().await;
    next
}

async fn killed(orders: &mut mpsc::UnboundedReceiver<Order>) {
    while !matches!(orders.recv().await, Some(Order::Kill) | None) {}
}

async fn read_lines(
    output: impl AsyncRead + Unpin,
    child: ChildName,
    events: broadcast::Sender<Event>,
    last: LastLines,
) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader)
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        last.push(&text);
        let _ = events.send(Event::Line {
            child: child.clone(),
            text,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Child, broadcast::Receiver<Event>) {
        let (events, received) = broadcast::channel(64);
        let spec = Spec {
            name: ChildName::app("test"),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
        };
        (Child::start(spec, events), received)
    }

    async fn line(events: &mut broadcast::Receiver<Event>) -> String {
        loop {
            if let Event::Line { text, .. } = events.recv().await.unwrap() {
                return text;
            }
        }
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again() {
        let (child, mut events) = shell("echo up; exit 3");
        assert_eq!(line(&mut events).await, "up");
        assert_eq!(line(&mut events).await, "up");
        child.stop(Duration::from_secs(5)).await;
        assert_eq!(*child.state().borrow(), State::Gone);
    }

    #[tokio::test]
    async fn a_killed_child_stays_down_until_started() {
        let (child, mut events) = shell("echo up; exec sleep 1000");
        assert_eq!(line(&mut events).await, "up");
        let first = child.pid().unwrap();
        child.kill().await;
        assert_eq!(*child.state().borrow(), State::Down);
        child.start_again().await;
        assert_eq!(line(&mut events).await, "up");
        assert_ne!(child.pid().unwrap(), first);
        child.stop(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn stop_gives_time_and_then_kills() {
        // Shells report the signal that ended their `sleep` on standard error.
        let (child, mut events) =
            shell("exec 2>&-; trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
        assert_eq!(line(&mut events).await, "up");
        child.stop(Duration::from_secs(5)).await;
        assert_eq!(line(&mut events).await, "bye");

        let (child, mut events) = shell("trap '' TERM; echo up; while :; do sleep 0.01; done");
        assert_eq!(line(&mut events).await, "up");
        child.stop(Duration::from_millis(50)).await;
        assert_eq!(*child.state().borrow(), State::Gone);
    }
}
