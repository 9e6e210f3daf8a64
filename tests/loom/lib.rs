//! The source files of `thousandx` that are model-checked, compiled a second time under `cfg(loom)`. Each is included
//! under the name it has there, so that its `crate::` paths hold.

#[path = "../../src/correlate/mod.rs"]
pub mod correlate;

#[path = "../../src/admit/counter.rs"]
pub mod counter;

/// Runs `model` under every interleaving in which the scheduler interrupts running threads at most three times in all
/// (`LOOM_MAX_PREEMPTIONS` sets another number). Nearly every known race needs two at most; three take seconds, no
/// bound takes hours.
pub fn check(model: impl Fn() + Sync + Send + 'static) {
    const PREEMPTIONS_MAX: usize = 3;
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS_MAX);
    builder.check(model);
}
