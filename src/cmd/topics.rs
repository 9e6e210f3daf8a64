//! `thousandx topics`: create or check the two topics.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaErrorCode;

use crate::config::{Config, KafkaSettings};
use crate::error::StartError;
use crate::kafka::client;

/// For the whole command's two requests, each.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// What a broker counts on top of a producer's batch: 73 bytes of header.
const BATCH_OVERHEAD_BYTES: usize = 128;

type Admin = AdminClient<DefaultClientContext>;

/// Creates the topics that are missing and checks the others. Running it again changes nothing.
#[expect(clippy::needless_pass_by_value, reason = "every command takes its configuration whole")]
pub fn run(config: Config) -> Result<(), StartError> {
    let admin = connect(&config.kafka)?;
    let wanted = [
        (config.kafka.tasks_topic.as_str(), config.topics.tasks_partitions, "TASKS_PARTITIONS"),
        (config.kafka.results_topic.as_str(), config.topics.results_partitions, "RESULTS_PARTITIONS"),
    ];
    let retention_ms = config.topics.retention.as_millis().to_string();
    // The brokers' default is a little less than a body of MAX_BODY_BYTES' default with its headers.
    let message_bytes = (client::message_bytes_max(&config.kafka) + BATCH_OVERHEAD_BYTES).to_string();
    let topics: Vec<_> = wanted
        .iter()
        .map(|(name, partitions, _)| {
            NewTopic::new(name, *partitions, TopicReplication::Fixed(config.topics.replication))
                .set("retention.ms", &retention_ms)
                .set("max.message.bytes", &message_bytes)
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_WAIT)).request_timeout(Some(ANSWER_WAIT));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let created = runtime
        .block_on(admin.create_topics(&topics, &options))
        .map_err(|error| unreachable(&config.kafka.bootstrap, &error.to_string()))?;

    for ((name, partitions, setting), result) in wanted.into_iter().zip(created) {
        match result {
            Ok(_) => println!("created {name} with {partitions} partitions"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => check(&admin, name, partitions, setting)?,
            Err((_, code)) => return Err(StartError::Check(format!("Kafka does not create {name}: {code}"))),
        }
    }
    Ok(())
}

/// A topic that exists must have enough partitions; more are fine, they are used.
fn check(admin: &Admin, name: &str, partitions: i32, setting: &str) -> Result<(), StartError> {
    let metadata = admin
        .inner()
        .fetch_metadata(Some(name), ANSWER_WAIT)
        .map_err(|error| StartError::Check(format!("Kafka does not describe {name}: {error}")))?;
    let there = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    if there < usize::try_from(partitions).unwrap_or(0) {
        return Err(StartError::Check(format!(
            "{name} exists with {there} partitions and {setting} asks for {partitions}. Add them with \
             `kafka-topics.sh --alter --topic {name} --partitions {partitions}`, or lower {setting}"
        )));
    }
    println!("{name} exists with {there} partitions");
    Ok(())
}

fn connect(settings: &KafkaSettings) -> Result<Admin, StartError> {
    let mut config = ClientConfig::new();
    for (name, value) in client::admin(settings) {
        config.set(name, value);
    }
    for (name, secret) in &settings.extra {
        config.set(name, secret.expose());
    }
    // The crate's own text repeats the value, which may be a secret; ours names the property.
    client::task_producer(settings)?;
    config.create().map_err(|_| StartError::Kafka("librdkafka refuses the settings".into()))
}

fn unreachable(bootstrap: &str, why: &str) -> StartError {
    StartError::Check(format!("no answer from Kafka at {bootstrap} within {} s: {why}", ANSWER_WAIT.as_secs()))
}
