//! Bytes in and out: sockets, runtimes, connections. Knows nothing of queues.

pub mod accept;
pub mod conn;
#[doc(hidden)] // public for benches/micro
pub mod head;
mod io;
pub mod runtime;
pub mod socket;
pub mod sweep;

use crate::observe::metrics::{Collect, Counter, Gauge, Samples};

/// What a shard counts about its connections.
#[derive(Debug, Default)]
pub struct NetMetrics {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open now.
    pub open: Gauge,
    /// Failed accepts: out of file descriptors or memory.
    pub accept_errors: Counter,
    /// Connections answered 503 at once because `MAX_CONNECTIONS` were open.
    pub refused: Counter,
    /// Requests that hyper refused before they reached the router.
    pub framing_errors: Counter,
    /// Connections cut because a head was not complete in time.
    pub header_timeouts: Counter,
    /// Connections closed after `IDLE_TIMEOUT_MS` without a request.
    pub idle_timeouts: Counter,
    /// Connections cut because an answer could not be written in time.
    pub write_timeouts: Counter,
}

impl Collect for NetMetrics {
    fn collect(&self, samples: &mut Samples) {
        let mut counter = |name, help, counter: &Counter| samples.counter(name, help, &[], counter.get());
        counter("thousandx_connections_accepted", "Connections accepted.", &self.accepted);
        counter(
            "thousandx_accept_errors",
            "Accepts that failed for want of descriptors or memory.",
            &self.accept_errors,
        );
        counter("thousandx_connections_refused", "Connections refused at MAX_CONNECTIONS.", &self.refused);
        counter("thousandx_framing_errors", "Requests whose framing could not be parsed.", &self.framing_errors);
        for (timeout, counter) in
            [("header", &self.header_timeouts), ("idle", &self.idle_timeouts), ("write", &self.write_timeouts)]
        {
            let help = "Connections ended by a time limit, by which.";
            samples.counter("thousandx_connection_timeouts", help, &[("limit", timeout)], counter.get());
        }
        samples.gauge("thousandx_connections_open", "Connections open now.", &[], self.open.get());
    }
}
