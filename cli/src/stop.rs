//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second for an immediate one.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Counts the requests to end.
#[derive(Debug, Clone)]
pub(crate) struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Watches from now on. Takes the default action of both signals away.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    () = count.closed() => return,
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    /// Resolves at the first signal, or at once when it has come.
    pub(crate) fn first(&self) -> impl Future<Output = ()> + use<> {
        self.reached(1)
    }

    /// Resolves at the second signal.
    pub(crate) fn second(&self) -> impl Future<Output = ()> + use<> {
        self.reached(2)
    }

    fn reached(&self, wanted: u32) -> impl Future<Output = ()> + use<> {
        let mut counted = self.0.clone();
        async move {
            if counted.wait_for(|count| *count >= wanted).await.is_err() {
                // The watcher is gone with the runtime.
                std::future::pending().await
            }
        }
    }
}
