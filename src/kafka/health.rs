//! Whether tasks can be sent and replies be read now: one value that the request path reads, kept by the watcher and
//! by the clients' error callbacks. A task goes out only while its reply could be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwap;

use super::wire::Undelivered;
use crate::lifecycle::Part;

/// The state of the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A broker answers and both topics exist.
    Up,
    /// No broker answers.
    Down,
    /// A topic, or a partition that replies are wanted on, does not exist.
    TopicMissing,
}

/// Why tasks are refused, as bits: whoever sees one cause come or go need not know the others.
const DOWN: u8 = 1;
const TOPIC_MISSING: u8 = 2;
const REPLIES_UNREAD: u8 = 4;

/// Partitions to choose from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// Of the tasks topic, with a leader.
    pub tasks: Vec<i32>,
    /// Of the results topic, with a leader and a fixed position: where replies are asked for.
    pub replies: Vec<i32>,
}

/// Shared by the submitters, the watcher and the reader.
pub(super) struct Health {
    /// 0, or why not.
    refusal: AtomicU8,
    routes: ArcSwap<Routes>,
    producer: Part,
    replies: Part,
}

impl Health {
    pub fn new(producer: Part, replies: Part) -> Self {
        Self { refusal: AtomicU8::new(DOWN | REPLIES_UNREAD), routes: ArcSwap::default(), producer, replies }
    }

    /// What the request path asks: one relaxed load.
    #[inline]
    pub fn check(&self) -> Result<(), Undelivered> {
        match self.refusal.load(Ordering::Relaxed) {
            0 => Ok(()),
            causes if causes & DOWN == 0 && causes & TOPIC_MISSING != 0 => Err(Undelivered::TopicMissing),
            _ => Err(Undelivered::Unavailable),
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
        let cause = match state {
            State::Up => 0,
            State::Down => DOWN,
            State::TopicMissing => TOPIC_MISSING,
        };
        let before = self.replace(DOWN | TOPIC_MISSING, cause);
        let part_changed = self.producer.set_ready(state == State::Up);
        if before == cause && !part_changed {
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
        self.replace(REPLIES_UNREAD, if ready { 0 } else { REPLIES_UNREAD });
        if !self.replies.set_ready(ready) {
            return;
        }
        if ready {
            tracing::info!(partitions = self.routes().replies.len(), "replies are read");
        } else {
            tracing::warn!(why, "replies cannot be read: tasks are refused");
        }
    }

    /// Whether a broker answers.
    pub fn is_up(&self) -> bool {
        self.refusal.load(Ordering::Relaxed) & DOWN == 0
    }

    /// Puts `causes` in the place of those that `mask` covers, and returns which of these were there.
    fn replace(&self, mask: u8, causes: u8) -> u8 {
        let exchange = |all: u8| Some(all & !mask | causes);
        // Never refused: the exchange gives a value for every value.
        let before = self.refusal.fetch_update(Ordering::Relaxed, Ordering::Relaxed, exchange);
        before.unwrap_or_else(|all| all) & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Lifecycle;

    #[test]
    fn tasks_are_taken_only_while_the_way_out_and_the_way_back_are_there() {
        let life = Lifecycle::new();
        let health = Health::new(life.register("producer"), life.register("replies"));
        assert_eq!(health.check(), Err(Undelivered::Unavailable), "nothing is known yet");
        health.set_producer(State::Up, "");
        assert_eq!((health.check(), health.is_up()), (Err(Undelivered::Unavailable), true), "no position is fixed");
        health.set_replies(true, "");
        assert_eq!((health.check(), life.is_ready()), (Ok(()), true));
        health.set_replies(false, "lost");
        assert_eq!(health.check(), Err(Undelivered::Unavailable));
        health.set_producer(State::TopicMissing, "tasks");
        assert_eq!((health.check(), health.is_up()), (Err(Undelivered::TopicMissing), true));
        health.set_replies(true, "");
        assert_eq!(health.check(), Err(Undelivered::TopicMissing));
        health.set_producer(State::Down, "away");
        assert_eq!((health.check(), health.is_up()), (Err(Undelivered::Unavailable), false));
        health.set_producer(State::Up, "");
        assert_eq!((health.check(), life.is_ready()), (Ok(()), true));
    }
}
