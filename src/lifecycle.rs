//! Starting → Running → Draining → Closed, and the readiness of each part.
//!
//! Parts register once at start and flip their own flag; `/readyz` reads them all. Nothing here blocks. Read and written
//! by every thread: `tests/loom` checks it.

use std::sync::PoisonError;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU8, Ordering};
#[cfg(loom)]
use loom::sync::{Arc, Mutex};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
#[cfg(not(loom))]
use std::sync::{Arc, Mutex};

/// What a part is called; never changes, so that loom has nothing to see in it.
type Name = std::sync::Arc<str>;

/// Where the process is in its life. The order is the only order in which it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Listening, parts may not be ready yet.
    Starting = 0,
    /// All parts have been ready at least once.
    Running = 1,
    /// SIGTERM was received: answers carry `Connection: close`, nothing new is accepted after the delay.
    Draining = 2,
    /// The grace is over, or the second signal came: requests that still wait get 503.
    Closed = 3,
}

/// Readiness flag of one part; cheap to clone, set by its owner only.
#[derive(Debug, Clone)]
pub struct Part {
    name: Name,
    ready: Arc<AtomicBool>,
}

impl Part {
    /// Sets the flag and says whether it changed, so that the owner logs a change once.
    #[allow(clippy::must_use_candidate, reason = "most callers only set it")]
    pub fn set_ready(&self, ready: bool) -> bool {
        self.ready.swap(ready, Ordering::Relaxed) != ready
    }

    /// Whether the part can do its work now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The name that `/readyz?verbose` prints.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The phase of the process and the readiness of its parts. One per process, shared by `Arc`.
#[derive(Debug, Default)]
pub struct Lifecycle {
    phase: AtomicU8,
    parts: Mutex<Vec<Part>>,
}

impl Lifecycle {
    /// A process that is starting, with no parts.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a part that is not ready yet.
    pub fn register(&self, name: impl Into<Name>) -> Part {
        let part = Part { name: name.into(), ready: Arc::default() };
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part.clone());
        part
    }

    /// The parts, in order of registration.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ready for traffic: not draining, and every part is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() < Phase::Draining && self.parts().iter().all(Part::is_ready)
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Running,
            2 => Phase::Draining,
            _ => Phase::Closed,
        }
    }

    /// Moves on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_only_while_every_part_is_and_no_drain_runs() {
        let life = Lifecycle::new();
        let (one, two) = (life.register("one"), life.register("two"));
        assert!(!life.is_ready());
        assert!(one.set_ready(true));
        assert!(two.set_ready(true));
        assert!(!two.set_ready(true), "no change the second time");
        assert!(life.is_ready());
        life.advance(Phase::Draining);
        assert!(!life.is_ready());
        life.advance(Phase::Running);
        assert_eq!(life.phase(), Phase::Draining, "the phase never goes back");
    }
}
