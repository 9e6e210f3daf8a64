//! The floor of the latency: one task at a time through Kafka and the worker, without HTTP, Redis or a server.
//!
//! The same client library with the same settings as `thousandx serve` (its own `task_producer` and `reply_reader`, fed
//! by the same environment), the same topics, the same worker. A task is sent when the answer to the one before is
//! there; every answer is checked to carry its task's id and nonce. What the server adds to this is HTTP, the limiter
//! and the way between threads. `scripts/bench.sh` compares.

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use hdrhistogram::Histogram;
use thousandx::config::{self, Command, DotEnv, Environment, KafkaSettings, Layers};
use thousandx::kafka::client;
use thousandx::kafka::native::{Code, Consumer, Events, Position, Producer, Record, Topic, code_text};

/// A task without an answer for so long ends the run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// One call to a broker.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Records of one read: other people's replies come too.
const BATCH: usize = 1024;
/// The reply partition that is read, so that a run beside a loaded server reads a part of its replies only.
const REPLY_PARTITION: i32 = 0;
const NS_PER_US: f64 = 1e3;

/// A bare ping-pong through Kafka and the worker, for comparison. Settings as for `thousandx serve`.
#[derive(Debug, Parser)]
#[command(name = "kafka-ping")]
struct Args {
    /// Measured seconds, after a warm-up of 1 s; without it nothing happens.
    #[arg(long)]
    seconds: Option<f64>,
    /// `cargo bench` passes this to every bench; nothing to do then.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Quiet;

impl Events for Quiet {}

/// Both ends of the ping-pong.
struct Ends {
    producer: Producer,
    tasks: Topic,
    task_partitions: i32,
    consumer: Consumer,
    /// Names of the headers, and the values that do not change.
    correlation: CString,
    reply_topic: (CString, String),
    reply_partition: CString,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(seconds) = args.seconds else {
        println!("kafka-ping: give --seconds 5 to measure; scripts/bench.sh does");
        return Ok(());
    };
    let dotenv = DotEnv::read(Path::new(".env"), false);
    let layers = Layers { flags: std::collections::BTreeMap::new(), environment: &Environment, dotenv };
    let config = config::load(Command::Serve, &layers).into_config()?;
    let ends = Ends::open(&config.kafka)?;
    ends.ping_for(Duration::from_secs(1))?;
    let histogram = ends.ping_for(Duration::try_from_secs_f64(seconds)?)?;
    let us = |quantile| to_us(histogram.value_at_quantile(quantile));
    let report = serde_json::json!({
        "round_trips": histogram.len(),
        "latency_us": {"p50": us(0.5), "p90": us(0.9), "p95": us(0.95), "p99": us(0.99), "p99_9": us(0.999),
            "max": to_us(histogram.max())},
    });
    println!("{report}");
    Ok(())
}

impl Ends {
    fn open(settings: &KafkaSettings) -> Result<Self> {
        let producer =
            Producer::new(client::task_producer(settings, 0.0)?, Arc::new(Quiet)).map_err(anyhow::Error::msg)?;
        let tasks = producer.topic(&settings.tasks_topic).map_err(failed)?;
        let known = producer.metadata(CALL_TIMEOUT).map_err(failed)?;
        let topic = known.iter().find(|topic| topic.name == settings.tasks_topic).context("no tasks topic")?;
        let consumer = Consumer::new(client::reply_reader(settings)?, Arc::new(Quiet)).map_err(anyhow::Error::msg)?;
        let results = &settings.results_topic;
        let (_, end) = consumer.watermarks(results, REPLY_PARTITION, CALL_TIMEOUT).map_err(failed)?;
        consumer.assign_also(results, &[(REPLY_PARTITION, Position::At(end))]).map_err(failed)?;
        Ok(Self {
            task_partitions: i32::try_from(topic.partitions.len())?,
            producer,
            tasks,
            consumer,
            correlation: CString::new(settings.headers.correlation.as_str())?,
            reply_topic: (CString::new(settings.headers.reply_topic.as_str())?, results.clone()),
            reply_partition: CString::new(settings.headers.reply_partition.as_str())?,
        })
    }

    /// Round trips one after the other; their times in ns.
    fn ping_for(&self, length: Duration) -> Result<Histogram<u64>> {
        let mut histogram = Histogram::new(3)?;
        let end = Instant::now() + length;
        for nonce in 0_i32.. {
            if Instant::now() >= end {
                break;
            }
            let start = Instant::now();
            self.ping(nonce)?;
            histogram.record(u64::try_from(start.elapsed().as_nanos())?)?;
        }
        Ok(histogram)
    }

    fn ping(&self, nonce: i32) -> Result<()> {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        let payload = format!(r#"{{"action":"get_gift_code","nonce":{nonce}}}"#);
        let headers = [
            (self.correlation.as_c_str(), id.as_bytes()),
            (self.reply_topic.0.as_c_str(), self.reply_topic.1.as_bytes()),
            (self.reply_partition.as_c_str(), &REPLY_PARTITION.to_be_bytes()),
        ];
        let record = Record { payload: payload.as_bytes(), headers: &headers, opaque: 0 };
        self.tasks.produce(nonce % self.task_partitions, &record).map_err(failed)?;
        let (mut batch, deadline) = (self.consumer.batch(BATCH), Instant::now() + ANSWER_TIMEOUT);
        let expected = format!("\"nonce\":{nonce}}}");
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.consumer.consume(&mut batch, BATCH, left);
            for message in batch.iter() {
                let is_ours =
                    |(name, value): (&[u8], &[u8])| name == self.correlation.as_bytes() && value == id.as_bytes();
                if message.error().is_none() && message.headers().any(is_ours) {
                    if !message.payload().ends_with(expected.as_bytes()) {
                        bail!("a wrong answer: {}", String::from_utf8_lossy(message.payload()));
                    }
                    return Ok(());
                }
            }
        }
        bail!("no answer within {ANSWER_TIMEOUT:?}; {} tasks still wait for the broker", self.producer.queued())
    }
}

fn failed(code: Code) -> anyhow::Error {
    anyhow::Error::msg(code_text(code))
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of a run are far below 2^52")]
fn to_us(ns: u64) -> f64 {
    (ns as f64 / NS_PER_US * 10.0).round() / 10.0
}
