//! What a running mesh tells whoever watches it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a child process is to the mesh; also the order in which they are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A Workload's app.
    App,
    /// A Workload's sidecar.
    Sidecar,
    /// The control plane.
    ControlPlane,
}

/// Which child process: unique in its mesh, and what people see in front of its lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildName {
    role: Role,
    text: Arc<str>,
}

impl ChildName {
    /// The control plane.
    pub fn control_plane() -> Self {
        Self {
            role: Role::ControlPlane,
            text: "control-plane".into(),
        }
    }

    /// The sidecar of the Workload that is called `workload` in this mesh.
    pub fn sidecar(workload: &str) -> Self {
        Self {
            role: Role::Sidecar,
            text: format!("{workload}/sidecar").into(),
        }
    }

    /// The app of that Workload.
    pub fn app(workload: &str) -> Self {
        Self {
            role: Role::App,
            text: workload.into(),
        }
    }

    /// What it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ChildName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

/// One thing that happened in the mesh.
#[derive(Debug, Clone)]
pub enum Event {
    /// A child printed a line.
    Line {
        /// Who printed it.
        child: ChildName,
        /// The line, without its end.
        text: String,
    },
    /// A child was started, for the first time or again.
    Started {
        /// Which one.
        child: ChildName,
        /// Its process.
        pid: u32,
    },
    /// A child ended without having been told to.
    Ended {
        /// Which one.
        child: ChildName,
        /// "exit status: 1", "signal: 9 (SIGKILL)", or why it could not be started.
        how: String,
        /// When it is started again.
        again_in: Duration,
    },
    /// A step of the start or of the drain.
    Progress(String),
    /// Everything is up.
    Ready {
        /// How long that took.
        took: Duration,
    },
}
