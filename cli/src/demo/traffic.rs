//! The demo's traffic: shoppers that place orders and look at them, and a notification service
//! that tries to charge people. Every call goes as an app's would, through a sidecar's loopback port
//! or, from within a namespace, to the Service itself; every outcome is kept for the scenes to judge.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tower_service::Service;

use super::log::{Call, Kind, Log, Outcome};
use crate::fetch::Door;

/// A call without an answer for this long has failed.
const LIMIT: Duration = Duration::from_secs(5);
/// So many orders may be unanswered at once; more have failed.
const IN_FLIGHT: usize = 256;
/// How often shoppers look at the orders.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often notification tries to charge.
const CHARGE_EVERY: Duration = Duration::from_millis(200);
/// The largest answer that is read.
const BODY_LIMIT: usize = 64 * 1024;
/// A gRPC frame with an empty message.
const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);

/// Makes calls and logs them.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    client: Client<Shopper, Full<Bytes>>,
    /// Where notification calls billing.
    notification: Door,
    log: Log,
    placed: Arc<AtomicU64>,
}

/// Connects to order as a shopper does, whatever the URL.
#[derive(Debug, Clone)]
struct Shopper(Arc<Door>);

impl Service<Uri> for Shopper {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let door = Arc::clone(&self.0);
        Box::pin(async move {
            let stream = door.connect().await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

impl Traffic {
    /// `shopper` leads to order, `notification` to billing.
    pub(crate) fn new(shopper: Door, notification: Door, log: Log) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build(Shopper(Arc::new(shopper))),
            notification,
            log,
            placed: Arc::default(),
        }
    }

    /// Keeps calling until the returned set is dropped.
    pub(crate) fn start(&self, orders_per_second: u32) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let traffic = self.clone();
        tasks.spawn(async move { traffic.place_orders(orders_per_second).await });
        let traffic = self.clone();
        tasks.spawn(async move {
            let mut ticks = ticks(LOOK_EVERY);
            loop {
                ticks.tick().await;
                traffic.look().await;
            }
        });
        let traffic = self.clone();
        tasks.spawn(async move {
            let mut ticks = ticks(CHARGE_EVERY);
            loop {
                ticks.tick().await;
                traffic.charge().await;
            }
        });
        tasks
    }

    /// On schedule, whether or not earlier orders are answered: a stall must show.
    async fn place_orders(&self, per_second: u32) {
        let mut ticks = ticks(Duration::from_secs(1) / per_second.max(1));
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut calls = JoinSet::new();
        loop {
            ticks.tick().await;
            while calls.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.log.push(Call {
                    kind: Kind::Order,
                    started: Instant::now(),
                    latency: Duration::ZERO,
                    outcome: Outcome::Failed(format!("{IN_FLIGHT} orders are unanswered")),
                });
                continue;
            };
            let traffic = self.clone();
            calls.spawn(async move {
                traffic.order().await;
                drop(slot);
            });
        }
    }

    async fn order(&self) {
        let number = self.placed.fetch_add(1, Ordering::Relaxed);
        let users = outrider_shop::user::USERS;
        let user = users
            .get(number as usize % users.len())
            .copied()
            .unwrap_or("ada");
        let order = serde_json::json!({"user": user, "item": "tea", "cents": 450});
        let body = Bytes::from(order.to_string());
        self.logged(
            Kind::Order,
            self.shop(Method::POST, StatusCode::CREATED, body),
        )
        .await;
    }

    /// One look at the orders.
    pub(crate) async fn look(&self) -> Call {
        self.logged(
            Kind::Look,
            self.shop(Method::GET, StatusCode::OK, Bytes::new()),
        )
        .await
    }

    /// One attempt of notification to charge.
    pub(crate) async fn charge(&self) -> Call {
        self.logged(Kind::Charge, self.grpc()).await
    }

    async fn logged(&self, kind: Kind, call: impl Future<Output = Outcome>) -> Call {
        let started = Instant::now();
        let outcome = timeout(LIMIT, call)
            .await
            .unwrap_or_else(|_| Outcome::Failed(format!("no answer within {LIMIT:?}")));
        let call = Call {
            kind,
            started,
            latency: started.elapsed(),
            outcome,
        };
        self.log.push(call.clone());
        call
    }

    /// A shopper's call to order over HTTP/1.1.
    async fn shop(&self, method: Method, expected: StatusCode, body: Bytes) -> Outcome {
        let request = Request::builder()
            .method(method)
            .uri("http://order/orders")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failed(format!("no answer: {error}")),
        };
        let (head, body) = answer.into_parts();
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Outcome::Failed(format!("the answer broke off: {error}")),
        };
        if head.status == expected {
            return good(&body);
        }
        match proxy_status(&head.headers) {
            Some(reason) if head.status == StatusCode::FORBIDDEN => Outcome::Refused {
                status: head.status.to_string(),
                proxy_status: reason,
            },
            _ => Outcome::Failed(format!(
                "{} {}",
                head.status,
                String::from_utf8_lossy(&body)
            )),
        }
    }

    /// notification's call to billing over gRPC, on a connection of its own.
    async fn grpc(&self) -> Outcome {
        match self.try_grpc().await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    async fn try_grpc(&self) -> anyhow::Result<Outcome> {
        let stream = self.notification.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::post("http://billing/shop.Billing/Charge")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(EMPTY_MESSAGE))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, BODY_LIMIT)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = head
            .headers
            .get("grpc-status")
            .or_else(|| trailers.get("grpc-status"));
        let status = status.and_then(|status| status.to_str().ok());
        Ok(match (status, proxy_status(&head.headers)) {
            (Some("0"), _) => Outcome::Good { by: None },
            (Some("7"), Some(proxy_status)) => Outcome::Refused {
                status: "PERMISSION_DENIED".to_owned(),
                proxy_status,
            },
            (status, _) => Outcome::Failed(format!(
                "{}, grpc-status {}",
                head.status,
                status.unwrap_or("missing")
            )),
        })
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// An order is good when the customer was charged and told.
fn good(body: &[u8]) -> Outcome {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if answer.get("notified") == Some(&serde_json::Value::Bool(false)) {
        return Outcome::Failed("the customer was not notified".to_owned());
    }
    let by = answer.get("charged_by").and_then(|by| by.as_str());
    Outcome::Good {
        by: by.map(Arc::from),
    }
}

fn proxy_status(headers: &HeaderMap) -> Option<String> {
    headers
        .get("proxy-status")?
        .to_str()
        .ok()
        .map(str::to_owned)
}
