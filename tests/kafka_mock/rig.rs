//! What each test has: a server's Kafka part with one shard on a mock cluster, and the sample worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use thousandx::config::{HeaderNames, KafkaSettings, ReplyRouting, TaskFormat, WorkerSettings};
use thousandx::correlate::mailbox::{Receiver, mailbox};
use thousandx::correlate::{CorrelationId, ShardAddress, Table};
use thousandx::kafka::submit::Submitter;
use thousandx::kafka::wire::{Completion, Outcome, Task, Undelivered};
use thousandx::kafka::{self, KafkaHandle};
use thousandx::lifecycle::Lifecycle;
use thousandx::observe::exposition;
use thousandx::observe::metrics::{Registry, Samples};
use thousandx::worker::{self, Failure, GiftCode, Handler, Membership, WorkerAnswer, WorkerCounts, WorkerTask};

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const INSTANCE: u32 = 0x1_2345;

pub type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A server's Kafka part with one shard, on a mock cluster.
pub struct Rig {
    pub cluster: Cluster,
    pub settings: KafkaSettings,
    pub life: Arc<Lifecycle>,
    pub handle: KafkaHandle,
    pub submitter: Submitter,
    pub inbox: Receiver<Completion>,
    pub table: Table<Outcome>,
    pub runtime: tokio::runtime::Runtime,
}

impl Rig {
    pub fn start(format: TaskFormat) -> Self {
        let rig = Self::on(cluster(4), format);
        eventually("ready", || rig.life.is_ready());
        rig
    }

    /// Does not wait until it is ready.
    pub fn on(cluster: Cluster, format: TaskFormat) -> Self {
        let settings = settings(cluster.bootstrap_servers(), format);
        let life = Lifecycle::new();
        let (sender, inbox) = mailbox(1_024);
        let parts = (life.register("kafka producer"), life.register("kafka replies"));
        let handle = kafka::start(&settings, INSTANCE, vec![sender], parts.0, parts.1).unwrap();
        let submitter = handle.submitter(0);
        let table = Table::new(ShardAddress { instance: INSTANCE, shard: 0 }, 10_000);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { cluster, settings, life, handle, submitter, inbox, table, runtime }
    }

    pub fn submit(&self, id: CorrelationId, body: &str) -> Result<(), Undelivered> {
        self.submit_for(Duration::from_secs(10), id, body)
    }

    pub fn submit_for(&self, deadline: Duration, id: CorrelationId, body: &str) -> Result<(), Undelivered> {
        self.submit_until(unix_ms() + u64::try_from(deadline.as_millis()).unwrap(), id, body)
    }

    pub fn submit_until(&self, deadline_unix_ms: u64, id: CorrelationId, body: &str) -> Result<(), Undelivered> {
        self.submitter.submit(&Task {
            id,
            body: body.as_bytes(),
            content_type: Some(b"application/json"),
            traceparent: None,
            tracestate: None,
            client_request_id: None,
            deadline_unix_ms,
        })
    }

    /// Completions until `count` have come.
    pub fn completions(&mut self, count: usize) -> HashMap<CorrelationId, Outcome> {
        let mut found = HashMap::new();
        let inbox = &mut self.inbox;
        self.runtime.block_on(async {
            let all = async {
                while found.len() < count {
                    let batch = inbox.recv().await.expect("the senders live");
                    found.extend(batch.into_iter().map(|completion| (completion.id, completion.outcome)));
                }
            };
            let _ = tokio::time::timeout(PATIENCE, all).await;
        });
        assert!(found.len() >= count, "{} completions, {count} wanted", found.len());
        found
    }

    /// `count` tasks, one after the other as requests would come, as soon as tasks are taken.
    pub fn take(&self, count: usize) -> Vec<CorrelationId> {
        let mut ids = Vec::new();
        eventually("tasks are taken", || {
            let id = self.id();
            if self.submitter.check().is_ok() && self.submit(id, "{}").is_ok() {
                ids.push(id);
            }
            ids.len() == count
        });
        ids
    }

    /// What becomes of these tasks; others may be told of meanwhile.
    pub fn outcomes(&mut self, ids: &[CorrelationId]) -> HashMap<CorrelationId, Outcome> {
        let mut found = HashMap::new();
        while !ids.iter().all(|id| found.contains_key(id)) {
            found.extend(self.completions(1));
        }
        found
    }

