//! Every way a request can be refused ([`Reject`]) and every way the program can fail to start ([`StartError`]).
//!
//! [`Reject::fate`] is the one exhaustive match that gives a cause its status, code, `Retry-After` and connection
//! fate; a new cause does not compile until all four are decided. `http::respond` is the only reader.

use thiserror::Error;

/// Why a request gets an error instead of the worker's answer. One cause, one status, one code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reject {
    /// The body is not one JSON value, or nests deeper than `MAX_JSON_DEPTH`.
    #[error("the body is not valid JSON: {0}")]
    MalformedJson(String),
    /// Framing or header rules were broken (RFC 9112): Host missing, doubled or malformed; CL with TE; bad chunks.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The body was cut short or its framing broke while it was read.
    #[error("the body ended early or its framing is broken")]
    BrokenBody,
    /// `TASK_FORMAT=json` adds a member to the body, so it must be a JSON object.
    #[error("the body must be a JSON object: TASK_FORMAT is json")]
    NotAnObject,
    /// No such path.
    #[error("there is nothing at this path; the queue is POST /queue")]
    NotFound,
    /// The path exists, the method does not; the value is the `Allow` header (RFC 9110, 15.5.6).
    #[error("this path takes {0} only")]
    MethodNotAllowed(&'static str),
    /// The body was not complete within `BODY_TIMEOUT_MS`.
    #[error("the body was not complete in time")]
    BodyTimeout,
    /// The body is larger than `MAX_BODY_BYTES` (the value).
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// Kafka takes no message of this size (`message.max.bytes`).
    #[error("the task is larger than the broker takes")]
    TaskTooLarge,
    /// The request target is longer than `MAX_URI_BYTES`.
    #[error("the request target is too long")]
    UriTooLong,
    /// The content type is clearly not JSON and not listed in `TASK_CONTENT_TYPES`.
    #[error("this content type is not taken; send JSON, or list the type in TASK_CONTENT_TYPES")]
    UnsupportedMediaType,
    /// More or larger header fields than the limits allow.
    #[error("the header fields are too large or too many")]
    HeadersTooLarge,
    /// All `RATE_LIMIT_CAPACITY` permits are in use, cluster-wide.
    #[error("all in-flight permits are in use; try again shortly")]
    CapacityReached,
    /// Above `RATE_LIMIT_RPS`, cluster-wide.
    #[error("the request rate is above the limit; try again shortly")]
    RateExceeded,
    /// A bug of ours; the panic stays in that request.
    #[error("an internal error; the log has it")]
    Internal,
    /// The worker said that it failed; the value is its code, filtered to `[A-Za-z0-9._-]`.
    #[error("the worker failed: {0}")]
    WorkerError(String),
    /// The reply has this request's id and cannot be read.
    #[error("the worker's reply could not be read")]
    MalformedReply,
    /// Redis does not answer within `REDIS_TIMEOUT_MS`, or refuses.
    #[error("the limiter is unavailable")]
    LimiterUnavailable,
    /// Kafka cannot be reached, or did not take the task in time.
    #[error("the broker is unavailable")]
    BrokerUnavailable,
    /// The producer's queue or the table of waiting requests is full (`MAX_QUEUE_SIZE`).
    #[error("too many tasks are waiting for the broker")]
    BrokerQueueFull,
    /// The tasks or the results topic does not exist.
    #[error("a Kafka topic is missing; `thousandx topics` creates it")]
    TopicMissing,
    /// `MAX_CONNECTIONS` are open in this process, or `MAX_BUFFERED_BYTES` of bodies are arriving.
    #[error("too many connections are open, or too many bodies are arriving")]
    Overloaded,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// No reply within the deadline. The task may still be done.
    #[error("no reply within the deadline; the task may still be done")]
    ReplyTimeout,
}

/// What happens to the connection after an error answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// The framing is intact: the client may send its next request.
    Keep,
    /// The rest of the stream cannot be trusted, or is not worth reading.
    Close,
}

/// The decided consequences of a [`Reject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// HTTP status code.
    pub status: u16,
    /// The `code` member of the problem document; also the metric label and the log field.
    pub code: &'static str,
    /// `Retry-After` in whole seconds.
    pub retry_after_s: Option<u32>,
    /// Whether the connection survives.
    pub connection: Connection,
}

