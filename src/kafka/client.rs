//! librdkafka properties of each client, each with its reason. librdkafka's defaults are made for batch pipelines:
//! most of its times are longer than an HTTP deadline.
//!
//! Source: `CONFIGURATION.md` of librdkafka 2.12.

use std::time::Duration;

use super::native::Conf;
use crate::config::{KafkaSettings, WorkerSettings};
use crate::error::StartError;

/// Headers and framing of one record, on top of the body: eight headers with their names, `tracestate` of at most
/// 512 bytes and `content-type` included, stay far below.
const RECORD_OVERHEAD_BYTES: usize = 16 * 1024;
/// librdkafka's own default of `message.max.bytes`; it also bounds a whole batch, so it never goes below.
const MESSAGE_BYTES_MIN: usize = 1_000_000;
/// librdkafka's own default of `batch.size`.
const BATCH_BYTES_MAX: usize = 1_000_000;
/// Memory of a producer's queue, of which there is one for each lane: 50,000 tasks of 2.6 kB. Four of the largest tasks
/// fit in any case.
const QUEUE_KBYTES_MIN: usize = 128 * 1024;
/// Memory of fetched and unread replies or tasks.
const FETCHED_KBYTES_MAX: u32 = 64 * 1024;
/// Fetched and unread records per partition; one round of a reader is 1,024.
const FETCHED_RECORDS_MIN: u32 = 20_000;
/// A worker's reply is worth retrying as long as some client may wait for it.
const REPLY_DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How far a worker that crashed is behind in its commits, i.e. how much is done twice.
const COMMIT_INTERVAL_MS: u32 = 1_000;
/// A worker that says nothing for so long loses its partitions to the others; a restarted broker waits as long for
/// the members that it remembers. The least that brokers take by default (`group.min.session.timeout.ms`).
///
/// A `group.instance.id` would shorten the second, and lengthen every ordinary stop: a static member does not leave its
/// group (KIP-345), so that its partitions would rest for this long with each restart of a worker.
const SESSION_TIMEOUT_MS: u32 = 6_000;
/// Three heartbeats may be lost.
const HEARTBEAT_MS: u32 = 1_500;
/// A leader election takes some hundred milliseconds.
const SOCKET_TIMEOUT_MIN: Duration = Duration::from_secs(1);

