//! What it came to, and whether the marks are met.

use std::time::Duration;

use crate::Arguments;
use crate::plane::Usage;

/// From a policy being applied to a sidecar's acknowledgement, the slowest of a hundred.
const SLOWEST: Duration = Duration::from_secs(1);
/// Of the control plane, bytes.
const MOST: u64 = 500 << 20;

pub(crate) struct Report {
    arguments: Arguments,
    ready: Duration,
    connected: Duration,
    at_rest: Usage,
    churned: Option<Churned>,
    /// Of each sidecar and policy.
    each: Vec<Duration>,
    /// Until the last sidecar had acknowledged a policy.
    all: Vec<Duration>,
    at_once: Option<AtOnce>,
    /// Memory of the control plane, bytes.
    most: u64,
}

/// Many policies, applied at once.
pub(crate) struct AtOnce {
    /// Until the API server had taken each.
    pub(crate) each: Vec<Duration>,
    /// Until it had taken all.
    pub(crate) applied: Duration,
    /// From then until every sidecar had acknowledged them.
    pub(crate) acknowledged: Duration,
}

/// While endpoints changed and policy was applied.
pub(crate) struct Churned {
    pub(crate) time: Duration,
    /// Endpoints.
    pub(crate) changed: u64,
    pub(crate) before: Usage,
    pub(crate) after: Usage,
}

impl Report {
    pub(crate) fn new(
        arguments: Arguments,
        ready: Duration,
        connected: Duration,
        at_rest: Usage,
    ) -> Self {
        Self {
            arguments,
            ready,
            connected,
            at_rest,
            churned: None,
            each: Vec::new(),
            all: Vec::new(),
            at_once: None,
            most: at_rest.peak,
        }
    }

    pub(crate) fn policy(&mut self, taken: Vec<Duration>) {
        self.all.extend(taken.iter().max());
        self.each.extend(taken);
    }

    pub(crate) fn churned(&mut self, churned: Churned) {
        self.churned = Some(churned);
    }

    pub(crate) fn at_once(&mut self, at_once: AtOnce) {
        self.at_once = Some(at_once);
    }

    /// The most memory that the control plane ever had, bytes.
    pub(crate) fn most(&mut self, most: u64) {
        self.most = most;
    }

    pub(crate) fn is_good(&self) -> bool {
        quantile(&self.all, 0.99) < SLOWEST && self.most < MOST
    }

    pub(crate) fn text(&self) -> String {
        let Arguments {
            sidecars,
            services,
            endpoints,
            churn,
            policies,
            ..
        } = self.arguments;
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let mut lines = vec![
            format!("{sidecars} sidecars, {services} Services, {endpoints} endpoints"),
            row("load of the machine", load()),
            row("ready after", format!("{:.1?}", self.ready)),
            row("all connected after", format!("{:.1?}", self.connected)),
            row("memory with all connected", mib(self.at_rest.resident)),
        ];
        if let Some(churned) = &self.churned {
            let (time, cpu) = (churned.time.as_secs_f64(), churned.cpu().as_secs_f64());
            lines.push(format!("while {policies} policies were applied:"));
            let rate = churned.changed as f64 / time;
            let rate = format!("{rate:.0} in a second (asked for: {churn})");
            lines.push(row("endpoints changed", rate));
            lines.push(row("memory", mib(churned.after.resident)));
            let share = 100.0 * cpu / time;
            let cpu = format!("{cpu:.1} s in {time:.1} s ({share:.0} % of a core)");
            lines.push(row("processor", cpu));
        }
        let most = format!("{} (mark: under {})", mib(self.most), mib(MOST));
        lines.push(row("most memory ever", most));
        for (what, taken) in [("one sidecar", &self.each), ("all sidecars", &self.all)] {
            lines.push(row(&format!("acknowledged by {what}"), quantiles(taken)));
        }
        lines.push(row(
            "mark",
            format!("p99 of all sidecars under {SLOWEST:?}"),
        ));
        lines.extend(self.at_once.iter().flat_map(AtOnce::lines));
        lines.join("\n") + "\n"
    }
}

impl AtOnce {
    fn lines(&self) -> [String; 4] {
        let (applied, acknowledged) = (self.applied, self.acknowledged);
        [
            format!("{} policies at once:", self.each.len()),
            row("taken", format!("all after {applied:.1?}")),
            row("each taken after", quantiles(&self.each)),
            row(
                "acknowledged by all sidecars",
                format!("{acknowledged:.2?} after the last was taken"),
            ),
        ]
    }
}

impl Churned {
    fn cpu(&self) -> Duration {
        self.after.cpu.saturating_sub(self.before.cpu)
    }
}

/// The average of the last minute: all else that runs makes it slower.
fn load() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{load}, of {cores} cores")
}

fn row(what: &str, value: impl std::fmt::Display) -> String {
    format!("  {what:<28} {value}")
}

fn quantiles(taken: &[Duration]) -> String {
    let [half, most, slowest] = [0.5, 0.9, 0.99].map(|share| quantile(taken, share));
    format!("p50 {half:.2?}, p90 {most:.2?}, p99 {slowest:.2?}")
}

fn quantile(taken: &[Duration], share: f64) -> Duration {
    let mut sorted = taken.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let found = sorted.get(rank.saturating_sub(1)).or(sorted.last());
    found.copied().unwrap_or(Duration::MAX)
}
