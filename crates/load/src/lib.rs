//! A load generator for Socket.IO and plain WebSocket servers.
//!
//! It opens many connections from few threads, does one of five things with
//! them, and tells what it saw: how fast connections came about, how many
//! operations or deliveries a second there were, how long they took, what was
//! lost, and, given the server's process id, what that cost in memory and CPU.
//!
//! ```no_run
//! use heartline_load::{Plan, Protocol, Scenario, run};
//!
//! let mut plan = Plan::new(Scenario::Echo, "http://127.0.0.1:8080".parse()?);
//! plan.protocol = Protocol::Live;
//! plan.connections = 1_000;
//! let report = run(&plan, &|_| None, &mut |_| {})?;
//! println!("{}", report.to_json());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! How it stays out of the measurement: each thread is one poller with one read
//! buffer; a connection is a socket, a decoder and, while something waits to be
//! sent, a buffer; what one turn has to send on a connection is one write.

mod calibrate;
mod conn;
mod flights;
mod http;
mod plan;
mod process;
mod report;
mod run;
mod shared;
mod speech;
mod tls;
mod worker;

pub use calibrate::{Calibration, calibrate};
pub use plan::{Plan, Protocol, Scenario, Target, TargetError};
pub use report::{Latency, Progress, Report, ServerCost, Stage};
pub use run::{Error, run};
