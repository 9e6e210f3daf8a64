//! The cluster-wide limiter: a Redis sorted set of request ids, each with a lease by Redis' clock.
//!
//! [`RedisLimiter`] is what a request holds; `link` is the shard's task that talks to Redis; `batch` decides, without
//! either, what is sent and what an outcome means; `call` is one script call; `limiter.lua` is the script.

mod batch;
mod call;
#[doc(hidden)] // public for benches/micro
pub mod dialogue;
mod fault;
mod link;
mod metrics;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::redis::{Client, ConnectionAddr, IntoConnectionInfo};

use self::batch::Batcher;
use self::call::{PermitId, Terms};
pub use self::fault::FaultKind;
use self::link::Link;
pub use self::metrics::RedisMetrics;
use super::{Permit, Refused};
use crate::config::LimiterSettings;
use crate::correlate::CorrelationId;
use crate::error::StartError;
use crate::lifecycle::Part;

/// While Redis answers, an acquire waits for its turn as long as so many calls may take: what makes it wait is then this
/// process, with more requests than it has time for. Without an answer it is refused after one call's time...
const PATIENCE_CALLS: u32 = 3;
/// ...and never for longer than this, or than one call: with the call itself a refusal takes a second.
const PATIENCE_MAX: Duration = Duration::from_millis(750);

/// A shard's handle of the Redis limiter; clones share it. Lives on the shard's thread.
#[derive(Clone)]
pub struct RedisLimiter {
    handle: Rc<Handle>,
}

/// Names a held permit in its limiter.
#[derive(Debug, Clone, Copy)]
pub(super) struct PermitKey(usize);

/// What the handles and the task share.
struct Shared {
    batcher: RefCell<Batcher>,
    /// The task, while it has nothing to do.
    task: Cell<Option<Waker>>,
    /// Who waits in [`RedisLimiter::close`].
    closer: Cell<Option<Waker>>,
    /// The last handle is gone.
    closed: Cell<bool>,
    metrics: Arc<RedisMetrics>,
}

/// Ends the task when the last clone is dropped; every permit has one.
struct Handle(Rc<Shared>);

impl RedisLimiter {
    /// Starts the shard's limiter task on the current [`tokio::task::LocalSet`] or local runtime. Does not wait for
    /// Redis: `health` turns ready with the first successful call. `metrics` is for this limiter alone.
    pub fn start(settings: &LimiterSettings, health: Part, metrics: Arc<RedisMetrics>) -> Result<Self, StartError> {
        let client = client(settings)?;
        // Equal names of two limiters would sum their gauges; the first name stays.
        let _ = metrics.part.set(health.name().to_owned());
        let patience = (settings.redis_timeout * PATIENCE_CALLS).min(PATIENCE_MAX).max(settings.redis_timeout);
        let batcher = Batcher::new(settings.capacity, patience, Arc::clone(&metrics));
        let shared = Rc::new(Shared {
            batcher: RefCell::new(batcher),
            task: Cell::new(None),
            closer: Cell::new(None),
            closed: Cell::new(false),
            metrics,
        });
        let terms = Terms::new(settings);
        let link = Link::new(Rc::clone(&shared), client, terms, settings.redis_timeout, settings.lease, health);
        tokio::task::spawn_local(link.run());
        Ok(Self { handle: Rc::new(Handle(shared)) })
    }

    pub(super) async fn acquire(&self, id: CorrelationId) -> Result<Permit, Refused> {
        let key = self.acquire_text(PermitId::new(id.encode())).await?;
        Ok(Permit::redis(id, self.clone(), key))
    }

    pub(super) fn release(&self, key: PermitKey) {
        self.handle.0.batcher.borrow_mut().release(key.0);
        self.handle.0.wake_task();
    }