type Properties = Vec<(&'static str, String)>;

/// One lane of the server's producer of tasks.
pub fn task_producer(settings: &KafkaSettings, linger_ms: f64) -> Result<Conf, StartError> {
    let mut list = common(settings);
    producing(settings, linger_ms, &mut list);
    // Not acknowledged in this time: the client gets 503 while it still waits.
    list.push(("message.timeout.ms", ms(settings.delivery_timeout)));
    // A success needs no report: the reply is the report. Saves a queue operation per task.
    list.push(("delivery.report.only.error", "true".into()));
    build(&list, settings)
}

/// The server's reader of replies: assigned by hand, no group, nothing committed.
pub fn reply_reader(settings: &KafkaSettings) -> Result<Conf, StartError> {
    let mut list = common(settings);
    consuming(settings, &mut list);
    // librdkafka's assign needs the name of a group; nothing is ever committed to it.
    list.push(("group.id", "thousandx-replies".into()));
    list.push(("enable.auto.commit", "false".into()));
    // Used when an offset is gone (data loss, topic made anew): replies from before have no waiter worth a re-read.
    list.push(("auto.offset.reset", "latest".into()));
    build(&list, settings)
}

/// The sample worker's consumer.
pub fn task_consumer(settings: &KafkaSettings, worker: &WorkerSettings) -> Result<Conf, StartError> {
    let mut list = common(settings);
    consuming(settings, &mut list);
    list.push(("group.id", worker.group.clone()));
    // librdkafka commits in the background what the worker stored after its reply was acknowledged.
    list.push(("enable.auto.commit", "true".into()));
    list.push(("auto.commit.interval.ms", COMMIT_INTERVAL_MS.to_string()));
    // Tasks that were queued before the first worker ran are tasks too; expired ones are skipped cheaply.
    list.push(("auto.offset.reset", "earliest".into()));
    list.push(("session.timeout.ms", SESSION_TIMEOUT_MS.to_string()));
    list.push(("heartbeat.interval.ms", HEARTBEAT_MS.to_string()));
    // Eager assignors: one callback takes everything away, so one wait for outstanding replies covers all.
    list.push(("partition.assignment.strategy", "range,roundrobin".into()));
    build(&list, settings)
}

/// One lane of the sample worker's producer of replies.
pub fn reply_producer(settings: &KafkaSettings, linger_ms: f64) -> Result<Conf, StartError> {
    let mut list = common(settings);
    producing(settings, linger_ms, &mut list);
    list.push(("message.timeout.ms", ms(REPLY_DELIVERY_TIMEOUT)));
    // Offsets are stored after the acknowledgement, so successes are reported too.
    list.push(("delivery.report.only.error", "false".into()));
    build(&list, settings)
}

/// A client that only asks: `thousandx topics`.
#[must_use]
pub fn admin(settings: &KafkaSettings) -> Properties {
    common(settings)
}

fn common(settings: &KafkaSettings) -> Properties {
    vec![
        ("bootstrap.servers", settings.bootstrap.clone()),
        // What the broker's log and quotas call us.
        ("client.id", "thousandx".into()),
        // The least that librdkafka takes; the default of 30 s outlives every client.
        ("socket.connection.setup.timeout.ms", "1000".into()),
        // Small requests at once; batching is ours. (The default; here because it matters.)
        ("socket.nagle.disable", "true".into()),
        // Notices a peer that vanished without a FIN (a NAT table, a pulled cable).
        ("socket.keepalive.enable", "true".into()),
        // Back within a second of the broker; the default reaches 10 s.
        ("reconnect.backoff.ms", "50".into()),
        ("reconnect.backoff.max.ms", "500".into()),
        ("retry.backoff.ms", "20".into()),
        ("retry.backoff.max.ms", "200".into()),
        // New leaders and partitions are found in 5 s even if nothing fails; the watcher asks more often.
        ("topic.metadata.refresh.interval.ms", "5000".into()),
        // For how long a missing topic may be a topic that was just made; the default of 30 s is a hang.
        ("topic.metadata.propagation.max.ms", "1000".into()),
        // A failed-over name resolves to its new address at the next attempt. (The default is 1 s too.)
        ("broker.address.ttl", "1000".into()),
        // `thousandx topics` makes topics, with partitions and retention that somebody chose.
        ("allow.auto.create.topics", "false".into()),
        // Idle connections are closed by brokers every ten minutes; that is no event.
        ("log.connection.close", "false".into()),
        // Our metrics are our own; no statistics JSON, and no push of client metrics to the broker.
        ("statistics.interval.ms", "0".into()),
        ("enable.metrics.push", "false".into()),
    ]
}

/// The largest batch that our producers send, which is also the largest record: what a topic has to take.
#[must_use]
pub fn message_bytes_max(settings: &KafkaSettings) -> usize {
    largest_task(settings).max(MESSAGE_BYTES_MIN)
}

fn largest_task(settings: &KafkaSettings) -> usize {
    settings.body_bytes_max + RECORD_OVERHEAD_BYTES
}

fn producing(settings: &KafkaSettings, linger_ms: f64, list: &mut Properties) {
    let message_bytes = message_bytes_max(settings);
    let queue_kbytes = QUEUE_KBYTES_MIN.max(4 * message_bytes / 1024);
    list.extend([
        // A request without an answer for so long means a dead connection: drop it and try the next.
        ("socket.timeout.ms", ms(settings.delivery_timeout.max(SOCKET_TIMEOUT_MIN))),
        // Durability against latency: the operator's choice.
        ("acks", settings.acks.clone()),
        // By lane. 0 with one request in flight: what arrives while a batch is under way is the next batch.
        ("linger.ms", linger_ms.to_string()),
        ("max.in.flight.requests.per.connection", settings.in_flight_max.to_string()),
        ("compression.type", settings.compression.clone()),
        // A full queue is a 503 at once instead of memory without end.
        ("queue.buffering.max.messages", settings.queue_messages_max.max(1).to_string()),
        ("queue.buffering.max.kbytes", queue_kbytes.to_string()),
        // Follows MAX_BODY_BYTES, so that 413 is decided by us and not by the broker.
        ("message.max.bytes", message_bytes.to_string()),
        // A broker's limit is one of batches: a batch is never larger than one task may be, or small tasks would be
        // refused together as too large.
        ("batch.size", largest_task(settings).min(BATCH_BYTES_MAX).to_string()),
    ]);
}

fn consuming(settings: &KafkaSettings, list: &mut Properties) {
    list.extend([
        // As above, on top of the time that a broker may hold a fetch; librdkafka wants a second of distance.
        ("socket.timeout.ms", ms(settings.fetch_wait + 2 * SOCKET_TIMEOUT_MIN)),
        // With fetch.min.bytes 1 the broker answers at the first record, so the wait costs no latency.
        ("fetch.wait.max.ms", ms(settings.fetch_wait)),
        ("fetch.min.bytes", settings.fetch_min_bytes.to_string()),
        // After a full queue, and after a failed fetch, go on soon; the defaults are 1 s and 0.5 s.
        ("fetch.queue.backoff.ms", "1".into()),
        ("fetch.error.backoff.ms", "50".into()),
        // Bounds of what is fetched and not yet read.
        ("queued.min.messages", FETCHED_RECORDS_MIN.to_string()),
        ("queued.max.messages.kbytes", FETCHED_KBYTES_MAX.to_string()),
        // Offsets are stored by the worker when the reply is out, and by the reader never.
        ("enable.auto.offset.store", "false".into()),
        // TCP and the broker have checked already.
        ("check.crcs", "false".into()),
        // No transactions here: do not wait for the end of somebody else's.
        ("isolation.level", "read_uncommitted".into()),
        // The end of a partition is the normal state.
        ("enable.partition.eof", "false".into()),
    ]);
}

/// The operator's own properties come last and win. Errors name the property, never its value.
fn build(list: &[(&str, String)], settings: &KafkaSettings) -> Result<Conf, StartError> {
    let mut conf = Conf::new();
    let own = list.iter().map(|(name, value)| (*name, value.as_str()));
    let extra = settings.extra.iter().map(|(name, value)| (name.as_str(), value.expose()));
    for (name, value) in own.chain(extra) {
        conf.set(name, value).map_err(|bad| StartError::Kafka(bad.to_string()))?;
    }
    Ok(conf)
}

/// At least 1: librdkafka reads 0 as "no limit" in some places.
fn ms(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{HeaderNames, ReplyRouting, Secret, TaskFormat};

    pub(in crate::kafka) fn settings() -> KafkaSettings {
        KafkaSettings {
            bootstrap: "127.0.0.1:1".into(),
            tasks_topic: "tasks".into(),
            results_topic: "results".into(),
            format: TaskFormat::Headers,
            routing: ReplyRouting::Shared,
            headers: HeaderNames {
                correlation: "kafka_correlationId".into(),
                reply_topic: "kafka_replyTopic".into(),
                reply_partition: "kafka_replyPartition".into(),
                deadline: "x-deadline-ms".into(),
                status: "x-status".into(),
                error: "x-error".into(),
            },
            delivery_timeout: Duration::from_secs(1),
            acks: "1".into(),
            compression: "none".into(),
            linger_ms: 0.5,
            in_flight_max: 1,
            fetch_wait: Duration::from_millis(100),
            fetch_min_bytes: 1,
            new_partition_wait: Duration::ZERO,
            queue_messages_max: 1_000,
            body_bytes_max: 1 << 20,
            extra: Vec::new(),
        }
    }

    #[test]
    fn librdkafka_takes_every_property_of_every_client() {
        let worker = WorkerSettings { threads: 1, group: "workers".into() };
        for compression in ["none", "lz4", "snappy", "gzip"] {
            let settings = KafkaSettings { compression: compression.into(), ..settings() };
            task_producer(&settings, 0.0).unwrap();
            reply_producer(&settings, 0.5).unwrap();
            reply_reader(&settings).unwrap();
            task_consumer(&settings, &worker).unwrap();
        }
    }

    #[test]
    fn a_bad_extra_property_is_named_and_its_value_is_not() {
        for (name, told) in [("sasl.pasword", "sasl.pasword"), ("linger.ms", "linger.ms")] {
            let extra = vec![(name.to_owned(), Secret::new("canary"))];
            let Err(error) = task_producer(&KafkaSettings { extra, ..settings() }, 0.0) else {
                panic!("{name} was taken")
            };
            let text = format!("{error} {error:?}");
            assert!(text.contains(told) && !text.contains("canary"), "{text}");
        }
    }
}
