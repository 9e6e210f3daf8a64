//! Whether tasks can be sent and replies be read now: one value that the request path reads, kept by the watcher and
//! by the clients' error callbacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwap;

use super::wire::Undelivered;
use crate::lifecycle::Part;

/// The state of the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// A broker answers and both topics exist.
    Up = 0,
    /// No broker answers.
    Down = 1,
    /// A topic, or a partition that replies are wanted on, does not exist.
    TopicMissing = 2,
}

/// Partitions to choose from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// Of the tasks topic, with a leader.
    pub tasks: Vec<i32>,
    /// Of the results topic: where replies are asked for.
    pub replies: Vec<i32>,
}

/// Shared by the submitters, the watcher and the reader.
pub(super) struct Health {
    state: AtomicU8,
    routes: ArcSwap<Routes>,
    producer: Part,
    replies: Part,
}

impl Health {
    pub fn new(producer: Part, replies: Part) -> Self {
        Self { state: AtomicU8::new(State::Down as u8), routes: ArcSwap::default(), producer, replies }
    }

    /// What the request path asks: one relaxed load.
    #[inline]
    pub fn check(&self) -> Result<(), Undelivered> {
        match self.state.load(Ordering::Relaxed) {
            0 => Ok(()),
            1 => Err(Undelivered::Unavailable),
            _ => Err(Undelivered::TopicMissing),
        }
    }

    /// The partitions now.
    pub fn routes(&self) -> arc_swap::Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// Puts new partitions in place and says whether they differ.
    pub fn set_routes(&self, routes: Routes) -> bool {
        let changed = **self.routes.load() != routes;
        if changed {
            self.routes.store(Arc::new(routes));
        }
        changed
    }

    /// Sets the state of the way out; logs a change once.
    pub fn set_producer(&self, state: State, why: &str) {
        let before = self.state.swap(state as u8, Ordering::Relaxed);
        let part_changed = self.producer.set_ready(state == State::Up);
        if before == state as u8 && !part_changed {
            return;
        }
        match state {
            State::Up => tracing::info!("Kafka takes tasks"),
            State::Down => tracing::warn!(why, "Kafka is unavailable: tasks are refused"),
            State::TopicMissing => tracing::warn!(why, "a Kafka topic is missing: tasks are refused"),
        }
    }

    /// Sets the state of the way back; logs a change once.
    pub fn set_replies(&self, ready: bool, why: &str) {
        if !self.replies.set_ready(ready) {
            return;
        }
        if ready {
            tracing::info!(partitions = self.routes().replies.len(), "replies are read from every partition");
        } else {
            tracing::warn!(why, "replies cannot be read");
        }
    }

    /// Whether a broker answers.
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) != State::Down as u8
    }
}
