//! Places orders at a steady rate and counts what becomes of them: what there is to see in a mesh
//! needs somebody who calls.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::stop_signal;
use crate::user::USERS;

/// An order without an answer for this long has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// So many orders may be unanswered at once; more have failed.
const IN_FLIGHT: usize = 256;
/// How often the totals are printed.
const TOTALS_EVERY: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const BODY_LIMIT: usize = 64 * 1024;

/// `outrider shop shopper`
#[derive(Debug, Clone, Args)]
pub struct ShopperArgs {
    /// Where orders are placed
    #[arg(long, value_name = "URL", default_value = "http://order/orders")]
    order: Uri,
    /// Orders per second
    #[arg(long, value_name = "RATE", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// How many orders are placed; without it, until SIGTERM
    #[arg(long, value_name = "N")]
    orders: Option<u64>,
}

/// Places them, says why one fails, and prints the totals now and then and at the end.
pub(crate) async fn run(args: ShopperArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    let shopper = Arc::new(Shopper::new(args.order));
    tokio::select! {
        () = shopper.place_all(args.rate, args.orders) => {}
        () = stop => {}
    }
    let totals = shopper.totals();
    tracing::info!("in all: {totals}");
    let complete = args.orders.is_none_or(|orders| orders == totals.placed);
    Ok(if complete && totals.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Shopper {
    client: Client<HttpConnector, Full<Bytes>>,
    order: Uri,
    placed: AtomicU64,
    failed: AtomicU64,
}

struct Totals {
    placed: u64,
    failed: u64,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} placed, {} failed", self.placed, self.failed)
    }
}

impl Shopper {
    fn new(order: Uri) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            order,
            placed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            placed: self.placed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// On schedule, whether or not earlier orders are answered: a stall must show.
    async fn place_all(self: &Arc<Self>, per_second: u32, orders: Option<u64>) {
        let mut ticks = interval(Duration::from_secs(1) / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = interval(TOTALS_EVERY);
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut calls = JoinSet::new();
        let mut number = 0;
        while orders.is_none_or(|orders| number < orders) {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = report.tick() => {
                    tracing::info!("{}", self.totals());
                    continue;
                }
            }
            while calls.try_join_next().is_some() {}
            number += 1;
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.fail(&format!("{IN_FLIGHT} orders are unanswered"));
                continue;
            };
            let shopper = Arc::clone(self);
            calls.spawn(async move {
                shopper.place(number).await;
                drop(slot);
            });
        }
        while calls.join_next().await.is_some() {}
    }

    async fn place(&self, number: u64) {
        match timeout(LIMIT, self.order(number)).await {
            Ok(Ok(())) => {
                self.placed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err(error)) => self.fail(&format!("{error:#}")),
            Err(_) => self.fail(&format!("no answer within {} s", LIMIT.as_secs())),
        }
    }

    async fn order(&self, number: u64) -> anyhow::Result<()> {
        let user = USERS[usize::try_from(number).unwrap_or_default() % USERS.len()];
        let order = serde_json::json!({"user": user, "item": "tea", "cents": 450});
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.order.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(order.to_string()))?;
        let answer = self.client.request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!(error))
            .context("the answer is not complete")?
            .to_bytes();
        if head.status == StatusCode::CREATED {
            return Ok(());
        }
        let why = head.headers.get("proxy-status");
        let why = why.and_then(|value| value.to_str().ok());
        let body = String::from_utf8_lossy(&body);
        anyhow::bail!(
            "{} {} {}",
            head.status,
            why.unwrap_or_default(),
            body.trim()
        )
    }

    fn fail(&self, why: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("failed: {why}");
    }
}
