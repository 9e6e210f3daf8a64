//! A worker whose tasks take time: each answer leaves a fixed time after its task came, however many wait.
//!
//! It stands for the slow backend that the limit on permits protects; `scripts/overload.sh` uses it. The answers are
//! those of the sample worker, so that clients can check them. It reads all partitions from the beginning, without a
//! group, and runs until it is killed.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use thousandx::config::{self, Command, DotEnv, Environment, KafkaSettings, Layers};
use thousandx::kafka::client;
use thousandx::kafka::native::{Code, Consumer, Events, Message, Position, Producer, Record, Topic, code_text};
use thousandx::kafka::wire::{Layout, ReplyRecord};
use thousandx::worker::{GiftCode, Handler, WorkerAnswer, WorkerTask};

/// Records of one read.
const BATCH: usize = 1024;
/// One call to a broker.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read sleeps when there is nothing to do.
const IDLE: Duration = Duration::from_millis(100);
/// Most answers that wait; above it the run ends.
const HELD_MAX: usize = 1_000_000;

/// A worker whose tasks take time. Settings as for `thousandx work`.
#[derive(Debug, Parser)]
#[command(name = "slow-worker")]
struct Args {
    /// How long a task takes; without it nothing happens.
    #[arg(long)]
    task_ms: Option<u64>,
    /// `cargo bench` passes this to every bench; nothing to do then.
    #[arg(long, hide = true)]
    bench: bool,
}

/// An answer that waits for its time.
struct Held {
    due: Instant,
    partition: i32,
    payload: Vec<u8>,
    headers: Vec<(CString, Vec<u8>)>,
}

struct SlowWorker {
    layout: Layout,
    consumer: Consumer,
    producer: Producer,
    results: Topic,
    takes: Duration,
    /// In the order in which they came, which is that in which they are due.
    held: VecDeque<Held>,
    scratch: Vec<u8>,
}

struct Quiet;

impl Events for Quiet {}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(task_ms) = args.task_ms else {
        println!("slow-worker: give --task-ms 200 to work; scripts/overload.sh does");
        return Ok(());
    };
    let dotenv = DotEnv::read(Path::new(".env"), false);
    let layers = Layers { flags: std::collections::BTreeMap::new(), environment: &Environment, dotenv };
    let config = config::load(Command::Work, &layers).into_config()?;
    thousandx::scheduling::apply(config.scheduling);
    SlowWorker::open(&config.kafka, Duration::from_millis(task_ms))?.run()
}

impl SlowWorker {
    fn open(settings: &KafkaSettings, takes: Duration) -> Result<Self> {
        let consumer = Consumer::new(client::reply_reader(settings)?, Arc::new(Quiet)).map_err(anyhow::Error::msg)?;
        let tasks = &settings.tasks_topic;
        let all: Vec<_> = partitions(&consumer, tasks)?.into_iter().map(|id| (id, Position::Beginning)).collect();
        consumer.assign_also(tasks, &all).map_err(failed)?;
        let producer =
            Producer::new(client::reply_producer(settings, 0.0)?, Arc::new(Quiet)).map_err(anyhow::Error::msg)?;
        let results = producer.topic(&settings.results_topic).map_err(failed)?;
        let (held, scratch) = (VecDeque::new(), Vec::new());
        Ok(Self { layout: Layout::new(settings)?, consumer, producer, results, takes, held, scratch })
    }

    fn run(mut self) -> Result<()> {
        let mut batch = self.consumer.batch(BATCH);
        loop {
            let now = Instant::now();
            let wait = self.held.front().map_or(IDLE, |first| first.due.saturating_duration_since(now).min(IDLE));
            self.consumer.consume(&mut batch, BATCH, wait);
            let due = Instant::now() + self.takes;
            for message in batch.iter() {
                match message.error() {
                    None => self.take(&message, due),
                    Some(code) => eprintln!("a partition cannot be read: {}", code_text(code)),
                }
            }
            if self.held.len() > HELD_MAX {
                bail!("more than {HELD_MAX} tasks wait");
            }
            self.send_due()?;
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Works the answer out and holds it back.
    fn take(&mut self, message: &Message<'_>, due: Instant) {
        let Some(task) = self.layout.read_task(message.headers(), message.payload()) else { return };
        let mut answer = WorkerAnswer::default();
        let asked = WorkerTask { body: message.payload(), content_type: task.content_type, key: task.key };
        let failure = GiftCode.handle(&asked, &mut answer).err();
        let reply = ReplyRecord {
            key: task.key,
            body: &answer.body,
            status: answer.status,
            content_type: None,
            error: failure.as_ref().map(|failure| failure.code.as_ref()),
        };
        let partition = task.reply_partition.unwrap_or(0);
        let held = self.layout.with_reply(&reply, &mut self.scratch, |payload, headers| Held {
            due,
            partition,
            payload: payload.to_vec(),
            headers: headers.iter().map(|(name, value)| (CString::from(*name), value.to_vec())).collect(),
        });
        self.held.push_back(held);
    }

    fn send_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(held) = self.held.pop_front_if(|first| first.due <= now) {
            let headers: Vec<(&CStr, &[u8])> =
                held.headers.iter().map(|(name, value)| (name.as_c_str(), &value[..])).collect();
            let record = Record { payload: &held.payload, headers: &headers, opaque: 0 };
            self.results.produce(held.partition, &record).map_err(failed)?;
        }
        Ok(())
    }
}

/// The partitions of `topic`, which has just been made: the broker may not know them yet.
fn partitions(consumer: &Consumer, topic: &str) -> Result<Vec<i32>> {
    let start = Instant::now();
    while start.elapsed() < CALL_TIMEOUT {
        let topics = consumer.metadata(CALL_TIMEOUT).map_err(failed)?;
        let found = topics.iter().find(|known| known.name == topic && !known.partitions.is_empty());
        if let Some(found) = found {
            return Ok(found.partitions.iter().map(|(id, _)| *id).collect());
        }
        std::thread::sleep(IDLE);
    }
    bail!("topic {topic:?} has no partitions: `thousandx topics` makes them");
}

fn failed(code: Code) -> anyhow::Error {
    anyhow::Error::msg(code_text(code))
}
