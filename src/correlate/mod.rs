//! Who waits for what? Ids, the table of waiting requests, and the mailbox that brings replies to a shard.
//!
//! No network, no globals, no config: std, crossbeam, a random generator and the UUID text form only. Compiled a second
//! time by `tests/loom`, which model-checks the mailbox and the table.

pub mod id;
pub mod mailbox;
mod sync;
pub mod table;

pub use id::{CorrelationId, MalformedId, ShardAddress};
pub use table::{Admitted, Delivery, Expired, Table, TableFull, Ticket, Waiter};
