//! The harness of the end-to-end tests.
//!
//! It builds nothing: it starts the released `outrider` command and programs that others wrote, as
//! processes, and looks at them from outside.
//!
//! - [`mesh`] writes a directory of YAML ([`manifest`]) and runs a control plane and its sidecars,
//!   each a [`process`] of its own that can be killed;
//! - [`app`] is an application behind a sidecar that keeps every byte it was sent, and can be made
//!   slow or failing; [`peers`] starts the real ones: nginx, Postgres, Redis, NATS, Prometheus, gRPC
//!   and WebSocket servers;
//! - [`http`] is a client that writes exactly the bytes it is told, [`load`] one that never stops,
//!   [`paced`] one that keeps its rate and every latency;
//! - [`pki`] makes the certificates, requests and tokens that must be refused;
//! - [`netns`] makes machines of their own out of network namespaces, where [`catcher`] says what it
//!   was called as; [`placed`] is a mesh on one of them, with a namespace for each workload, and
//!   [`shop`] one that is ready to be called;
//! - [`kubernetes`] is a real cluster of one node, with pods of images that are made out of files;
//!   [`api_server`] is one without nodes; [`printed`] is what is installed in them;
//! - [`metrics`] reads Prometheus text; [`wait`] waits for conditions, with a deadline each.

pub mod api_server;
pub mod app;
pub mod capture;
pub mod catcher;
pub mod faulty_server;
pub mod http;
pub mod kubernetes;
pub mod load;
pub mod manifest;
pub mod mesh;
pub mod metrics;
pub mod netns;
pub mod paced;
pub mod peers;
pub mod pki;
pub mod placed;
pub mod ports;
pub mod printed;
pub mod process;
pub mod programs;
pub mod quiet;
pub mod shop;
pub mod sign;
pub mod tls;
pub mod wait;

pub use app::App;
pub use manifest::{Service, Workload};
pub use mesh::{Mesh, Sidecar};
pub use process::Process;
pub use wait::{eventually, holds};
