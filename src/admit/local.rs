//! The limiter of one process: a counter. Used by `dev` and with `LIMITER=local`.

use std::sync::Arc;
use std::time::Instant;

use super::counter::Counter;
use super::rate::Rate;
use super::{Permit, Refused};
use crate::correlate::CorrelationId;

/// A process-wide count of permits in use; clones share it.
#[derive(Clone)]
pub struct LocalLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    counter: Counter,
    rate: Option<Rate>,
    /// The zero of the rate's clock.
    started: Instant,
}

impl LocalLimiter {
    /// A limiter of `capacity` permits, and at most `rate_per_s` acquisitions a second (`None`: no rate cap).
    #[must_use]
    pub fn new(capacity: u32, rate_per_s: Option<u32>) -> Self {
        let inner = Inner { counter: Counter::new(capacity), rate: rate_per_s.map(Rate::new), started: Instant::now() };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn acquire(&self, id: CorrelationId) -> Result<Permit, Refused> {
        self.count()?;
        Ok(Permit::local(id, self.clone()))
    }

    pub(super) fn release(&self) {
        self.inner.counter.release();
    }

    /// Permits in use now.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.inner.counter.in_use()
    }

    /// Capacity before rate, as in Redis: a request that finds no permit costs no token.
    fn count(&self) -> Result<(), Refused> {
        if !self.inner.counter.acquire() {
            return Err(Refused::CapacityReached);
        }
        match &self.inner.rate {
            Some(rate) if !rate.take(self.inner.started.elapsed()) => {
                self.inner.counter.release();
                Err(Refused::RateExceeded)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_at_the_capacity_and_counts_down() {
        let limiter = LocalLimiter::new(1, None);
        assert_eq!(limiter.count(), Ok(()));
        assert_eq!(limiter.clone().count(), Err(Refused::CapacityReached), "clones share the count");
        limiter.release();
        assert_eq!(limiter.in_use(), 0);
        assert_eq!(limiter.count(), Ok(()));
    }

    #[test]
    fn a_request_above_the_rate_holds_no_permit() {
        let limiter = LocalLimiter::new(100, Some(1));
        assert_eq!(limiter.count(), Ok(()));
        assert_eq!(limiter.count(), Err(Refused::RateExceeded));
        assert_eq!(limiter.in_use(), 1);
    }
}
