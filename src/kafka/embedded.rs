//! The embedded broker of `dev`: librdkafka's mock cluster. Not Kafka; its figures are never published as Kafka's.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::error::StartError;

/// A running mock cluster with both topics; ends when dropped.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// Starts it on a free loopback port with `partitions` partitions per topic.
    pub fn start(topics: &[&str], partitions: i32) -> Result<Self, StartError> {
        let failed = |error| StartError::Kafka(format!("the embedded broker does not start: {error}"));
        let cluster = MockCluster::new(1).map_err(failed)?;
        for topic in topics {
            cluster.create_topic(topic, partitions, 1).map_err(failed)?;
        }
        Ok(Self { cluster })
    }

    /// What to use as `KAFKA_BOOTSTRAP_SERVERS`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}