    /// A mint's id; the slot is free again at once, which the id does not mind.
    pub fn id(&self) -> CorrelationId {
        self.table.mint().unwrap().id()
    }

    pub fn counted(&self, result: &str, count: u64) -> bool {
        let mut samples = Samples::default();
        self.handle.metrics().collect(&mut samples);
        format!("{samples:?}").contains(&format!("[(\"result\", \"{result}\")]: Value {{ number: {count},"))
    }

    /// Tasks that took this lane, from `/metrics`.
    pub fn produced(&self, lane: &str) -> u64 {
        let registry = Registry::default();
        registry.add(self.handle.metrics());
        let (_, text) = exposition::encode(&registry.scrape(), None);
        let series = format!("thousandx_kafka_produced_total{{lane=\"{lane}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)).expect(&text).parse().unwrap()
    }

    /// Writes records to the results topic as somebody else would.
    pub fn reply(&self, records: &[(Option<&[u8]>, &[u8])]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &self.settings.bootstrap).create().unwrap();
        for (id, payload) in records {
            let mut headers = OwnedHeaders::new();
            if let Some(id) = id {
                headers = headers.insert(Header { key: "kafka_correlationId", value: Some(*id) });
            }
            let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to("results").payload(*payload).headers(headers);
            assert!(producer.send(record).is_ok());
        }
        producer.flush(PATIENCE).unwrap();
    }
}

/// The sample worker in a thread, stopped and joined when dropped.
pub struct RunningWorker {
    pub stop: Arc<AtomicBool>,
    pub counts: Arc<WorkerCounts>,
    pub thread: Option<JoinHandle<()>>,
}

impl RunningWorker {
    pub fn start(kafka: &KafkaSettings, membership: Membership) -> Self {
        Self::start_with(kafka, membership, 2, GiftCode)
    }

    pub fn start_with(kafka: &KafkaSettings, membership: Membership, threads: u8, handler: impl Handler) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(WorkerCounts::default()));
        let thread = std::thread::spawn({
            let (kafka, stop, counts) = (kafka.clone(), Arc::clone(&stop), Arc::clone(&counts));
            let settings = WorkerSettings { threads, group: "workers".into() };
            move || worker::run(&settings, &kafka, &Arc::new(handler), membership, &stop, &counts).unwrap()
        });
        Self { stop, counts, thread: Some(thread) }
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// A handler that takes its time.
pub struct Slow(pub Duration);

impl Handler for Slow {
    fn handle(&self, _: &WorkerTask<'_>, answer: &mut WorkerAnswer) -> Result<(), Failure> {
        let end = Instant::now() + self.0;
        while Instant::now() < end {
            std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
        }
        answer.body.extend_from_slice(b"{}");
        Ok(())
    }
}

/// One broker, four partitions for tasks.
pub fn cluster(results_partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("tasks", 4, 1).unwrap();
    cluster.create_topic("results", results_partitions, 1).unwrap();
    cluster
}

pub fn settings(bootstrap: String, format: TaskFormat) -> KafkaSettings {
    KafkaSettings {
        bootstrap,
        tasks_topic: "tasks".into(),
        results_topic: "results".into(),
        format,
        routing: ReplyRouting::Shared,
        headers: HeaderNames {
            correlation: "kafka_correlationId".into(),
            reply_topic: "kafka_replyTopic".into(),
            reply_partition: "kafka_replyPartition".into(),
            deadline: "x-deadline-ms".into(),
            status: "x-status".into(),
            error: "x-error".into(),
        },
        delivery_timeout: Duration::from_secs(2),
        acks: "1".into(),
        compression: "none".into(),
        linger_ms: 0.5,
        in_flight_max: 1_000,
        fetch_wait: Duration::from_millis(1),
        fetch_min_bytes: 1,
        new_partition_wait: Duration::ZERO,
        queue_messages_max: 10_000,
        body_bytes_max: 1 << 20,
        extra: Vec::new(),
    }
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

pub fn json(outcome: &Outcome) -> serde_json::Value {
    let Outcome::Answer(answer) = outcome else { panic!("no answer: {outcome:?}") };
    assert_eq!((answer.status, &answer.content_type), (200, &None));
    serde_json::from_slice(&answer.body).unwrap()
}
