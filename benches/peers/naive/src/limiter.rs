//! At most so many requests in flight, over all instances: a sorted set of ids in Redis, scored by the end of their
//! lease.

use std::time::Duration;

use redis::aio::ConnectionManager;
use redis::{AsyncCommands, RedisResult, Script};
use uuid::Uuid;

/// KEYS[1] the set; ARGV: capacity, lease in ms, id. 1 when the permit was taken.
const ACQUIRE: &str = r"
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + ARGV[2]), ARGV[3])
return 1
";

/// Why no permit was given.
pub enum Refused {
    /// Every permit is in use.
    CapacityReached,
    /// Redis did not answer, or refused.
    Unavailable,
}

/// The limiter; clones share one connection, on which redis-rs pipelines by itself.
#[derive(Clone)]
pub struct Limiter {
    redis: ConnectionManager,
    acquire: &'static Script,
    set: &'static str,
    capacity: u32,
    lease_ms: u64,
}

impl Limiter {
    pub async fn connect(url: &str, set: String, capacity: u32, lease: Duration) -> RedisResult<Self> {
        let redis = ConnectionManager::new(redis::Client::open(url)?).await?;
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { redis, acquire: Box::leak(Box::new(Script::new(ACQUIRE))), set: set.leak(), capacity, lease_ms })
    }

    /// Takes a permit, or says why not.
    pub async fn acquire(&self, id: Uuid) -> Result<Permit, Refused> {
        let mut redis = self.redis.clone();
        let mut call = self.acquire.key(self.set);
        call.arg(self.capacity).arg(self.lease_ms).arg(id.as_bytes());
        match call.invoke_async(&mut redis).await {
            // A caller that is cancelled before this line leaves its permit to the lease.
            Ok(true) => Ok(Permit { limiter: self.clone(), id }),
            Ok(false) => Err(Refused::CapacityReached),
            Err(_) => Err(Refused::Unavailable),
        }
    }
}

/// One request's right to be in flight; given back on drop, so in whatever way the request ends.
pub struct Permit {
    limiter: Limiter,
    id: Uuid,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Limiter { mut redis, set, .. } = self.limiter.clone();
        let id = self.id;
        // The answer does not wait for Redis.
        tokio::spawn(async move {
            // What cannot be given back ends with its lease.
            let _: RedisResult<()> = redis.zrem(set, id.as_bytes()).await;
        });
    }
}
