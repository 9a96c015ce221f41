//! Makes one instance slow or failing on request, for people who try the mesh's traffic policy and
//! for the demo: `PUT /mode` on a loopback port that no Service leads to. Owns the mode, and waits
//! or fails in a service's place.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::web::{self, Answer};

/// Where the mode is changed; `outrider up` sets the variable from the Workload's port `control`.
#[derive(Debug, Clone, Args)]
pub struct ControlArgs {
    /// Address at which PUT /mode makes this instance slow or failing; without it nothing does
    #[arg(long, env = "OUTRIDER_LISTEN_CONTROL", value_name = "ADDRESS:PORT")]
    control: Option<SocketAddr>,
}

/// How an instance answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As it should.
    #[default]
    Ok,
    /// The same, but later.
    Slow(Duration),
    /// With this status instead, 400 to 599; over gRPC with the code that stands for it.
    Error(StatusCode),
    /// Not at all while the mode is this one.
    Hang,
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => formatter.write_str("ok"),
            Self::Slow(delay) => write!(formatter, "slow {}", delay.as_millis()),
            Self::Error(status) => write!(formatter, "error {}", status.as_u16()),
            Self::Hang => formatter.write_str("hang"),
        }
    }
}

/// The text is no mode.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected ok, slow MILLISECONDS, error STATUS (400 to 599) or hang")]
pub struct NoMode;

impl FromStr for Mode {
    type Err = NoMode;

    fn from_str(text: &str) -> Result<Self, NoMode> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match *words.as_slice() {
            ["ok"] => Ok(Self::Ok),
            ["hang"] => Ok(Self::Hang),
            ["slow", millis] => millis
                .parse()
                .map(|millis| Self::Slow(Duration::from_millis(millis)))
                .map_err(|_| NoMode),
            ["error", status] => status
                .parse()
                .ok()
                .filter(|status: &StatusCode| status.is_client_error() || status.is_server_error())
                .map(Self::Error)
                .ok_or(NoMode),
            _ => Err(NoMode),
        }
    }
}

/// The mode of one instance. Cheap to clone; all clones are one mode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control {
    mode: watch::Sender<Mode>,
}

impl Control {
    /// Serves `PUT /mode` and `GET /mode` in the background, when there is an address for it.
    pub(crate) async fn start(args: &ControlArgs) -> anyhow::Result<Self> {
        let control = Self::default();
        if let Some(address) = args.control {
            let listener = TcpListener::bind(address).await.with_context(|| {
                format!("cannot listen on {address}; choose another address with --control")
            })?;
            let switch = Switch(control.clone());
            tokio::spawn(web::serve(
                listener,
                switch,
                Self::default(),
                std::future::pending(),
            ));
        }
        Ok(control)
    }

    /// `stop`, after which nothing hangs any more: what is in flight can be finished.
    pub(crate) async fn released_by(self, stop: impl Future<Output = ()>) {
        stop.await;
        self.mode.send_replace(Mode::Ok);
    }

    /// Returns when the service may answer, late or in time, or the status to answer instead.
    pub(crate) async fn admit(&self) -> Result<(), StatusCode> {
        let mut mode = self.mode.subscribe();
        // An error means that the mode can no longer change, and with it that the service ends.
        let now = mode.wait_for(|mode| *mode != Mode::Hang).await;
        match now.map_or(Mode::Ok, |mode| *mode) {
            Mode::Ok | Mode::Hang => Ok(()),
            Mode::Slow(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Mode::Error(status) => Err(status),
        }
    }
}

/// What listens for changes of the mode.
struct Switch(Control);

impl web::Service for Switch {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let mode = &self.0.mode;
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/mode") => {}
            // Pages in a browser cannot send a PUT here without asking first.
            (&Method::PUT, "/mode") => match String::from_utf8_lossy(request.body()).parse() {
                Ok(wanted) => {
                    mode.send_replace(wanted);
                    tracing::info!("mode: {wanted}");
                }
                Err(NoMode) => return web::problem(StatusCode::BAD_REQUEST, &NoMode.to_string()),
            },
            (_, "/mode") => {
                return web::problem(StatusCode::METHOD_NOT_ALLOWED, "/mode takes GET and PUT");
            }
            _ => return web::problem(StatusCode::NOT_FOUND, "control knows /mode"),
        }
        web::json(
            StatusCode::OK,
            &serde_json::json!({"mode": mode.borrow().to_string()}),
        )
    }
}

/// The gRPC code that stands for an HTTP status (gRPC's `http-grpc-status-mapping`).
pub(crate) fn grpc_status(status: StatusCode) -> tonic::Status {
    let code = match status.as_u16() {
        400 => tonic::Code::Internal,
        401 => tonic::Code::Unauthenticated,
        403 => tonic::Code::PermissionDenied,
        404 => tonic::Code::Unimplemented,
        429 | 502 | 503 | 504 => tonic::Code::Unavailable,
        _ => tonic::Code::Unknown,
    };
    tonic::Status::new(code, format!("asked to answer {}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_shown() {
        for text in ["ok", "slow 300", "error 503", "hang"] {
            assert_eq!(text.parse::<Mode>().unwrap().to_string(), text);
        }
        for text in ["", "slow", "slow -1", "error 200", "error 1000", "ok hang"] {
            assert_eq!(text.parse::<Mode>(), Err(NoMode), "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_hangs_goes_on_when_the_mode_changes() {
        let control = Control::default();
        control.mode.send_replace(Mode::Hang);
        let waiting = tokio::spawn({
            let control = control.clone();
            async move { control.admit().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        control
            .mode
            .send_replace(Mode::Error(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(waiting.await.unwrap(), Err(StatusCode::SERVICE_UNAVAILABLE));
    }

    #[tokio::test]
    async fn what_hangs_is_released_when_the_service_stops() {
        let control = Control::default();
        control.mode.send_replace(Mode::Hang);
        let (admitted, ()) = tokio::join!(
            control.admit(),
            control.clone().released_by(std::future::ready(()))
        );
        assert_eq!(admitted, Ok(()));
    }

    #[test]
    fn over_grpc_503_is_unavailable() {
        let code = grpc_status(StatusCode::SERVICE_UNAVAILABLE).code();
        assert_eq!(code, tonic::Code::Unavailable);
    }
}
