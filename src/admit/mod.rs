//! May this request start? One in-flight permit per request, out of a capacity shared by every instance.
//!
//! A [`Permit`] is given back exactly once, on drop: reply, timeout, error, client gone, panic and drain need no code.

pub mod counter;
pub mod local;
pub mod rate;
pub mod redis;

use crate::correlate::{Admitted, CorrelationId};

/// Why no permit was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Every permit is in use.
    #[error("all permits are in use")]
    CapacityReached,
    /// Above `RATE_LIMIT_RPS`.
    #[error("above the request rate")]
    RateExceeded,
    /// The limiter did not answer within its time.
    #[error("the limiter is unavailable")]
    Unavailable,
}

/// A shard's handle of the limiter; clones share it.
#[derive(Clone)]
pub enum Admission {
    /// Counts in this process.
    Local(local::LocalLimiter),
    /// Counts in Redis, for all instances together.
    Redis(redis::RedisLimiter),
}

impl Admission {
    /// Takes a permit for `id`, or says why not.
    pub async fn acquire(&self, id: CorrelationId) -> Result<Permit, Refused> {
        match self {
            Self::Local(limiter) => limiter.acquire(id),
            Self::Redis(limiter) => limiter.acquire(id).await,
        }
    }
}

/// The right of one request to be in flight. Move-only; given back on drop.
#[must_use]
pub struct Permit {
    id: CorrelationId,
    owner: Owner,
}

/// Who takes the permit back.
enum Owner {
    Local(local::LocalLimiter),
    Redis(redis::RedisLimiter, redis::PermitKey),
}

impl Permit {
    fn local(id: CorrelationId, owner: local::LocalLimiter) -> Self {
        Self { id, owner: Owner::Local(owner) }
    }

    fn redis(id: CorrelationId, owner: redis::RedisLimiter, key: redis::PermitKey) -> Self {
        Self { id, owner: Owner::Redis(owner, key) }
    }
}

impl Admitted for Permit {
    fn id(&self) -> CorrelationId {
        self.id
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Local(limiter) => limiter.release(),
            Owner::Redis(limiter, key) => limiter.release(*key),
        }
    }
}
