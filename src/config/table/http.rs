//! Listening, limits on input, and the drain.

use super::{CLIENTS, CLIENTS_AND_TOPICS, Kind, Part, SERVER, SERVER_AND_PROBE, integer, ms, setting};

pub(super) static LISTENING: Part = Part {
    title: "Listening",
    settings: &[
        setting("HOST", SERVER_AND_PROBE, Kind::Host).default("127.0.0.1").help(
            "Address to listen on. Loopback, so that nothing is exposed by accident; 0.0.0.0 or :: in a container.",
        ),
        setting("PORT", SERVER_AND_PROBE, integer(0, 65_535))
            .default("8000")
            .unit("TCP port")
            .help("Port to listen on; 0 lets the kernel choose one, which the log names."),
        setting("ADMIN_ADDR", SERVER, Kind::Address)
            .help("A listener of its own for /metrics (and the probes), so that it is not public. Unset: /metrics is on the main one."),
        setting("WORKERS", SERVER, integer(0, 255)).default("0").unit("threads").help(
            "Shards, each with its own listener and runtime. 0 is one per core, which is where throughput peaks.",
        ),
        setting("MAX_CONNECTIONS", SERVER, integer(1, 1_000_000)).default("20000").unit("connections").help(
            "Open connections per process; more get 503. The file descriptor limit is raised to fit, as far as it may be.",
        ),
    ],
};

pub(super) static LIMITS: Part = Part {
    title: "Limits and timeouts of a request",
    settings: &[
        setting("MAX_QUEUE_SIZE", CLIENTS, integer(1, 1_048_576))
            .default("100000")
            .unit("requests")
            .help("Requests that wait at once in this process, split evenly over its shards, and messages in each of the producer's two queues; more get 503. Bounds memory."),
        setting("KAFKA_GIFT_CODE_TIMEOUT", SERVER, Kind::Decimal { min: 0.01, max: 3600.0 })
            .default("10")
            .unit("seconds, fractions allowed")
            .help("Reply deadline: from the complete body to the worker's answer; then 504. Above the slowest honest worker."),
        setting("MAX_BODY_BYTES", CLIENTS_AND_TOPICS, integer(1, 100_000_000))
            .default("1048576")
            .unit("bytes")
            .help("Largest request body; more gets 413. The brokers' and topics' message.max.bytes must allow it."),
        setting("MAX_BUFFERED_BYTES", SERVER, integer(1, 1 << 40))
            .default("268435456")
            .unit("bytes")
            .help("Bodies that come in pieces, until their tasks are with Kafka, all connections together; more get 503. Bounds memory."),
        setting("MAX_HEADERS", SERVER, integer(1, 1000))
            .default("64")
            .unit("fields")
            .help("Header fields of a request; more get 431. Bounds what a client can make the server parse."),
        setting("MAX_HEADER_BYTES", SERVER, integer(1024, 262_144))
            .default("16384")
            .unit("bytes")
            .help("All header fields of a request together; more get 431. Bounds the read buffer of a connection."),
        setting("MAX_URI_BYTES", SERVER, integer(16, 65_000))
            .default("8192")
            .unit("bytes")
            .help("Longest request target; more gets 414."),
        setting("MAX_JSON_DEPTH", SERVER, integer(1, 1000))
            .default("64")
            .unit("levels")
            .help("Deepest nesting of a JSON body; more gets 400. Protects the workers' parsers as well."),
        setting("TASK_CONTENT_TYPES", SERVER, Kind::MediaTypes)
            .help("Media types other than JSON whose bodies pass as opaque bytes, e.g. application/xml; others get 415."),
        setting("HEADER_TIMEOUT_MS", SERVER, ms(1))
            .default("5000")
            .unit("ms")
            .help("From the first byte of a request, or the accept, to the end of its head. Ends slow-header attacks."),
        setting("BODY_TIMEOUT_MS", SERVER, ms(1))
            .default("5000")
            .unit("ms")
            .help("To the end of the body; then 408. No permit is held meanwhile. Raise it for slow uplinks."),
        setting("WRITE_TIMEOUT_MS", SERVER, ms(1))
            .default("10000")
            .unit("ms")
            .help("An answer that the client does not take for so long ends the connection. No permit is held meanwhile."),
        setting("IDLE_TIMEOUT_MS", SERVER, ms(1))
            .default("75000")
            .unit("ms")
            .help("A connection without a request for so long is closed. Longer than the load balancer's own, or it sees resets."),
    ],
};

pub(super) static DRAIN: Part = Part {
    title: "Drain",
    settings: &[
        setting("DRAIN_DELAY_MS", SERVER, ms(0))
            .default("0")
            .unit("ms")
            .help("From SIGTERM, when /readyz turns 503, to the end of accepting: what a load balancer needs to notice."),
        setting("DRAIN_GRACE_MS", SERVER, ms(0))
            .default("15000")
            .unit("ms")
            .help("Then what still waits gets 503. Above the reply deadline, so that none is cut; below the supervisor's kill."),
    ],
};
