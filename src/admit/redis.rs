//! The cluster-wide limiter: a Redis sorted set of request ids, each with a lease by Redis' clock.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Permit, Refused};
use crate::config::LimiterSettings;
use crate::correlate::CorrelationId;
use crate::error::StartError;
use crate::lifecycle::Part;
use crate::observe::metrics::{Collect, Samples};

/// What a shard's limiter counts.
#[derive(Debug, Default)]
pub struct RedisMetrics {}

impl Collect for RedisMetrics {
    fn collect(&self, _samples: &mut Samples) {
        todo!()
    }
}

/// A shard's handle of the Redis limiter; clones share it. Lives on the shard's thread.
#[derive(Clone)]
pub struct RedisLimiter {
    inner: Rc<()>,
}

impl RedisLimiter {
    /// Starts the shard's limiter task on the current [`tokio::task::LocalSet`] or local runtime. Does not wait for
    /// Redis: `health` turns ready with the first successful call.
    pub fn start(settings: &LimiterSettings, health: Part, metrics: Arc<RedisMetrics>) -> Result<Self, StartError> {
        let _ = (settings, health, metrics);
        todo!()
    }

    pub(super) async fn acquire(&self, id: CorrelationId) -> Result<Permit, Refused> {
        let _ = (id, &self.inner);
        todo!()
    }

    pub(super) fn release(&self, id: CorrelationId) {
        let _ = id;
        todo!()
    }

    /// Sends what is still to be released, for at most `grace`; returns how many ids are left to their lease.
    pub async fn close(&self, grace: Duration) -> usize {
        let _ = grace;
        todo!()
    }
}
