//! From values to the typed structs, and the checks that concern more than one setting.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::kind;
use super::read::{Loaded, Reader};
use super::source::{Layers, Origin};
use super::table::Command;
use super::{
    Config, HeaderNames, HttpSettings, KafkaSettings, LimiterKind, LimiterSettings, LogFormat, LogSettings,
    ReplyRouting, Scheduling, Secret, TaskFormat, TopicSettings, WorkerSettings,
};

/// What Kafka adds to a body at most, in bytes: ids, the reply address, trace context and a content type as record
/// headers (each short or cut), and the record's own framing, generously rounded up.
const RECORD_OVERHEAD_BYTES: u64 = 16_384;

/// Headers of a task, and of a reply, whose names are fixed.
const CLIENTS_HEADERS: [&str; 4] = ["content-type", "traceparent", "tracestate", "x-request-id"];

/// Reads and checks the settings of `command`. What is wrong is in the result's `problems`.
#[must_use]
pub fn load(command: Command, layers: &Layers<'_>) -> Loaded {
    let mut read = Reader::new(command, layers);
    let http = http(&mut read);
    let limiter = limiter(&mut read, http.reply_timeout);
    let kafka = kafka(&mut read);
    let worker =
        WorkerSettings { threads: read.integer("WORKER_CONCURRENCY"), group: read.text("WORKER_GROUP", kind::name) };
    let (topics, scheduling, log) = (topics(&mut read), scheduling(&mut read), log(&mut read));
    let config = Config { http, limiter, kafka, worker, topics, scheduling, log };
    check_http(&mut read, &config.http);
    check_limiter(&mut read, &config);
    check_kafka(&mut read, &config);
    read.finish(config)
}

fn http(read: &mut Reader) -> HttpSettings {
    let shards = match read.integer("WORKERS") {
        0 => cores(),
        shards => shards,
    };
    let host = read.parsed("HOST", |_, text| kind::host(text)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    HttpSettings {
        listen: SocketAddr::new(host, read.integer("PORT")),
        admin: read.parsed("ADMIN_ADDR", |_, text| kind::address(text)),
        shards,
        connections_max: read.integer("MAX_CONNECTIONS"),
        waiting_max: read.integer("MAX_QUEUE_SIZE"),
        reply_timeout: Duration::from_secs_f64(read.decimal("KAFKA_GIFT_CODE_TIMEOUT")),
        body_bytes_max: read.integer("MAX_BODY_BYTES"),
        buffered_bytes_max: read.integer("MAX_BUFFERED_BYTES"),
        headers_max: read.integer("MAX_HEADERS"),
        header_bytes_max: read.integer("MAX_HEADER_BYTES"),
        uri_bytes_max: read.integer("MAX_URI_BYTES"),
        json_depth_max: read.integer("MAX_JSON_DEPTH"),
        opaque_types: read.parsed("TASK_CONTENT_TYPES", |_, text| kind::media_types(text)).unwrap_or_default(),
        refusals_per_s: Some(read.integer::<u32>("REFUSALS_PER_SECOND") * u32::from(shards)).filter(|rate| *rate > 0),
        header_timeout: read.ms("HEADER_TIMEOUT_MS"),
        body_timeout: read.ms("BODY_TIMEOUT_MS"),
        write_timeout: read.ms("WRITE_TIMEOUT_MS"),
        idle_timeout: read.ms("IDLE_TIMEOUT_MS"),
        drain_delay: read.ms("DRAIN_DELAY_MS"),
        drain_grace: read.ms("DRAIN_GRACE_MS"),
    }
}

/// The cores that this process may use, at most what fits a shard's number.
fn cores() -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u8::try_from(cores).unwrap_or(u8::MAX)
}

fn limiter(read: &mut Reader, reply_timeout: Duration) -> LimiterSettings {
    // `dev` has to run from a `.env` that was written for `serve`; only who asks for Redis by flag must bring one.
    let origin = read.origin("LIMITER");
    let from_serve = read.command == Command::Dev && matches!(origin, Origin::Environment | Origin::DotEnv(_));
    let mut kind = read.choice("LIMITER");
    if from_serve && kind == "redis" && !read.is_set("REDIS_URL") {
        read.warn(format!("LIMITER=redis ({origin}) without REDIS_URL: `dev` counts permits in the process"));
        read.fall_back_to_preset("LIMITER");
        kind = read.choice("LIMITER");
    }
    let redis_url = read.parsed("REDIS_URL", |_, text| kind::redis(text)).unwrap_or_default();
    if kind == "redis" && !read.is_set("REDIS_URL") && read.is_sound(&["LIMITER", "REDIS_URL"]) {
        read.wrong("REDIS_URL", "redis://[user:password@]host[:port][/db], because LIMITER is redis; or LIMITER=local");
    }
    LimiterSettings {
        kind: if kind == "local" { LimiterKind::Local } else { LimiterKind::Redis },
        redis_url,
        capacity: read.integer("RATE_LIMIT_CAPACITY"),
        set_key: read.text("RATE_LIMIT_CAPACITY_SET", kind::name),
        rate_per_s: Some(read.integer("RATE_LIMIT_RPS")).filter(|rate| *rate > 0),
        redis_timeout: read.ms("REDIS_TIMEOUT_MS"),
        lease: reply_timeout + read.ms("LEASE_MARGIN_MS"),
    }
}