impl Reject {
    /// Status, code, `Retry-After` and connection fate of this cause.
    #[must_use]
    pub const fn fate(&self) -> Fate {
        use Connection::{Close, Keep};
        let (status, code, retry_after_s, connection) = match self {
            Self::MalformedJson(_) => (400, "malformed_json", None, Keep),
            Self::BadRequest(_) | Self::BrokenBody => (400, "bad_request", None, Close),
            Self::NotAnObject => (400, "bad_request", None, Keep),
            Self::NotFound => (404, "not_found", None, Keep),
            Self::MethodNotAllowed(_) => (405, "method_not_allowed", None, Keep),
            Self::BodyTimeout => (408, "body_timeout", None, Close),
            Self::BodyTooLarge(_) | Self::TaskTooLarge => (413, "body_too_large", None, Close),
            Self::UriTooLong => (414, "uri_too_long", None, Close),
            Self::UnsupportedMediaType => (415, "unsupported_media_type", None, Close),
            Self::HeadersTooLarge => (431, "headers_too_large", None, Close),
            Self::CapacityReached => (429, "capacity_reached", Some(1), Keep),
            Self::RateExceeded => (429, "rate_exceeded", Some(1), Keep),
            Self::Internal => (500, "internal", None, Close),
            Self::WorkerError(_) => (502, "worker_error", None, Keep),
            Self::MalformedReply => (502, "malformed_reply", None, Keep),
            Self::LimiterUnavailable => (503, "limiter_unavailable", Some(1), Keep),
            Self::BrokerUnavailable => (503, "broker_unavailable", Some(1), Keep),
            Self::BrokerQueueFull => (503, "broker_queue_full", Some(1), Keep),
            Self::TopicMissing => (503, "topic_missing", Some(5), Keep),
            Self::Overloaded => (503, "overloaded", Some(1), Close),
            Self::Draining => (503, "draining", Some(1), Close),
            Self::ReplyTimeout => (504, "reply_timeout", None, Keep),
        };
        Fate { status, code, retry_after_s, connection }
    }

    /// One value of every cause, for tables and tests.
    #[must_use]
    pub fn every() -> Vec<Self> {
        vec![
            Self::MalformedJson("expected a value at byte 0".into()),
            Self::BadRequest("the Host header is missing"),
            Self::BrokenBody,
            Self::NotAnObject,
            Self::NotFound,
            Self::MethodNotAllowed("POST"),
            Self::BodyTimeout,
            Self::BodyTooLarge(1),
            Self::TaskTooLarge,
            Self::UriTooLong,
            Self::UnsupportedMediaType,
            Self::HeadersTooLarge,
            Self::CapacityReached,
            Self::RateExceeded,
            Self::Internal,
            Self::WorkerError("failed".into()),
            Self::MalformedReply,
            Self::LimiterUnavailable,
            Self::BrokerUnavailable,
            Self::BrokerQueueFull,
            Self::TopicMissing,
            Self::Overloaded,
            Self::Draining,
            Self::ReplyTimeout,
        ]
    }
}

/// Why the program ends before, or instead of, serving. [`StartError::exit_code`] follows `sysexits.h`.
#[derive(Debug, Error)]
pub enum StartError {
    /// Settings are missing or wrong; the text lists every one of them.
    #[error("{0}")]
    Settings(String),
    /// The listen address cannot be bound.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address that was tried.
        address: String,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// The Kafka client cannot be made from the settings.
    #[error("cannot make the Kafka client: {0}")]
    Kafka(String),
    /// The Redis client cannot be made from the settings.
    #[error("cannot make the Redis client: {0}")]
    Redis(String),
    /// The operating system refused a thread, a runtime or a signal handler.
    #[error("the operating system refused: {0}")]
    System(#[from] std::io::Error),
    /// The grace of the drain ended, or a second signal came, with requests still in flight.
    #[error("requests still in flight at the end, which got 503: {0}")]
    CutOff(usize),
    /// A one-shot command (`probe`, `topics`) found that something is not as it should be.
    #[error("{0}")]
    Check(String),
}

impl StartError {
    /// The process exit code: 64 bad settings (`EX_USAGE`), 69 a service cannot be had (`EX_UNAVAILABLE`),
    /// 71 the system refused (`EX_OSERR`), 75 a drain that cut requests off (`EX_TEMPFAIL`), 1 a check that failed.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => 64,
            Self::Listen { .. } | Self::Kafka(_) | Self::Redis(_) => 69,
            Self::System(_) => 71,
            Self::CutOff(_) => 75,
            Self::Check(_) => 1,
        }
    }
}
