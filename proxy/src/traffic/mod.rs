//! The decisions about traffic, apart from the traffic: pure values that are told the time and given
//! their randomness, and never touch a socket or a clock. Mostly one of each belongs to one worker;
//! what all workers share ([`bucket`], [`context`]) is atomic, so nothing here is locked. The
//! simulation in `tests/simulate` runs the very same code.

pub mod balance;
pub mod bucket;
pub mod budget;
pub mod context;
pub mod deadline;
pub mod faults;
pub mod grpc_timeout;
pub mod health;
pub mod limits;
pub mod retry;
pub mod traceparent;
pub mod tracestate;