fn kafka(read: &mut Reader) -> KafkaSettings {
    let partitions = read.parsed("REPLY_PARTITIONS", |_, text| kind::partitions(text)).unwrap_or_default();
    KafkaSettings {
        bootstrap: read.text("KAFKA_BOOTSTRAP_SERVERS", kind::servers),
        tasks_topic: read.text("TASKS_TOPIC", kind::topic),
        results_topic: read.text("RESULTS_TOPIC", kind::topic),
        format: if read.choice("TASK_FORMAT") == "json" { TaskFormat::Json } else { TaskFormat::Headers },
        routing: match read.choice("REPLY_ROUTING").as_str() {
            "partition" => ReplyRouting::Partitions(partitions),
            _ => ReplyRouting::Shared,
        },
        headers: HeaderNames {
            correlation: read.text("CORRELATION_HEADER", kind::name),
            reply_topic: read.text("REPLY_TOPIC_HEADER", kind::name),
            reply_partition: read.text("REPLY_PARTITION_HEADER", kind::name),
            deadline: read.text("DEADLINE_HEADER", kind::name),
            status: read.text("STATUS_HEADER", kind::name),
            error: read.text("ERROR_HEADER", kind::name),
        },
        delivery_timeout: read.ms("KAFKA_DELIVERY_TIMEOUT_MS"),
        acks: read.choice("KAFKA_ACKS"),
        compression: read.choice("KAFKA_COMPRESSION"),
        linger_ms: read.decimal("KAFKA_LINGER_MS"),
        in_flight_max: read.integer("KAFKA_MAX_IN_FLIGHT"),
        fetch_wait: read.ms("KAFKA_FETCH_WAIT_MS"),
        fetch_min_bytes: read.integer("KAFKA_FETCH_MIN_BYTES"),
        new_partition_wait: read.ms("KAFKA_NEW_PARTITION_WAIT_MS"),
        queue_messages_max: read.integer("MAX_QUEUE_SIZE"),
        body_bytes_max: read.integer("MAX_BODY_BYTES"),
        extra: read.parsed("KAFKA_CONFIG", |_, text| kind::properties(text)).unwrap_or_default(),
    }
}

fn topics(read: &mut Reader) -> TopicSettings {
    TopicSettings {
        tasks_partitions: read.integer("TASKS_PARTITIONS"),
        results_partitions: read.integer("RESULTS_PARTITIONS"),
        replication: read.integer("TOPIC_REPLICATION"),
        retention: read.ms("TOPIC_RETENTION_MS"),
    }
}

fn scheduling(read: &mut Reader) -> Scheduling {
    match read.choice("SCHED_POLICY").as_str() {
        "inherit" => Scheduling::Inherit,
        _ => Scheduling::Batch,
    }
}

fn log(read: &mut Reader) -> LogSettings {
    LogSettings {
        filter: read.text("LOG_LEVEL", kind::filter),
        format: match read.choice("LOG_FORMAT").as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => LogFormat::Auto,
        },
    }
}

fn check_http(read: &mut Reader, http: &HttpSettings) {
    // Port 0 is a different port each time.
    let same_place = |admin: SocketAddr| {
        let any = |ip: IpAddr| ip.is_unspecified();
        let same_ip = admin.ip() == http.listen.ip() || any(admin.ip()) || any(http.listen.ip());
        admin.port() != 0 && admin.port() == http.listen.port() && same_ip
    };
    if read.is_sound(&["ADMIN_ADDR", "HOST", "PORT"]) && http.admin.is_some_and(same_place) {
        read.wrong("ADMIN_ADDR", &format!("another address than the main listener's, {} (HOST, PORT)", http.listen));
    }
    if read.is_sound(&["MAX_URI_BYTES", "MAX_HEADER_BYTES"]) && http.uri_bytes_max >= http.header_bytes_max {
        read.wrong("MAX_URI_BYTES", &format!("less than MAX_HEADER_BYTES ({})", http.header_bytes_max));
    }
}

