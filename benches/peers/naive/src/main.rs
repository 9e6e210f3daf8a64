//! The straightforward version, for comparison: what an experienced Rust developer would write in a day.
//!
//! axum on tokio's multi-threaded runtime, one `FutureProducer`, one `StreamConsumer`, a shared map of oneshot
//! senders; in Redis one script call per acquire and one `ZREM` per release. Nothing in it is slow on purpose: each
//! library is used as its documentation shows, with the server's Kafka properties where they matter, its allocator and
//! its release profile.
//!
//! It speaks the same wire format as `thousandx serve`, so that the same `thousandx work` answers, and reads the same
//! settings: `PORT`, `KAFKA_BOOTSTRAP_SERVERS`, `REDIS_URL`, `RATE_LIMIT_CAPACITY`, `RATE_LIMIT_CAPACITY_SET`,
//! `TASKS_TOPIC`, `RESULTS_TOPIC`, `KAFKA_LINGER_MS`. What it leaves out: metrics, drain, problem documents, limits on
//! headers and slow clients, recovery of the reply position, and most of what the server does when a part fails.

mod limiter;
mod replies;

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::time::timeout;
use uuid::Uuid;

use crate::limiter::{Limiter, Refused};
use crate::replies::{CORRELATION_HEADER, Replies};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// From the complete body to the worker's answer; then 504.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A permit outlives its request by this much when its holder dies.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// How long a task may wait for room in the producer's queue.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(100);
/// The task of a request without a body.
const DEFAULT_TASK: &[u8] = br#"{"action":"get_gift_code"}"#;

const X_REQUEST_ID: header::HeaderName = header::HeaderName::from_static("x-request-id");

struct App {
    limiter: Limiter,
    producer: FutureProducer,
    replies: Replies,
    tasks_topic: &'static str,
    results_topic: &'static str,
}

#[tokio::main]
async fn main() -> Result<()> {
    let results_topic: &str = setting("RESULTS_TOPIC", "results".to_owned())?.leak();
    let app = App {
        limiter: Limiter::connect(
            &setting("REDIS_URL", "redis://127.0.0.1:6379".to_owned())?,
            setting("RATE_LIMIT_CAPACITY_SET", "rate_limit_capacity_set".to_owned())?,
            setting("RATE_LIMIT_CAPACITY", 100)?,
            REPLY_TIMEOUT + LEASE_MARGIN,
        )
        .await
        .context("Redis")?,
        producer: producer().context("the producer of tasks")?,
        replies: Replies::start(&kafka()?, results_topic).context("the reader of replies")?,
        tasks_topic: setting("TASKS_TOPIC", "tasks".to_owned())?.leak(),
        results_topic,
    };
    // Replies are read from here on: the first request may come, so to listen is to be ready.
    let router =
        Router::new().route("/queue", post(queue)).route("/readyz", get(async || "ready\n")).with_state(Arc::new(app));
    let listener = TcpListener::bind(("127.0.0.1", setting("PORT", 8000_u16)?)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // Only a latency is lost when it cannot be set.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

/// `POST /queue`: admit, submit, wait, answer.
async fn queue(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, Failure> {
    let body = if body.is_empty() { Bytes::from_static(DEFAULT_TASK) } else { body };
    serde_json::from_slice::<&RawValue>(&body).map_err(|_| Failure(StatusCode::BAD_REQUEST, "malformed_json"))?;

    let id = Uuid::new_v4();
    let permit = app.limiter.acquire(id).await?;
    let mut waiting = app.replies.expect(id);
    app.submit(id, &body).await?;
    let Ok(Ok(reply)) = timeout(REPLY_TIMEOUT, waiting.reply()).await else {
        return Err(Failure(StatusCode::GATEWAY_TIMEOUT, "reply_timeout"));
    };
    drop(permit);

    let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (X_REQUEST_ID, id.to_string())];
    Ok((headers, reply).into_response())
}

impl App {
    /// Puts the task on its topic; back when the broker has it.
    async fn submit(&self, id: Uuid, body: &[u8]) -> Result<(), Failure> {
        let id = id.to_string();
        let deadline_ms =
            (SystemTime::now() + REPLY_TIMEOUT).duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let deadline_ms = deadline_ms.to_string();
        let headers = OwnedHeaders::new_with_capacity(4)
            .insert(Header { key: CORRELATION_HEADER, value: Some(&id) })
            .insert(Header { key: "kafka_replyTopic", value: Some(self.results_topic) })
            .insert(Header { key: "x-deadline-ms", value: Some(&deadline_ms) })
            .insert(Header { key: "content-type", value: Some("application/json") });
        let record = FutureRecord::<(), _>::to(self.tasks_topic).payload(body).headers(headers);
        let sent = self.producer.send(record, QUEUE_TIMEOUT).await;
        sent.map(|_| ()).map_err(|_| Failure(StatusCode::SERVICE_UNAVAILABLE, "broker_unavailable"))
    }
}

/// An answer that is not the worker's.
struct Failure(StatusCode, &'static str);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, [(header::CONTENT_TYPE, "application/problem+json")], format!(r#"{{"code":"{}"}}"#, self.1))
            .into_response()
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::CapacityReached => Self(StatusCode::TOO_MANY_REQUESTS, "capacity_reached"),
            Refused::Unavailable => Self(StatusCode::SERVICE_UNAVAILABLE, "limiter_unavailable"),
        }
    }
}

/// What producer and consumer have in common.
fn kafka() -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", setting("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092".to_owned())?);
    config.set("socket.nagle.disable", "true").set("allow.auto.create.topics", "false");
    Ok(config)
}

fn producer() -> Result<FutureProducer> {
    let mut config = kafka()?;
    config.set("acks", "all").set("message.timeout.ms", "3000");
    // 1 rather than 0, by measurement: with several requests in flight, 0 makes many small batches.
    config.set("linger.ms", setting("KAFKA_LINGER_MS", 1.0)?.to_string());
    Ok(config.create()?)
}

/// The environment's value, or the default.
fn setting<T: FromStr>(name: &str, default: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| anyhow!("{name} cannot be {text:?}")),
        Err(_) => Ok(default),
    }
}
