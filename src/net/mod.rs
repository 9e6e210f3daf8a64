//! Bytes in and out: sockets, runtimes, connections. Knows nothing of queues.

pub mod accept;
pub mod conn;
pub mod runtime;
pub mod socket;
