//! One test's own part of the real stack: two topics on the shared broker, a Redis, and whatever serves on them.

use std::time::Duration;

use super::checker::{Behaviour, Checker, Seen};
use super::kafka::Kafka;
use super::redis::RedisServer;
use super::server::{Builder, Server, Worker};
use super::wait_until;

/// The key of the permits.
pub const SET: &str = "in_flight";

/// Topics and Redis of one test.
pub struct Stack {
    /// The broker of this test binary.
    pub kafka: &'static Kafka,
    /// The Redis of this test.
    pub redis: RedisServer,
    /// The topic of the tasks.
    pub tasks: String,
    /// The topic of the replies.
    pub results: String,
}

impl Stack {
    /// Four partitions for tasks, two for replies.
    pub fn new() -> Self {
        Self::with_partitions(4, 2)
    }

    /// Topics with so many partitions.
    pub fn with_partitions(tasks: i32, results: i32) -> Self {
        let kafka = Kafka::shared();
        let (tasks, results) = (kafka.topic("tasks", tasks), kafka.topic("results", results));
        Self { kafka, redis: RedisServer::start_secured(), tasks, results }
    }

    /// A `serve` on it, to be completed and started. It is patient with Redis, which shares the machine with the test.
    pub fn serve(&self) -> Builder {
        Server::builder()
            .kafka(self.kafka, &self.tasks, &self.results)
            .redis(&self.redis.url(), SET)
            .set("REDIS_TIMEOUT_MS", "1000")
    }

    /// The sample worker on it.
    pub fn worker(&self) -> Worker {
        Worker::start(self.kafka, &self.tasks, &self.results)
    }

    /// A checker on it.
    pub fn checker(&self, choose: impl FnMut(&Seen) -> Behaviour + Send + 'static) -> Checker {
        Checker::start(self.kafka, &self.tasks, choose)
    }

    /// Permits in Redis now, also those whose lease is over and that nobody has removed yet.
    pub fn permits(&self) -> usize {
        redis::cmd("ZCARD").arg(SET).query(&mut self.redis.client()).expect("the test's Redis answers")
    }

    /// Waits until there are exactly `count` permits. Fails the test after `limit`.
    pub fn wait_permits(&self, count: usize, limit: Duration) {
        let reached = wait_until(limit, || (self.permits() == count).then_some(()));
        assert!(reached.is_some(), "{} permits in Redis after {limit:?}, and not {count}", self.permits());
    }
}
