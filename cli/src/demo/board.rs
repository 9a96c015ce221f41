//! What the demo shows at this moment, written by the scenes and read by whatever displays it.

use std::collections::VecDeque;

use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::telemetry::edges::Row;

/// How many lines about the mesh's processes are kept.
const NEWS: usize = 3;

/// What a scene is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heading {
    pub(crate) number: usize,
    pub(crate) title: &'static str,
    /// What it shows, in one sentence.
    pub(crate) shows: &'static str,
}

/// Something that a scene says, and what was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Claim {
    pub(crate) scene: usize,
    pub(crate) claim: String,
    pub(crate) measured: String,
    pub(crate) holds: bool,
}

/// The state that is displayed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) heading: Option<Heading>,
    /// What is being done right now.
    pub(crate) doing: String,
    pub(crate) claims: Vec<Claim>,
    pub(crate) rows: Vec<Row>,
    pub(crate) news: VecDeque<String>,
    /// The last scene is over.
    pub(crate) over: bool,
}

/// What happens in order, for displays that print lines.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Scene(Heading),
    Claimed(Claim),
    /// A scene is over: these are its edges.
    Edges(Vec<Row>),
}

/// Where scenes write.
#[derive(Debug)]
pub(crate) struct Board {
    shown: watch::Sender<Shown>,
    steps: mpsc::UnboundedSender<Step>,
}

impl Board {
    /// The board, and the steps in order.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Step>) {
        let (steps, received) = mpsc::unbounded_channel();
        let shown = watch::Sender::new(Shown::default());
        (Self { shown, steps }, received)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    pub(crate) fn scene(&self, heading: Heading) {
        self.shown.send_modify(|shown| {
            shown.heading = Some(heading);
            shown.doing.clear();
        });
        let _ = self.steps.send(Step::Scene(heading));
    }

    pub(crate) fn doing(&self, text: impl Into<String>) {
        self.shown.send_modify(|shown| shown.doing = text.into());
    }

    pub(crate) fn claim(&self, claim: Claim) {
        let _ = self.steps.send(Step::Claimed(claim.clone()));
        self.shown.send_modify(|shown| shown.claims.push(claim));
    }

    pub(crate) fn rows(&self, rows: Vec<Row>) {
        self.shown.send_modify(|shown| shown.rows = rows);
    }

    /// The scene's edges, for displays that print lines.
    pub(crate) fn scene_over(&self, rows: Vec<Row>) {
        let _ = self.steps.send(Step::Edges(rows));
    }

    pub(crate) fn news(&self, line: String) {
        self.shown.send_modify(|shown| {
            if shown.news.len() == NEWS {
                shown.news.pop_front();
            }
            shown.news.push_back(line);
        });
    }

    pub(crate) fn over(&self) {
        self.shown.send_modify(|shown| shown.over = true);
    }
}
