//! What an operator sees: metrics and logs.

pub mod exposition;
pub mod log;
pub mod metrics;
pub mod process;
