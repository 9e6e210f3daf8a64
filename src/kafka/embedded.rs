//! The embedded broker of `dev`: librdkafka's mock cluster. Not Kafka; its figures are never published as Kafka's.

use crate::error::StartError;

/// A running mock cluster with both topics; ends when dropped.
pub struct EmbeddedBroker {
    _private: (),
}

impl EmbeddedBroker {
    /// Starts it on a free loopback port with `partitions` partitions per topic.
    pub fn start(topics: &[&str], partitions: i32) -> Result<Self, StartError> {
        let _ = (topics, partitions);
        todo!()
    }

    /// What to use as `KAFKA_BOOTSTRAP_SERVERS`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        todo!()
    }
}
