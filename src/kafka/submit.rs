//! The producer of tasks: raw, by topic handle, with an explicit partition.

use super::wire::{Task, Undelivered};

/// A shard's handle of the shared producer; clones share it.
#[derive(Clone)]
pub struct Submitter {
    _private: (),
}

impl Submitter {
    /// Whether a task could be submitted now: asked before a permit is taken.
    pub fn check(&self) -> Result<(), Undelivered> {
        todo!()
    }

    /// Queues the task and returns. A later failure arrives in the shard's mailbox.
    pub fn submit(&self, task: &Task<'_>) -> Result<(), Undelivered> {
        let _ = task;
        todo!()
    }
}
