//! Who waits for what? Ids, the table of waiting requests, and the mailbox that brings replies to a shard.
//!
//! No network, no globals, no config: std, crossbeam and a random generator only.

pub mod id;
pub mod mailbox;
pub mod table;

pub use id::{CorrelationId, MalformedId, ShardAddress};
pub use table::{Admitted, Delivery, Expired, Table, TableFull, Ticket, Waiter};
