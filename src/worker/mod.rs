//! The sample worker: a real consumer-group member, at least once.

pub mod handler;
pub mod run;
