//! What the Redis limiter counts. One per shard; siblings are summed at scrape.

use std::sync::OnceLock;

use super::super::Refused;
use super::fault::FaultKind;
use crate::observe::metrics::{Collect, Counter, Gauge, Histogram, Samples};

/// What a shard's limiter counts.
#[derive(Debug, Default)]
pub struct RedisMetrics {
    /// Which part of the process this is, for the gauges that must not be summed.
    pub(super) part: OnceLock<String>,
    /// Script calls sent.
    pub calls: Counter,
    /// Ids sent in script calls; by `calls` this is the mean batch.
    pub batched: Counter,
    /// From sending a call to its reply.
    pub call_time: Histogram,
    /// Permits given.
    pub granted: Counter,
    /// Acquires refused because every permit was in use.
    pub refused_capacity: Counter,
    /// Acquires refused by the rate cap.
    pub refused_rate: Counter,
    /// Acquires refused because Redis did not answer, or could not.
    pub refused_unavailable: Counter,
    /// Acquires refused without asking Redis, out of those refused.
    pub early_refusals: Counter,
    /// Ids that Redis removed because their request had ended.
    pub released: Counter,
    /// Releases that were in a call that failed and are sent again.
    pub release_deferred: Counter,
    /// Releases given up: their lease ends them.
    pub release_left: Counter,
    /// Releases of ids that Redis had lost, or whose lease was over.
    pub permit_missing: Counter,
    /// Held ids that Redis had lost and that were inserted again.
    pub reinserted: Counter,
    /// Releases sent for acquires of a call that failed: it may have been done.
    pub compensations: Counter,
    /// Times Redis had forgotten the script.
    pub script_reload: Counter,
    /// Failed calls and connects, by [`FaultKind`].
    pub errors: [Counter; FaultKind::ALL.len()],
    /// 1 while connected and working.
    pub connections: Gauge,
    /// Permits held now.
    pub held: Gauge,
    /// Size of the set in the last reply: permits in use in the whole cluster.
    pub set_size: Gauge,
}

impl RedisMetrics {
    pub(super) fn refuse(&self, why: Refused) -> Refused {
        match why {
            Refused::CapacityReached => self.refused_capacity.inc(),
            Refused::RateExceeded => self.refused_rate.inc(),
            Refused::Unavailable => self.refused_unavailable.inc(),
        }
        why
    }

    pub(super) fn error(&self, kind: FaultKind) {
        self.errors[kind as usize].inc();
    }

    /// Failed calls and connects of one kind.
    #[must_use]
    pub fn errors_of(&self, kind: FaultKind) -> u64 {
        self.errors[kind as usize].get()
    }

    fn collect_errors(&self, samples: &mut Samples) {
        for (label, counter) in [
            ("capacity_reached", &self.refused_capacity),
            ("rate_exceeded", &self.refused_rate),
            ("unavailable", &self.refused_unavailable),
        ] {
            let help = "Acquires refused, by reason.";
            samples.counter("thousandx_limiter_refused", help, &[("reason", label)], counter.get());
        }
        for kind in FaultKind::ALL {
            let help = "Failed calls and connects to Redis, by kind.";
            samples.counter("thousandx_limiter_errors", help, &[("kind", kind.label())], self.errors_of(kind));
        }
    }
}

impl Collect for RedisMetrics {
    fn collect(&self, samples: &mut Samples) {
        for (name, help, counter) in [
            ("thousandx_limiter_calls", "Script calls sent to Redis.", &self.calls),
            ("thousandx_limiter_batched", "Ids sent in script calls; by calls, the mean batch.", &self.batched),
            ("thousandx_limiter_granted", "Permits given.", &self.granted),
            ("thousandx_limiter_early_refusals", "Acquires refused without asking Redis.", &self.early_refusals),
            ("thousandx_limiter_released", "Permits given back.", &self.released),
            ("thousandx_limiter_release_deferred", "Releases sent again after a failed call.", &self.release_deferred),
            ("thousandx_limiter_release_left", "Releases given up and left to their lease.", &self.release_left),
            ("thousandx_limiter_permit_missing", "Releases of ids that Redis had lost.", &self.permit_missing),
            ("thousandx_limiter_reinserted", "Held ids that Redis had lost, inserted again.", &self.reinserted),
            ("thousandx_limiter_compensations", "Releases after failed acquires.", &self.compensations),
            ("thousandx_limiter_script_reload", "Times Redis had forgotten the script.", &self.script_reload),
        ] {
            samples.counter(name, help, &[], counter.get());
        }
        self.collect_errors(samples);
        let help = "Shards with a working connection to Redis.";
        samples.gauge("thousandx_limiter_connections", help, &[], self.connections.get());
        samples.gauge("thousandx_limiter_held", "Permits held by this process.", &[], self.held.get());
        let part = self.part.get().map_or("", String::as_str);
        let help = "Size of the set of permits in the shard's last reply.";
        samples.gauge("thousandx_limiter_set_size", help, &[("part", part)], self.set_size.get());
        let help = "From sending a script call to its reply.";
        samples.histogram("thousandx_limiter_call_seconds", help, &[], &self.call_time);
    }
}
