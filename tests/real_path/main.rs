//! The whole path on real Kafka and real Redis: client, `serve`, tasks, worker, results, client.
//!
//! The broker is one for all tests; each test has its own topics, Redis and server, except those of `answers`, which
//! share one server and one worker that does what a task's body asks for. What the server says about itself is checked
//! against what the worker and Redis have seen.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod commands;
mod departure;
mod formats;
mod hostile;
mod huge;
mod load;
mod strays;

use std::time::Duration;

/// An answer that has to come at once, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(10);
