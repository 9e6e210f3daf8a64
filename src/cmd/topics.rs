//! `thousandx topics`: create or compare the two topics.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaErrorCode;
use tokio::runtime::Runtime;

use crate::config::{Config, KafkaSettings};
use crate::error::StartError;
use crate::kafka::client;

/// For the whole command, its at most five requests together.
const COMMAND_WAIT: Duration = Duration::from_secs(10);
/// How much of it the first request may take, which finds out whether there is a broker.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// What a broker counts on top of a producer's batch: 73 bytes of header.
const BATCH_OVERHEAD_BYTES: usize = 128;

/// One topic as the settings want it.
struct Wanted<'a> {
    name: &'a str,
    partitions: i32,
    /// The setting that `partitions` comes from.
    partitions_setting: &'static str,
    replication: i32,
    /// `(property of the topic, its value, where the value comes from)`.
    properties: &'a [(&'static str, String, &'static str)],
}

/// The client, and until when the command has to be done.
struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: Runtime,
    end: Instant,
}

/// Creates the topics that are missing and compares the others. Running it again changes nothing.
///
/// # Errors
/// [`StartError::Check`]: no answer in time, a topic that Kafka does not create, or one with too few partitions. Other
/// differences are told on standard error and are none.
#[expect(clippy::needless_pass_by_value, reason = "every command takes its configuration whole")]
pub fn run(config: Config) -> Result<(), StartError> {
    let admin = Admin {
        client: connect(&config.kafka)?,
        runtime: tokio::runtime::Builder::new_current_thread().enable_time().build()?,
        end: Instant::now() + COMMAND_WAIT,
    };
    // The brokers' default of the second is a little less than a body of MAX_BODY_BYTES' default with its headers.
    let message_bytes = client::message_bytes_max(&config.kafka) + BATCH_OVERHEAD_BYTES;
    let properties = [
        ("retention.ms", config.topics.retention.as_millis().to_string(), "TOPIC_RETENTION_MS"),
        ("max.message.bytes", message_bytes.to_string(), "MAX_BODY_BYTES"),
    ];
    let (kafka, topics) = (&config.kafka, &config.topics);
    let wanted = [
        (kafka.tasks_topic.as_str(), topics.tasks_partitions, "TASKS_PARTITIONS"),
        (kafka.results_topic.as_str(), topics.results_partitions, "RESULTS_PARTITIONS"),
    ];
    let wanted = wanted.map(|(name, partitions, partitions_setting)| Wanted {
        name,
        partitions,
        partitions_setting,
        replication: topics.replication,
        properties: &properties,
    });
    let created = admin.create(&wanted).map_err(|why| unreachable(&kafka.bootstrap, &why))?;
    for (topic, result) in wanted.iter().zip(created) {
        match result {
            Ok(_) => println!("created {} with {} partitions", topic.name, topic.partitions),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => admin.compare(topic)?,
            Err((_, code)) => return Err(StartError::Check(format!("Kafka does not create {}: {code}", topic.name))),
        }
    }
    Ok(())
}

impl Wanted<'_> {
    fn new_topic(&self) -> NewTopic<'_> {
        let topic = NewTopic::new(self.name, self.partitions, TopicReplication::Fixed(self.replication));
        self.properties.iter().fold(topic, |topic, (name, value, _)| topic.set(name, value))
    }

    /// What a topic has instead of what is wanted, in words.
    fn differences(&self, there: &ConfigResource) -> Vec<String> {
        let differs = |(name, value, setting): &(&'static str, String, &'static str)| {
            let found = there.get(name)?.value.as_deref()?;
            (found != value).then(|| format!("{name}={found}, and {setting} asks for {value}"))
        };
        self.properties.iter().filter_map(differs).collect()
    }
}

impl Admin {
    fn create(&self, wanted: &[Wanted<'_>]) -> Result<Vec<rdkafka::admin::TopicResult>, String> {
        let topics: Vec<_> = wanted.iter().map(Wanted::new_topic).collect();
        let request = self.client.create_topics(&topics, &options(FIRST_WAIT));
        self.runtime.block_on(request).map_err(|error| error.to_string())
    }

    /// A topic that exists must have enough partitions; more are fine, they are used. What else differs is told.
    fn compare(&self, topic: &Wanted<'_>) -> Result<(), StartError> {
        let Wanted { name, partitions, partitions_setting: setting, .. } = topic;
        let not_described = |why: String| StartError::Check(format!("Kafka does not describe {name}: {why}"));
        let metadata = self.client.inner().fetch_metadata(Some(name), self.left());
        let metadata = metadata.map_err(|error| not_described(error.to_string()))?;
        let there = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        if there.len() < usize::try_from(*partitions).unwrap_or(0) {
            return Err(StartError::Check(format!(
                "{name} exists with {} partitions and {setting} asks for {partitions}. Add them with \
                 `kafka-topics.sh --alter --topic {name} --partitions {partitions}`, or lower {setting}",
                there.len()
            )));
        }
        println!("{name} exists with {} partitions", there.len());
        let fewest = there.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        let mut differences = Vec::new();
        if i32::try_from(fewest) != Ok(topic.replication) {
            differences.push(format!("replication {fewest}, and TOPIC_REPLICATION asks for {}", topic.replication));
        }
        match self.describe(name) {
            Ok(properties) => differences.extend(topic.differences(&properties)),
            Err(why) => {
                eprintln!("warning: Kafka does not tell the properties of {name}, they are not compared: {why}");
            }
        }
        for difference in differences {
            eprintln!("warning: {name} has {difference}");
        }
        Ok(())
    }

    fn describe(&self, name: &str) -> Result<ConfigResource, String> {
        let topics = [ResourceSpecifier::Topic(name)];
        let request = self.client.describe_configs(&topics, &options(self.left()));
        let answer = self.runtime.block_on(request).map_err(|error| error.to_string())?;
        let first = answer.into_iter().next().ok_or_else(|| "the answer is empty".to_owned())?;
        first.map_err(|code| code.to_string())
    }

    /// What is left of the command's time; never nothing, which librdkafka would take for its default.
    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }
}

fn options(wait: Duration) -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(wait)).request_timeout(Some(wait))
}

fn connect(settings: &KafkaSettings) -> Result<AdminClient<DefaultClientContext>, StartError> {
    let mut config = ClientConfig::new();
    for (name, value) in client::admin(settings) {
        config.set(name, value);
    }
    for (name, secret) in &settings.extra {
        config.set(name, secret.expose());
    }
    // The crate's own text repeats the value, which may be a secret; ours names the property.
    client::task_producer(settings, settings.linger_ms)?;
    config.create().map_err(|_| StartError::Kafka("librdkafka refuses the settings".into()))
}

fn unreachable(bootstrap: &str, why: &str) -> StartError {
    StartError::Check(format!("no answer from Kafka at {bootstrap} within {} s: {why}", FIRST_WAIT.as_secs()))
}
