//! What an operator sees: metrics and logs.

pub mod clock;
pub mod exposition;
pub mod log;
pub mod metrics;
pub mod process;