    /// Sends what is still to be released, for at most `grace`; returns how many ids are left to their lease.
    pub async fn close(&self, grace: Duration) -> usize {
        let shared = &self.handle.0;
        let flushed = poll_fn(|context| {
            if shared.batcher.borrow().is_flushed() {
                return Poll::Ready(());
            }
            shared.closer.set(Some(context.waker().clone()));
            Poll::Pending
        });
        // Elapsed or not, what is left is counted below.
        let _ = tokio::time::timeout(grace, flushed).await;
        shared.batcher.borrow().unreleased()
    }

    async fn acquire_text(&self, id: PermitId) -> Result<PermitKey, Refused> {
        let key = self.handle.0.batcher.borrow_mut().enqueue(id, Instant::now())?;
        self.handle.0.wake_task();
        Acquire { shared: &self.handle.0, key: Some(key) }.await
    }
}

/// An acquire under way. Dropped early, it leaves nothing behind: what is granted later is released at once.
struct Acquire<'a> {
    shared: &'a Shared,
    /// `None` once the outcome was read.
    key: Option<usize>,
}

impl Future for Acquire<'_> {
    type Output = Result<PermitKey, Refused>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Polled after completion, which only a bug of the caller does, it stays pending.
        let Some(key) = self.key else { return Poll::Pending };
        let answer = self.shared.batcher.borrow_mut().poll_answer(key, context);
        if answer.is_ready() {
            self.key = None;
        }
        answer.map_ok(|()| PermitKey(key))
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.batcher.borrow_mut().abandon(key);
            self.shared.wake_task();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.closed.set(true);
        self.0.wake_task();
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether the task has a reason to run.
    fn has_work(&self) -> bool {
        self.is_closed() || self.batcher.borrow().has_work()
    }

    fn wake_task(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Wakes those whose outcome is known. `wakers` is the caller's buffer, empty before and after.
    fn wake_waiting(&self, wakers: &mut Vec<Waker>) {
        self.batcher.borrow_mut().take_wakers(wakers);
        for waker in wakers.drain(..) {
            waker.wake();
        }
        if self.batcher.borrow().is_flushed()
            && let Some(closer) = self.closer.take()
        {
            closer.wake();
        }
    }
}

/// The client for `REDIS_URL`, which appears in no error: it may have a password.
fn client(settings: &LimiterSettings) -> Result<Client, StartError> {
    let url = settings.redis_url.expose();
    if url.starts_with("rediss://") || url.starts_with("valkeys://") {
        return Err(StartError::Redis("REDIS_URL asks for TLS, which this build does not have; use redis://".into()));
    }
    let refused = |error: ::redis::RedisError| {
        StartError::Redis(format!("REDIS_URL is not redis://[user:password@]host[:port][/db]: {}", error.category()))
    };
    let info = url.into_connection_info().map_err(refused)?;
    if matches!(info.addr(), ConnectionAddr::Tcp(host, _) if host.is_empty()) {
        return Err(StartError::Redis("REDIS_URL has no host".into()));
    }
    let tcp = ::redis::io::tcp::TcpSettings::default().set_nodelay(true);
    Client::open(info.set_tcp_settings(tcp)).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LimiterKind, Secret};

    fn refusal(url: &str) -> String {
        let settings = LimiterSettings {
            kind: LimiterKind::Redis,
            redis_url: Secret::new(url),
            capacity: 1,
            set_key: "in_flight".into(),
            rate_per_s: None,
            redis_timeout: Duration::from_millis(250),
            lease: Duration::from_secs(15),
        };
        client(&settings).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        for url in
            ["redis://:canary@", "redis://:canary@host:port", "http://:canary@host", "canary", "redis://:canary@h/x"]
        {
            assert!(!refusal(url).contains("canary"), "{url}: {}", refusal(url));
        }
    }

    #[test]
    fn tls_is_refused_in_so_many_words() {
        assert!(refusal("rediss://:canary@host").contains("TLS"));
        assert!(!refusal("rediss://:canary@host").contains("canary"));
    }
}
