//! The decisions about traffic, apart from the traffic: pure values that are told the time and given
//! their randomness, and never touch a socket or a clock. One of each belongs to one worker, so
//! nothing here is locked. The simulation in `tests/simulate` runs the very same code.

pub mod balance;
pub mod health;
