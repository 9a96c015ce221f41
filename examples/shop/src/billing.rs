//! Charges for orders, over gRPC. Runs as two instances, each with its own memory; an order that
//! is charged twice on one instance keeps its first invoice.

use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use hyper_util::rt::TokioExecutor;
use hyper_util::service::TowerToHyperService;
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

use crate::control::{self, Control, ControlArgs};
use crate::journal::Journal;
use crate::proto::billing_server::{Billing, BillingServer};
use crate::proto::{ChargeRequest, Invoice, InvoicesRequest};
use crate::{Listen, accept, stop_signal};

/// Nobody is charged more than this at once.
const CREDIT_LIMIT_CENTS: u64 = 1_000_000;

/// `outrider shop billing`
#[derive(Debug, Clone, Args)]
pub struct BillingArgs {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    control: ControlArgs,
    /// Name of this instance, which its invoices carry; what stands before a / is left out
    #[arg(
        long,
        env = "OUTRIDER_WORKLOAD",
        default_value = "billing",
        value_name = "NAME"
    )]
    instance: String,
}

pub(crate) async fn run(args: BillingArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let listener = args.listen.bind("billing").await?;
    let control = Control::start(&args.control).await?;
    let stop = control.clone().released_by(stop);
    let ledger = Ledger::new(&args.instance);
    let service = TowerToHyperService::new(BillingServer::new(Counter { ledger, control }));
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    accept::until(listener, stop, |stream| {
        server.serve_connection(stream, service.clone())
    })
    .await;
    Ok(())
}

#[derive(Debug, Clone)]
struct Ledger {
    instance: Arc<str>,
    invoices: Arc<Mutex<Journal<Invoice>>>,
}

impl Ledger {
    fn new(instance: &str) -> Self {
        let name = instance.rsplit('/').next().unwrap_or(instance);
        Self {
            instance: name.into(),
            invoices: Arc::default(),
        }
    }

    fn charge(&self, request: ChargeRequest) -> Result<Invoice, Status> {
        if request.order.is_empty() || request.user.is_empty() || request.cents == 0 {
            return Err(Status::invalid_argument(
                "order, user and cents must be given",
            ));
        }
        if request.cents > CREDIT_LIMIT_CENTS {
            return Err(Status::failed_precondition("above the credit limit"));
        }
        let mut invoices = self.invoices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(invoice) = invoices.get(&request.order) {
            return Ok(invoice.clone());
        }
        let invoice = Invoice {
            id: format!("invoice-{}", request.order),
            order: request.order.clone(),
            user: request.user,
            cents: request.cents,
            instance: self.instance.as_ref().to_owned(),
        };
        invoices.insert(request.order, invoice.clone());
        Ok(invoice)
    }
}

/// Where callers come: the ledger, as long as this instance is let answer.
struct Counter {
    ledger: Ledger,
    control: Control,
}

#[tonic::async_trait]
impl Billing for Counter {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<Invoice>, Status> {
        self.control.admit().await.map_err(control::grpc_status)?;
        self.ledger.charge(request.into_inner()).map(Response::new)
    }

    type InvoicesStream = Iter<std::vec::IntoIter<Result<Invoice, Status>>>;

    async fn invoices(
        &self,
        request: Request<InvoicesRequest>,
    ) -> Result<Response<Self::InvoicesStream>, Status> {
        self.control.admit().await.map_err(control::grpc_status)?;
        let InvoicesRequest { user, limit } = request.into_inner();
        let limit = if limit == 0 {
            usize::MAX
        } else {
            limit as usize
        };
        let found: Vec<_> = self
            .ledger
            .invoices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .latest()
            .filter(|invoice| invoice.user == user)
            .take(limit)
            .cloned()
            .map(Ok)
            .collect();
        Ok(Response::new(tokio_stream::iter(found)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(order: &str, cents: u64) -> ChargeRequest {
        ChargeRequest {
            order: order.to_owned(),
            user: "ada".to_owned(),
            cents,
        }
    }

    #[test]
    fn charging_twice_keeps_the_first_invoice() {
        let ledger = Ledger::new("shop/billing-1");
        let first = ledger.charge(request("7", 450)).unwrap();
        let second = ledger.charge(request("7", 900)).unwrap();
        assert_eq!(first, second);
        assert_eq!(first.instance, "billing-1");
    }

    #[test]
    fn refuses_what_it_cannot_charge() {
        let ledger = Ledger::new("shop/billing-1");
        let code = |request| ledger.charge(request).unwrap_err().code();
        assert_eq!(code(request("", 450)), tonic::Code::InvalidArgument);
        assert_eq!(code(request("7", 0)), tonic::Code::InvalidArgument);
        assert_eq!(
            code(request("7", CREDIT_LIMIT_CENTS + 1)),
            tonic::Code::FailedPrecondition
        );
    }
}
