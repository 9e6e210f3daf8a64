//! The sample worker: a real consumer-group member, at least once.

pub mod handler;
mod pace;
mod replies;
pub mod run;
mod track;

pub use handler::{Failure, GiftCode, Handler, WorkerAnswer, WorkerTask};
pub use run::{Membership, WorkerCounts, run};
