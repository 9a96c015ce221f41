//! Tells people about their orders: keeps the messages instead of sending them.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};

use crate::control::{Control, ControlArgs};
use crate::journal::Journal;
use crate::web::{self, Answer};
use crate::{Listen, stop_signal};

/// `outrider shop notification`
#[derive(Debug, Clone, Args)]
pub struct NotificationArgs {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    control: ControlArgs,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    pub(crate) order: String,
    pub(crate) email: String,
    pub(crate) text: String,
}

pub(crate) async fn run(args: NotificationArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let listener = args.listen.bind("notification").await?;
    let control = Control::start(&args.control).await?;
    web::serve(listener, Outbox::default(), control, stop).await;
    Ok(())
}

#[derive(Default)]
struct Outbox {
    messages: Mutex<Journal<Message>>,
}

impl web::Service for Outbox {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        if request.uri().path() != "/notifications" {
            return web::problem(StatusCode::NOT_FOUND, "notification knows /notifications");
        }
        if request.method() != Method::POST {
            return web::problem(StatusCode::METHOD_NOT_ALLOWED, "/notifications takes POST");
        }
        let message = match web::parse::<Message>(request.body()) {
            Ok(message) => message,
            Err(answer) => return *answer,
        };
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.insert(message.order.clone(), message);
        web::json(
            StatusCode::ACCEPTED,
            &serde_json::json!({"kept": messages.len()}),
        )
    }
}
