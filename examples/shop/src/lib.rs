//! The shop: four small services and their customer, each with an identity of its own, that the demo runs as a mesh.
//!
//! - [`order`]: HTTP; takes orders and calls the other three through its sidecar.
//! - [`user`]: HTTP; knows who may order.
//! - [`billing`]: gRPC; charges, runs twice.
//! - [`notification`]: HTTP; tells people, and must never charge them.
//! - [`shopper`]: places orders, where nothing else does.
//!
//! None of them knows about certificates, policy or the mesh: they listen on loopback and call
//! loopback, or call each other by name where connections are intercepted. `web` owns what the HTTP services share, `accept` what all do,
//! [`control`] how an instance is made to fail, `context` what a call carries on. State is in memory
//! and bounded.

mod accept;
pub mod billing;
mod context;
pub mod control;
mod journal;
pub mod notification;
pub mod order;
pub mod shopper;
pub mod user;
mod web;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The gRPC service, generated from `proto/shop.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
pub mod proto {
    tonic::include_proto!("shop");
}

/// The example's policy YAML, as `(file name, text)`: what `outrider demo` runs.
pub const MESH: &[(&str, &str)] = &[
    ("mesh.yaml", include_str!("../mesh/mesh.yaml")),
    ("services.yaml", include_str!("../mesh/services.yaml")),
    ("workloads.yaml", include_str!("../mesh/workloads.yaml")),
    (
        "policy-order.yaml",
        include_str!("../mesh/policy-order.yaml"),
    ),
    ("policy-user.yaml", include_str!("../mesh/policy-user.yaml")),
    (
        "policy-billing.yaml",
        include_str!("../mesh/policy-billing.yaml"),
    ),
    (
        "traffic-billing.yaml",
        include_str!("../mesh/traffic-billing.yaml"),
    ),
    (
        "policy-notification.yaml",
        include_str!("../mesh/policy-notification.yaml"),
    ),
];

/// What takes the place of a file of [`MESH`] where every Workload has a network namespace.
pub const NETNS: &[(&str, &str)] = &[("workloads.yaml", include_str!("../netns/workloads.yaml"))];

/// Runs one service of the example shop.
#[derive(Debug, Clone, Args)]
pub struct ShopArgs {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Clone, Subcommand)]
enum Service {
    /// Takes orders: POST /orders, GET /orders, GET /orders/{id}, GET /healthz
    Order(order::OrderArgs),
    /// Knows the users: GET /users/{id}, GET /healthz
    User(user::UserArgs),
    /// Charges over gRPC: shop.Billing/Charge, shop.Billing/Invoices
    Billing(billing::BillingArgs),
    /// Notifies: POST /notifications, GET /healthz
    Notification(notification::NotificationArgs),
    /// Places orders: says why one fails, and how many did; exit status 1 if any did
    Shopper(shopper::ShopperArgs),
}

/// Where a service listens; `outrider up` sets the variable from the Workload's first port.
#[derive(Debug, Clone, Args)]
pub struct Listen {
    /// Address to listen on
    #[arg(long, env = "OUTRIDER_LISTEN", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// Runs the service until SIGTERM or SIGINT, then finishes the requests in flight.
pub fn run(args: ShopArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        match args.service {
            Service::Order(args) => order::run(args).await?,
            Service::User(args) => user::run(args).await?,
            Service::Billing(args) => billing::run(args).await?,
            Service::Notification(args) => notification::run(args).await?,
            Service::Shopper(args) => return shopper::run(args).await,
        }
        Ok(ExitCode::SUCCESS)
    })
}

impl Listen {
    async fn bind(&self, service: &str) -> anyhow::Result<TcpListener> {
        let listener = TcpListener::bind(self.listen).await.with_context(|| {
            format!(
                "{service} cannot listen on {}; choose another address with --listen",
                self.listen
            )
        })?;
        tracing::info!("{service} listens on {}", listener.local_addr()?);
        Ok(listener)
    }
}

/// Resolves at the first SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("finishing the requests in flight");
    })
}