/// An acquire may wait for its turn as long as a call, and then for the call.
fn check_limiter(read: &mut Reader, config: &Config) {
    let deadline = config.http.reply_timeout;
    if read.is_sound(&["REDIS_TIMEOUT_MS", "KAFKA_GIFT_CODE_TIMEOUT"]) && config.limiter.redis_timeout * 2 > deadline {
        let deadline = deadline.as_secs_f64();
        read.wrong("REDIS_TIMEOUT_MS", &format!("at most half of KAFKA_GIFT_CODE_TIMEOUT ({deadline} s)"));
    }
}

fn check_kafka(read: &mut Reader, config: &Config) {
    let (http, kafka) = (&config.http, &config.kafka);
    if read.is_sound(&["KAFKA_DELIVERY_TIMEOUT_MS", "KAFKA_GIFT_CODE_TIMEOUT"])
        && kafka.delivery_timeout >= http.reply_timeout
    {
        let deadline = http.reply_timeout.as_secs_f64();
        read.wrong(
            "KAFKA_DELIVERY_TIMEOUT_MS",
            &format!("less than KAFKA_GIFT_CODE_TIMEOUT ({deadline} s), or a lost broker shows as a slow worker"),
        );
    }
    if read.is_sound(&["TASKS_TOPIC", "RESULTS_TOPIC"]) && kafka.tasks_topic == kafka.results_topic {
        read.wrong("RESULTS_TOPIC", "another topic than TASKS_TOPIC, or workers would take replies for tasks");
    }
    let names_none = matches!(&kafka.routing, ReplyRouting::Partitions(partitions) if partitions.is_empty());
    if names_none && read.is_sound(&["REPLY_ROUTING", "REPLY_PARTITIONS"]) {
        read.wrong(
            "REPLY_PARTITIONS",
            "the partitions of this instance, e.g. 0,1,4-7, because REPLY_ROUTING is partition",
        );
    }
    // The body becomes part of the envelope's text: what is not looked at could be anything.
    let takes_any = kafka.format == TaskFormat::Json && !http.opaque_types.is_empty();
    if takes_any && read.is_sound(&["TASK_FORMAT", "TASK_CONTENT_TYPES"]) {
        read.wrong("TASK_CONTENT_TYPES", "nothing, because TASK_FORMAT is json, whose tasks are JSON objects");
    }
    check_headers(read, &kafka.headers);
    check_properties(read, kafka);
}

/// Two names for one header would make each hide the other, as would a name that the server uses anyway.
fn check_headers(read: &mut Reader, names: &HeaderNames) {
    let headers = [
        ("CORRELATION_HEADER", &names.correlation),
        ("REPLY_TOPIC_HEADER", &names.reply_topic),
        ("REPLY_PARTITION_HEADER", &names.reply_partition),
        ("DEADLINE_HEADER", &names.deadline),
        ("STATUS_HEADER", &names.status),
        ("ERROR_HEADER", &names.error),
    ];
    for (index, (setting, name)) in headers.iter().enumerate() {
        let twin = headers[..index].iter().find(|(_, other)| other == name);
        if let Some((other, _)) = twin.filter(|(other, _)| read.is_sound(&[setting, other])) {
            read.wrong(setting, &format!("another name than {other} has"));
        }
        let taken = CLIENTS_HEADERS.iter().find(|taken| taken.eq_ignore_ascii_case(name));
        if let Some(taken) = taken.filter(|_| read.is_sound(&[setting])) {
            read.wrong(setting, &format!("another name than {taken}, which carries what the client sent"));
        }
    }
}

/// librdkafka itself says which properties it knows; its message may hold the value, so it is not passed on.
fn check_properties(read: &mut Reader, kafka: &KafkaSettings) {
    if !read.is_sound(&["KAFKA_CONFIG"]) {
        return;
    }
    let refused = |(name, value): &&(String, Secret)| {
        rdkafka::ClientConfig::new().set(name.as_str(), value.expose()).create_native_config().is_err()
    };
    let refused: Vec<&str> = kafka.extra.iter().filter(refused).map(|(name, _)| name.as_str()).collect();
    if !refused.is_empty() {
        let names = refused.join(", ");
        read.wrong("KAFKA_CONFIG", &format!("properties and values that this build of librdkafka takes; not: {names}"));
    }
    let limit = kafka.extra.iter().find(|(name, _)| name == "message.max.bytes");
    let limit = limit.and_then(|(_, value)| value.expose().parse::<u64>().ok());
    let needed = kafka.body_bytes_max as u64 + RECORD_OVERHEAD_BYTES;
    if limit.is_some_and(|limit| limit < needed) && read.is_sound(&["MAX_BODY_BYTES", "KAFKA_CONFIG"]) {
        read.wrong("MAX_BODY_BYTES", &format!("{RECORD_OVERHEAD_BYTES} less than message.max.bytes in KAFKA_CONFIG"));
    }
}
