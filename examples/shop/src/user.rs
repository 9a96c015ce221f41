//! Who may order. A fixed handful of people: the shop's story needs names, not a database.

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};

use crate::control::{Control, ControlArgs};
use crate::web::{self, Answer};
use crate::{Listen, stop_signal};

/// `outrider shop user`
#[derive(Debug, Clone, Args)]
pub struct UserArgs {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    control: ControlArgs,
}

/// The people who shop here; `outrider demo` orders in their names.
pub const USERS: &[&str] = &["ada", "edsger", "grace", "leslie"];

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
}

pub(crate) async fn run(args: UserArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let listener = args.listen.bind("user").await?;
    let control = Control::start(&args.control).await?;
    web::serve(listener, Users, control, stop).await;
    Ok(())
}

struct Users;

impl web::Service for Users {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let Some(id) = request.uri().path().strip_prefix("/users/") else {
            return web::problem(StatusCode::NOT_FOUND, "user knows /users/{id}");
        };
        if request.method() != Method::GET {
            return web::problem(StatusCode::METHOD_NOT_ALLOWED, "/users/{id} takes GET");
        }
        match USERS.iter().find(|user| **user == id) {
            Some(id) => web::json(
                StatusCode::OK,
                &User {
                    id: (*id).to_owned(),
                    email: format!("{id}@shop.example"),
                },
            ),
            None => web::problem(StatusCode::NOT_FOUND, &format!("no user {id:?}")),
        }
    }
}
