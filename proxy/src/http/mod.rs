//! HTTP as it passes through: framing checked, headers cleaned, bodies streamed.

pub mod blocks;
pub mod body;
pub mod framing;
pub mod guarded;
pub mod headers;
pub mod idle;
pub mod limits;
pub mod parked;
pub mod proxy_status;
pub mod replay;
pub mod rewind;
pub mod serve;
pub mod wire;
