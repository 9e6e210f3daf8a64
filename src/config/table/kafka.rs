//! Kafka: topics, record layout, clients.

use super::{CLIENTS, CLIENTS_AND_TOPICS, Kind, Part, REAL_KAFKA, SERVER, integer, ms, setting};

pub(super) static TOPICS_AND_RECORDS: Part = Part {
    title: "Kafka: topics and records",
    settings: &[
        setting("KAFKA_BOOTSTRAP_SERVERS", REAL_KAFKA, Kind::Servers)
            .needed_by(REAL_KAFKA)
            .help("Brokers to start from; two or three, so that one may be down. `thousandx dev` brings its own."),
        setting("TASKS_TOPIC", CLIENTS_AND_TOPICS, Kind::Topic)
            .default("tasks")
            .help("Topic that tasks go to. `thousandx topics` creates it."),
        setting("RESULTS_TOPIC", CLIENTS_AND_TOPICS, Kind::Topic)
            .default("results")
            .help("Topic that replies come from. Must differ from TASKS_TOPIC."),
        setting("TASK_FORMAT", CLIENTS, Kind::Choice(&["headers", "json"]))
            .default("headers")
            .help("headers: the body is the record's value, ids are record headers. json: the Python template's envelope."),
        setting("REPLY_ROUTING", SERVER, Kind::Choice(&["shared", "partition"]))
            .default("shared")
            .help("shared: each instance reads all replies and keeps its own; any worker will do. partition: each reads its own only."),
        setting("REPLY_PARTITIONS", SERVER, Kind::Partitions)
            .help("With REPLY_ROUTING=partition: the partitions of RESULTS_TOPIC that belong to this instance and to no other."),
        setting("CORRELATION_HEADER", CLIENTS, Kind::Name)
            .default("kafka_correlationId")
            .help("Record header with the request's id (UUID text). Spring's name, so that @SendTo answers unchanged."),
        setting("REPLY_TOPIC_HEADER", CLIENTS, Kind::Name)
            .default("kafka_replyTopic")
            .help("Record header that tells the worker where to answer. Spring's name."),
        setting("REPLY_PARTITION_HEADER", CLIENTS, Kind::Name)
            .default("kafka_replyPartition")
            .help("Record header with the reply partition (4 bytes, big-endian). Spring's name."),
        setting("DEADLINE_HEADER", CLIENTS, Kind::Name)
            .default("x-deadline-ms")
            .help("Record header with the end of the client's wait (ms since the Unix epoch), so that a worker can skip old tasks."),
        setting("STATUS_HEADER", CLIENTS, Kind::Name)
            .default("x-status")
            .help("Reply header with the HTTP status (200 to 599) to answer; without it 200."),
        setting("ERROR_HEADER", CLIENTS, Kind::Name)
            .default("x-error")
            .help("Reply header that says that the worker failed, with a code; the client gets 502 worker_error."),
    ],
};

pub(super) static CLIENT_TUNING: Part = Part {
    title: "Kafka: clients",
    settings: &[
        setting("KAFKA_DELIVERY_TIMEOUT_MS", CLIENTS, ms(10))
            .default("3000")
            .unit("ms")
            .help("A task that no broker acknowledged for so long is given up (503). Less than the reply deadline."),
        setting("KAFKA_ACKS", CLIENTS, Kind::Choice(&["0", "1", "all"]))
            .default("all")
            .help("Replicas that must have a record before it counts as sent. all survives a broker; 1 is faster by one hop."),
        setting("KAFKA_COMPRESSION", CLIENTS, Kind::Choice(&["none", "lz4", "snappy", "gzip"]))
            .default("none")
            .help("Compression of what this process sends. Small tasks gain nothing; large text on a slow network does."),
        setting("KAFKA_LINGER_MS", CLIENTS, Kind::Decimal { min: 0.0, max: 1000.0 })
            .default("0.5")
            .unit("ms, fractions allowed")
            .help("How long a task waits for others to share a batch under load: above 24,000 a second, or 9,000 on one shard if that is more. Below that none waits. 0: never."),
        setting("KAFKA_MAX_IN_FLIGHT", CLIENTS, integer(1, 1_000_000))
            .default("1")
            .unit("produce requests per broker connection")
            .help("1 makes batches form by themselves. More helps on links with long round trips."),
        setting("KAFKA_FETCH_WAIT_MS", CLIENTS, integer(0, 10_000))
            .default("100")
            .dev("1")
            .unit("ms")
            .help("How long a broker may hold a fetch that has nothing to say. Records are sent at once; idle fetches cost CPU."),
        setting("KAFKA_FETCH_MIN_BYTES", CLIENTS, integer(1, 100_000_000))
            .default("1")
            .unit("bytes")
            .help("A fetch waits for so much. 1 is the lowest latency; more saves the broker's CPU at the cost of latency."),
        setting("KAFKA_NEW_PARTITION_WAIT_MS", CLIENTS, ms(0))
            .default("310000")
            .unit("ms")
            .help("A partition that is added while serving gets tasks, and replies, after so long: then every worker has heard of it. Kafka clients ask every 5 minutes by default. Replies on it are read at once."),
        setting("KAFKA_CONFIG", CLIENTS_AND_TOPICS, Kind::Properties)
            .secret()
            .help("Further librdkafka properties, for what has no setting of its own, e.g. SASL. They override what the program sets."),
    ],
};
