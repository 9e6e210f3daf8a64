//! One file per command; wires parts together, owns no logic.

pub mod serve;
mod service;
mod shard;
