//! The settings, one struct per part. [`table`] declares them, [`source`] finds their values, [`load`] reads and
//! checks them all and reports every fault at once.

mod build;
mod kind;
mod read;
pub mod render;
pub mod source;
pub mod table;

pub use build::load;
pub use read::{Entry, Loaded, Problem};
pub use source::{DotEnv, Environment, Layers, Origin, Source};
pub use table::Command;

use std::net::SocketAddr;
use std::time::Duration;

/// Everything a command needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listening, shards and limits on input.
    pub http: HttpSettings,
    /// The in-flight limiter.
    pub limiter: LimiterSettings,
    /// Kafka clients and record layout.
    pub kafka: KafkaSettings,
    /// The sample worker.
    pub worker: WorkerSettings,
    /// The topics that `thousandx topics` creates.
    pub topics: TopicSettings,
    /// `SCHED_POLICY`.
    pub scheduling: Scheduling,
    /// Logs.
    pub log: LogSettings,
}

/// Listening, shards and limits on input.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// `HOST`:`PORT`.
    pub listen: SocketAddr,
    /// `ADMIN_ADDR`: own listener for `/metrics`; `None`: on the main one.
    pub admin: Option<SocketAddr>,
    /// `WORKERS`: shards, one runtime and listener each; 0 in the environment means one per core.
    pub shards: u8,
    /// `MAX_CONNECTIONS` per process.
    pub connections_max: usize,
    /// `MAX_QUEUE_SIZE`: most requests that wait at once in this process; also librdkafka's producer queue.
    pub waiting_max: u32,
    /// `KAFKA_GIFT_CODE_TIMEOUT` (seconds in the environment): from the complete body to the reply.
    pub reply_timeout: Duration,
    /// `MAX_BODY_BYTES`.
    pub body_bytes_max: usize,
    /// `MAX_BUFFERED_BYTES`: bodies that are still arriving, of the whole process.
    pub buffered_bytes_max: usize,
    /// `MAX_HEADERS`.
    pub headers_max: usize,
    /// `MAX_HEADER_BYTES`: the whole head of a request.
    pub header_bytes_max: usize,
    /// `MAX_URI_BYTES`.
    pub uri_bytes_max: usize,
    /// `MAX_JSON_DEPTH`.
    pub json_depth_max: usize,
    /// `TASK_CONTENT_TYPES`: media types other than JSON that pass as opaque bytes, lower case.
    pub opaque_types: Vec<String>,
    /// `REFUSALS_PER_SECOND` of all shards together: 429s that leave at once while requests are answered; `None` (0 in
    /// the environment): all.
    pub refusals_per_s: Option<u32>,
    /// `HEADER_TIMEOUT_MS`: from the first byte of a request (or the accept) to the end of its head.
    pub header_timeout: Duration,
    /// `BODY_TIMEOUT_MS`.
    pub body_timeout: Duration,
    /// `WRITE_TIMEOUT_MS`: an answer that cannot be written for so long ends the connection.
    pub write_timeout: Duration,
    /// `IDLE_TIMEOUT_MS`: between requests.
    pub idle_timeout: Duration,
    /// `DRAIN_DELAY_MS`: from SIGTERM (not ready) to the end of accepting, for load balancers.
    pub drain_delay: Duration,
    /// `DRAIN_GRACE_MS`: then what still waits gets 503.
    pub drain_grace: Duration,
}

/// Which limiter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimiterKind {
    /// In Redis, for all instances together.
    Redis,
    /// In this process.
    Local,
}

/// The in-flight limiter.
#[derive(Debug, Clone)]
pub struct LimiterSettings {
    /// `LIMITER`.
    pub kind: LimiterKind,
    /// `REDIS_URL`, with its password.
    pub redis_url: Secret,
    /// `RATE_LIMIT_CAPACITY`.
    pub capacity: u32,
    /// `RATE_LIMIT_CAPACITY_SET`: the Redis key of the sorted set.
    pub set_key: String,
    /// `RATE_LIMIT_RPS`; `None` (0 in the environment): no rate cap.
    pub rate_per_s: Option<u32>,
    /// `REDIS_TIMEOUT_MS`: the budget of one script call and of one connect.
    pub redis_timeout: Duration,
    /// The reply deadline plus `LEASE_MARGIN_MS`: how long a permit lives without its holder.
    pub lease: Duration,
}

