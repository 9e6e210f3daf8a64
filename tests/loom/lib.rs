//! The source files of `thousandx` that are model-checked, compiled a second time under `cfg(loom)`. Each is included
//! under the name it has there, so that its `crate::` paths hold.
//!
//! What crosses threads and is checked here: the mailbox (with the table behind it), the counter (the local limiter's
//! permits, and the connections under `MAX_CONNECTIONS`), the rate, the budget of arriving bodies, the phase and
//! readiness of the process.
//!
//! What needs no model, because it belongs to one shard's thread (`Rc`, `Cell`, `RefCell`: the compiler refuses to
//! send it): the table and its slab, the Redis limiter with its batches, permits, waiters, connections, the sweeper.
//! Several shards' Redis limiters meet in the Lua script only, one call at a time; `tests/limiter` has its model.
//!
//! What is shared and not modelled: metrics (independent sums, read for their values only), the reason why tasks are
//! refused and the routes (one atomic word, one `arc_swap` pointer), the throttle of warnings (all under one mutex), and
//! librdkafka.

#[path = "../../src/correlate/mod.rs"]
pub mod correlate;

#[path = "../../src/http/budget.rs"]
pub mod budget;

#[path = "../../src/admit/counter.rs"]
pub mod counter;

#[path = "../../src/lifecycle.rs"]
pub mod lifecycle;

#[path = "../../src/admit/rate.rs"]
pub mod rate;

/// Runs `model` under every interleaving in which the scheduler interrupts running threads at most three times in all
/// (`LOOM_MAX_PREEMPTIONS` sets another number). Nearly every known race needs two at most; three take seconds, no
/// bound takes hours.
pub fn check(model: impl Fn() + Sync + Send + 'static) {
    const PREEMPTIONS_MAX: usize = 3;
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS_MAX);
    builder.check(model);
}
