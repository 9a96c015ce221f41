//! Takes orders: checks the user over HTTP, charges through billing's gRPC, and has the customer
//! notified. All three calls go to loopback ports of this service's own sidecar, or, where
//! connections are intercepted, to the names `user`, `billing` and `notification`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::uri::Authority;
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use crate::context::CallContext;
use crate::control::{Control, ControlArgs};
use crate::journal::Journal;
use crate::notification::Message;
use crate::proto::ChargeRequest;
use crate::proto::billing_client::BillingClient;
use crate::user::User;
use crate::web::{self, Answer, Mesh};
use crate::{Listen, stop_signal};

/// `outrider shop order`
#[derive(Debug, Clone, Args)]
pub struct OrderArgs {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    control: ControlArgs,
    /// The sidecar's HTTP port, which routes by Host: for user and notification; without it they are
    /// called by their names
    #[arg(long, env = "OUTRIDER_OUTBOUND_HTTP", value_name = "URL", value_parser = parse_url)]
    via: Option<Authority>,
    /// Where billing's gRPC is
    #[arg(
        long,
        env = "OUTRIDER_UPSTREAM_BILLING",
        value_name = "HOST:PORT",
        default_value = "billing:80"
    )]
    billing: Authority,
}

fn parse_url(text: &str) -> Result<Authority, String> {
    text.strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .and_then(|authority| authority.parse().ok())
        .ok_or_else(|| "expected http://ADDRESS:PORT".to_owned())
}

pub(crate) async fn run(args: OrderArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let billing = Endpoint::from_shared(format!("http://{}", args.billing))
        .context("--billing is no address")?
        .tcp_nodelay(true)
        .connect_lazy();
    let listener = args.listen.bind("order").await?;
    let control = Control::start(&args.control).await?;
    let orders = Orders::new(Mesh::new(args.via), billing);
    web::serve(listener, orders, control, stop).await;
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrder {
    user: String,
    item: String,
    cents: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Order {
    id: String,
    user: String,
    item: String,
    cents: u64,
    invoice: String,
    /// The billing instance that charged.
    charged_by: String,
    notified: bool,
}

struct Orders {
    mesh: Mesh,
    billing: BillingClient<Channel>,
    next: AtomicU64,
    /// Keeps the ids of two runs apart: billing remembers orders longer than this process lives.
    epoch: u128,
    kept: Mutex<Journal<Order>>,
}

impl web::Service for Orders {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let path = request.uri().path();
        let context = CallContext::of(request.headers());
        let id = path.strip_prefix("/orders/");
        match (request.method(), path, id) {
            (&Method::POST, "/orders", _) => match web::parse(request.body()) {
                Ok(order) => {
                    let taken = self.take(order, &context).await;
                    taken.unwrap_or_else(|refused| *refused)
                }
                Err(answer) => *answer,
            },
            (&Method::GET, "/orders", _) => web::json(
                StatusCode::OK,
                &serde_json::json!({"kept": self.kept().len()}),
            ),
            (&Method::GET, _, Some(id)) => match self.kept().get(id) {
                Some(order) => web::json(StatusCode::OK, order),
                None => web::problem(StatusCode::NOT_FOUND, &format!("no order {id:?}")),
            },
            (_, "/orders", _) => {
                web::problem(StatusCode::METHOD_NOT_ALLOWED, "/orders takes POST and GET")
            }
            _ => web::problem(
                StatusCode::NOT_FOUND,
                "order knows /orders and /orders/{id}",
            ),
        }
    }
}

impl Orders {
    fn new(mesh: Mesh, billing: Channel) -> Self {
        let epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        Self {
            mesh,
            billing: BillingClient::new(billing),
            next: AtomicU64::new(1),
            epoch,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Journal<Order>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, new: NewOrder, context: &CallContext) -> Result<Answer, Box<Answer>> {
        let user = self.user(&new.user, context).await?;
        let id = format!(
            "{:x}-{}",
            self.epoch,
            self.next.fetch_add(1, Ordering::Relaxed)
        );
        let charge = ChargeRequest {
            order: id.clone(),
            user: user.id,
            cents: new.cents,
        };
        let invoice = self
            .billing
            .clone()
            .charge(context.request(charge))
            .await
            .map_err(|status| {
                let message = format!("billing: {:?}: {}", status.code(), status.message());
                web::refusal(StatusCode::BAD_GATEWAY, &message)
            })?
            .into_inner();
        let message = Message {
            order: id.clone(),
            email: user.email,
            text: format!("your {} is on its way", new.item),
        };
        let notified = self.notify(&message, context).await;
        let order = Order {
            id: id.clone(),
            user: new.user,
            item: new.item,
            cents: new.cents,
            invoice: invoice.id,
            charged_by: invoice.instance,
            notified,
        };
        let answer = web::json(StatusCode::CREATED, &order);
        self.kept().insert(id, order);
        Ok(answer)
    }

    async fn user(&self, id: &str, context: &CallContext) -> Result<User, Box<Answer>> {
        if id.is_empty()
            || !id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(web::refusal(
                StatusCode::BAD_REQUEST,
                "user: expected letters, digits and -",
            ));
        }
        let gateway = |message: String| web::refusal(StatusCode::BAD_GATEWAY, &message);
        let (status, body) = self
            .mesh
            .call(
                Method::GET,
                "user",
                &format!("/users/{id}"),
                Bytes::new(),
                context,
            )
            .await
            .map_err(|error| gateway(error.to_string()))?;
        match status {
            StatusCode::OK => {
                web::parse(&body).map_err(|_| gateway("user: unreadable answer".to_owned()))
            }
            StatusCode::NOT_FOUND => Err(web::refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                &format!("no user {id:?}"),
            )),
            other => Err(gateway(format!("user: {other}"))),
        }
    }

    /// An order stands even when nobody can be told about it.
    async fn notify(&self, message: &Message, context: &CallContext) -> bool {
        let order = &message.order;
        let Ok(body) = serde_json::to_vec(message) else {
            return false;
        };
        match self
            .mesh
            .call(
                Method::POST,
                "notification",
                "/notifications",
                body.into(),
                context,
            )
            .await
        {
            Ok((StatusCode::ACCEPTED, _)) => true,
            Ok((status, _)) => {
                tracing::debug!("order {order}: notification answered {status}");
                false
            }
            Err(error) => {
                tracing::debug!("order {order}: {error}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_the_sidecar() {
        assert_eq!(
            parse_url("http://127.0.0.1:18101").unwrap(),
            "127.0.0.1:18101"
        );
        assert_eq!(
            parse_url("http://127.0.0.1:18101/").unwrap(),
            "127.0.0.1:18101"
        );
        assert!(parse_url("https://127.0.0.1:18101").is_err());
        assert!(parse_url("127.0.0.1:18101").is_err());
    }
}