/// How the task and its reply are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskFormat {
    /// Value = the body, ids in record headers (Spring's names by default).
    Headers,
    /// The Python template's JSON envelope.
    Json,
}

/// Which reply partitions an instance reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyRouting {
    /// All of them; it keeps its own replies and drops the rest.
    Shared,
    /// `REPLY_PARTITIONS` only; tasks ask for replies there.
    Partitions(Vec<i32>),
}

/// Names of the record headers.
#[derive(Debug, Clone)]
pub struct HeaderNames {
    /// `CORRELATION_HEADER`, default `kafka_correlationId`.
    pub correlation: String,
    /// `REPLY_TOPIC_HEADER`, default `kafka_replyTopic`.
    pub reply_topic: String,
    /// `REPLY_PARTITION_HEADER`, default `kafka_replyPartition`.
    pub reply_partition: String,
    /// `DEADLINE_HEADER`, default `x-deadline-ms`.
    pub deadline: String,
    /// `STATUS_HEADER`, default `x-status`.
    pub status: String,
    /// `ERROR_HEADER`, default `x-error`.
    pub error: String,
}

/// Kafka clients and record layout.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `KAFKA_BOOTSTRAP_SERVERS`.
    pub bootstrap: String,
    /// `TASKS_TOPIC`.
    pub tasks_topic: String,
    /// `RESULTS_TOPIC`.
    pub results_topic: String,
    /// `TASK_FORMAT`.
    pub format: TaskFormat,
    /// `REPLY_ROUTING` and `REPLY_PARTITIONS`.
    pub routing: ReplyRouting,
    /// Record header names.
    pub headers: HeaderNames,
    /// `KAFKA_DELIVERY_TIMEOUT_MS`: a task not acknowledged for so long is given up (503).
    pub delivery_timeout: Duration,
    /// `KAFKA_ACKS`: `0`, `1` or `all`.
    pub acks: String,
    /// `KAFKA_COMPRESSION`: none, lz4, snappy, gzip.
    pub compression: String,
    /// `KAFKA_LINGER_MS`, fractions allowed.
    pub linger_ms: f64,
    /// `KAFKA_MAX_IN_FLIGHT` requests per broker connection; 1 makes what arrives meanwhile the next batch.
    pub in_flight_max: u32,
    /// `KAFKA_FETCH_WAIT_MS`.
    pub fetch_wait: Duration,
    /// `KAFKA_NEW_PARTITION_WAIT_MS`: a partition that is added while serving is used after so long.
    pub new_partition_wait: Duration,
    /// `KAFKA_FETCH_MIN_BYTES`.
    pub fetch_min_bytes: u32,
    /// `MAX_QUEUE_SIZE`: messages in the producer's queue.
    pub queue_messages_max: u32,
    /// `MAX_BODY_BYTES`, from which `message.max.bytes` follows.
    pub body_bytes_max: usize,
    /// `KAFKA_CONFIG`: further librdkafka properties, `name=value` separated by `;`. Values are secret.
    pub extra: Vec<(String, Secret)>,
}

/// The sample worker.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// `WORKER_CONCURRENCY`: threads, each a member of the group.
    pub threads: u8,
    /// `WORKER_GROUP`.
    pub group: String,
}

/// The topics that `thousandx topics` creates.
#[derive(Debug, Clone)]
pub struct TopicSettings {
    /// `TASKS_PARTITIONS`.
    pub tasks_partitions: i32,
    /// `RESULTS_PARTITIONS`.
    pub results_partitions: i32,
    /// `TOPIC_REPLICATION`.
    pub replication: i32,
    /// `TOPIC_RETENTION_MS`.
    pub retention: Duration,
}

/// How the kernel schedules the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// `SCHED_BATCH`: a thread of ours that wakes takes no core from another; others may still take it from ours.
    Batch,
    /// As the process was started.
    Inherit,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// `LOG_LEVEL`: a `tracing` filter, e.g. `info` or `thousandx=debug`.
    pub filter: String,
    /// `LOG_FORMAT`.
    pub format: LogFormat,
}

/// A value that never shows in `Debug`, logs or `thousandx config`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the client that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
