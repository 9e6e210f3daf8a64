//! The limiter of one process: a counter. Used by `dev` and with `LIMITER=local`.

use std::sync::Arc;

use super::{Permit, Refused};
use crate::correlate::CorrelationId;

/// A process-wide count of permits in use; clones share it.
#[derive(Clone)]
pub struct LocalLimiter {
    inner: Arc<()>,
}

impl LocalLimiter {
    /// A limiter of `capacity` permits, and at most `rate_per_s` acquisitions a second (`None`: no rate cap).
    #[must_use]
    pub fn new(capacity: u32, rate_per_s: Option<u32>) -> Self {
        let _ = (capacity, rate_per_s);
        todo!()
    }

    pub(super) fn acquire(&self, id: CorrelationId) -> Result<Permit, Refused> {
        let _ = (id, &self.inner);
        todo!()
    }

    pub(super) fn release(&self) {
        todo!()
    }

    /// Permits in use now.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        todo!()
    }
}
