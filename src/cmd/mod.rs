//! One file per command; wires parts together, owns no logic.

pub mod dev;
pub mod serve;
mod service;
mod shard;
