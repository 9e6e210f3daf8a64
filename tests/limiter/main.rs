//! The cluster-wide limiter against a real `redis-server`.
//!
//! Each test has a server of its own. A *shard* is a thread with a local runtime and a limiter on it, as in the
//! product; several shards on one server stand for several instances, because nothing but Redis connects them.
//! Waiting is always for a condition, with a deadline; leases are long unless the test is about them, so that a leaked
//! permit shows.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod model;
mod permits;
mod proxy;
mod script;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::redis::RedisServer;
use thousandx::admit::redis::{RedisLimiter, RedisMetrics};
use thousandx::admit::{Admission, Permit, Refused};
use thousandx::config::{LimiterKind, LimiterSettings, Secret};
use thousandx::correlate::CorrelationId;
use thousandx::lifecycle::{Lifecycle, Part};
use tokio::runtime::{Builder, LocalOptions};

/// The key of the permits.
const SET: &str = "in_flight";
/// The budget of a call. It also bounds how long a refusal may take.
const TIMEOUT: Duration = Duration::from_millis(250);
/// What a busy machine may add to a bound that the product promises.
const SLACK: Duration = Duration::from_millis(500);
/// Back to normal after a fault.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
/// Longest wait for anything else.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A limiter with everything around it that a test looks at.
struct Shard {
    admission: Admission,
    limiter: RedisLimiter,
    metrics: Arc<RedisMetrics>,
    health: Part,
}

fn settings(server: &RedisServer, capacity: u32) -> LimiterSettings {
    LimiterSettings {
        kind: LimiterKind::Redis,
        redis_url: Secret::new(server.url()),
        capacity,
        set_key: SET.into(),
        rate_per_s: None,
        redis_timeout: TIMEOUT,
        lease: Duration::from_mins(1),
    }
}

/// Runs `work` as a shard does.
fn on_shard<F: Future>(work: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(work)
}

impl Shard {
    /// A limiter whose connection may not be there yet.
    fn start(settings: &LimiterSettings) -> Self {
        let health = Lifecycle::new().register("limiter");
        let metrics = Arc::<RedisMetrics>::default();
        let limiter = RedisLimiter::start(settings, health.clone(), Arc::clone(&metrics)).unwrap();
        Self { admission: Admission::Redis(limiter.clone()), limiter, metrics, health }
    }

    async fn ready(settings: &LimiterSettings) -> Self {
        let shard = Self::start(settings);
        shard.until_ready(WAIT_MAX).await;
        shard
    }

    async fn until_ready(&self, max: Duration) {
        until("the limiter is ready", max, || self.health.is_ready()).await;
    }

    async fn acquire(&self) -> Result<Permit, Refused> {
        self.admission.acquire(new_id()).await
    }

    /// The outcome without the permit, and how long it took.
    async fn timed(&self) -> (Result<(), Refused>, Duration) {
        let start = Instant::now();
        (self.acquire().await.map(drop), start.elapsed())
    }

    /// Waits until everything is given back and the server agrees.
    async fn until_empty(&self, client: &mut redis::Connection) {
        assert_eq!(self.limiter.close(WAIT_MAX).await, 0, "nothing is left to its lease");
        assert_eq!(self.metrics.held.get(), 0);
        until("the set is empty", WAIT_MAX, || size(client) == 0).await;
    }
}

/// Waits until `holds`.
async fn until(what: &str, max: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + max;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {max:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await; // bounded poll: until `max`
    }
}

fn new_id() -> CorrelationId {
    let id = uuid::Builder::from_custom_bytes(rand::random()).into_uuid();
    CorrelationId::parse(id.as_bytes()).unwrap()
}

/// Permits in the server's set, expired or not.
fn size(client: &mut redis::Connection) -> u64 {
    redis::cmd("ZCARD").arg(SET).query(client).unwrap()
}

fn command(client: &mut redis::Connection, line: &str) {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(if word == "''" { "" } else { word });
    }
    command.exec(client).unwrap();
}
