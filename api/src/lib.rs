//! What the processes of Outrider say to each other, what users write, and the one evaluator.

/// The wire protocol, generated from `proto/outrider.proto`.
#[allow(clippy::all, missing_docs, unreachable_pub)]
pub mod proto {
    tonic::include_proto!("outrider.v1");
}
