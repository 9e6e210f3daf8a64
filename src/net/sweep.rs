//! What the connections of a shard share, and the sweeper that enforces their time limits: one tick for all of them
//! instead of one timer per request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use slab::Slab;

use super::NetMetrics;
use super::conn::{ConnState, Phase};
use super::io::SCRATCH_BYTES;
use crate::config::HttpSettings;
use crate::lifecycle::{self, Lifecycle};

/// The sweeper's period; a time limit is kept to within two of it.
pub const TICK: Duration = Duration::from_millis(250);
/// Refused connections of a shard whose close is waited for at once; they are beyond `MAX_CONNECTIONS`.
const REFUSALS_MAX: usize = 256;
/// Header fields that hyper takes without being told.
const HYPER_HEADERS_MAX: usize = 100;
/// While draining, a connection that has been idle, or without its first byte, for so many ticks is closed. A busy one gets `Connection: close`
/// with its next answer instead, so that no request is on its way when the socket closes.
const DRAIN_IDLE_TICKS: u32 = 2;

/// A shard's connections and their limits.
#[derive(Debug)]
pub struct Net {
    pub(super) metrics: Arc<NetMetrics>,
    http1: http1::Builder,
    life: Arc<Lifecycle>,
    tick: Cell<u32>,
    header_ticks: u32,
    idle_ticks: u32,
    write_ticks: u32,
    connections: RefCell<Slab<Rc<ConnState>>>,
    refusals: Cell<usize>,
    scratch: Rc<RefCell<Box<[u8]>>>,
}

impl Net {
    /// An empty set of connections with the limits of `settings`.
    #[must_use]
    pub fn new(settings: &HttpSettings, life: Arc<Lifecycle>, metrics: Arc<NetMetrics>) -> Rc<Self> {
        let mut http1 = http1::Builder::new();
        // Head and target have limits of their own in `http::route`; this one bounds what hyper buffers before that.
        http1.max_header_size(settings.header_bytes_max + settings.uri_bytes_max);
        // hyper's own table of 100 fields is on the stack; a larger one is allocated for each request.
        if settings.headers_max > HYPER_HEADERS_MAX {
            http1.max_headers(settings.headers_max);
        }
        // The sweeper keeps the header limit: hyper's would set a timer per request.
        http1.header_read_timeout(None).half_close(false);
        // Answers are small: copying one behind its head costs less than a gather write.
        http1.writev(false);
        Rc::new(Self {
            metrics,
            http1,
            life,
            tick: Cell::new(0),
            header_ticks: ticks(settings.header_timeout),
            idle_ticks: ticks(settings.idle_timeout),
            write_ticks: ticks(settings.write_timeout),
            connections: RefCell::default(),
            refusals: Cell::new(0),
            scratch: Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice())),
        })
    }

    /// Ticks for ever; to be spawned once per shard.
    pub async fn sweep(self: Rc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.tick.set(self.tick.get().wrapping_add(1));
            for (_, connection) in &*self.connections.borrow() {
                self.enforce(connection);
            }
        }
    }

    /// Connections of this shard now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.connections.borrow().len()
    }

    pub(super) fn tick(&self) -> u32 {
        self.tick.get()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.life.phase() >= lifecycle::Phase::Draining
    }

    pub(super) fn http1(&self) -> &http1::Builder {
        &self.http1
    }

    pub(super) fn scratch(&self) -> Rc<RefCell<Box<[u8]>>> {
        Rc::clone(&self.scratch)
    }

    /// A place among the refused connections whose close is waited for; none left: the close is abrupt.
    pub(super) fn take_refusal(self: &Rc<Self>) -> Option<Refusal> {
        let refusals = self.refusals.get();
        (refusals < REFUSALS_MAX).then(|| {
            self.refusals.set(refusals + 1);
            Refusal { net: Rc::clone(self) }
        })
    }

    pub(super) fn register(self: &Rc<Self>, connection: &Rc<ConnState>) -> Registration {
        let key = self.connections.borrow_mut().insert(Rc::clone(connection));
        self.metrics.open.add(1);
        Registration { net: Rc::clone(self), key }
    }

    fn enforce(&self, connection: &ConnState) {
        let elapsed = |since: u32| self.tick.get().wrapping_sub(since);
        let age = elapsed(connection.since());
        let blocked = connection.blocked_since().is_some_and(|since| elapsed(since) > self.write_ticks);
        let passed = match connection.phase() {
            _ if blocked => &self.metrics.write_timeouts,
            Phase::Fresh | Phase::Head if age > self.header_ticks => &self.metrics.header_timeouts,
            Phase::Idle if age > self.idle_ticks => &self.metrics.idle_timeouts,
            Phase::Fresh | Phase::Idle if age >= DRAIN_IDLE_TICKS && self.is_draining() => {
                return connection.close_if_idle();
            }
            _ => return,
        };
        passed.inc();
        connection.cut();
    }
}

/// A refused connection that is being closed; gives its place back on drop.
pub(super) struct Refusal {
    net: Rc<Net>,
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.net.refusals.set(self.net.refusals.get() - 1);
    }
}

/// Takes the connection off the sweeper's list on drop.
pub(super) struct Registration {
    net: Rc<Net>,
    key: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.net.connections.borrow_mut().remove(self.key);
        self.net.metrics.open.add(-1);
    }
}

/// Whole ticks, rounded up: a limit never comes early.
fn ticks(limit: Duration) -> u32 {
    u32::try_from(limit.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
}
