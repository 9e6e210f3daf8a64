//! The Kafka part and the worker against librdkafka's mock cluster, in one process: tasks go out by a submitter, the
//! sample worker answers, and completions arrive in a mailbox.
//!
//! Every wait is a poll with a deadline ([`eventually`], or a timeout on the mailbox); each test has a cluster of its
//! own on a port that the kernel chose.

#![allow(clippy::unwrap_used, reason = "a test's helper fails by panic, like the test itself")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::RDKafkaRespErr;
use support::rows::Row;
use thousandx::config::{HeaderNames, KafkaSettings, ReplyRouting, TaskFormat, WorkerSettings};
use thousandx::correlate::mailbox::{Receiver, mailbox};
use thousandx::correlate::{CorrelationId, ShardAddress, Table};
use thousandx::kafka::client;
use thousandx::kafka::native::{Consumer, Events, Position};
use thousandx::kafka::submit::Submitter;
use thousandx::kafka::wire::{Completion, Outcome, Task, Undelivered};
use thousandx::kafka::{self, KafkaHandle};
use thousandx::lifecycle::Lifecycle;
use thousandx::observe::metrics::Samples;
use thousandx::worker::{self, Failure, GiftCode, Handler, Membership, WorkerAnswer, WorkerCounts, WorkerTask};

const PATIENCE: Duration = Duration::from_secs(20);
const INSTANCE: u32 = 0x1_2345;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A server's Kafka part with one shard, on a mock cluster.
struct Rig {
    cluster: Cluster,
    settings: KafkaSettings,
    life: Arc<Lifecycle>,
    handle: KafkaHandle,
    submitter: Submitter,
    inbox: Receiver<Completion>,
    table: Table<Outcome>,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    fn start(format: TaskFormat) -> Self {
        let rig = Self::on(cluster(4), format);
        eventually("ready", || rig.life.is_ready());
        rig
    }

    /// Does not wait until it is ready.
    fn on(cluster: Cluster, format: TaskFormat) -> Self {
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

    fn submit(&self, id: CorrelationId, body: &str) -> Result<(), Undelivered> {
        self.submit_for(Duration::from_secs(10), id, body)
    }

    fn submit_for(&self, deadline: Duration, id: CorrelationId, body: &str) -> Result<(), Undelivered> {
        self.submitter.submit(&Task {
            id,
            body: body.as_bytes(),
            content_type: Some(b"application/json"),
            traceparent: None,
            tracestate: None,
            client_request_id: None,
            deadline_unix_ms: unix_ms() + u64::try_from(deadline.as_millis()).unwrap(),
        })
    }

    /// Completions until `count` have come.
    fn completions(&mut self, count: usize) -> HashMap<CorrelationId, Outcome> {
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
    fn take(&self, count: usize) -> Vec<CorrelationId> {
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
    fn outcomes(&mut self, ids: &[CorrelationId]) -> HashMap<CorrelationId, Outcome> {
        let mut found = HashMap::new();
        while !ids.iter().all(|id| found.contains_key(id)) {
            found.extend(self.completions(1));
        }
        found
    }

    /// A mint's id; the slot is free again at once, which the id does not mind.
    fn id(&self) -> CorrelationId {
        self.table.mint().unwrap().id()
    }

    fn counted(&self, result: &str, count: u64) -> bool {
        let mut samples = Samples::default();
        self.handle.metrics().collect(&mut samples);
        format!("{samples:?}").contains(&format!("[(\"result\", \"{result}\")]: Value {{ number: {count},"))
    }

    /// Writes records to the results topic as somebody else would.
    fn reply(&self, records: &[(Option<&[u8]>, &[u8])]) {
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
struct RunningWorker {
    stop: Arc<AtomicBool>,
    counts: Arc<WorkerCounts>,
    thread: Option<JoinHandle<()>>,
}

impl RunningWorker {
    fn start(kafka: &KafkaSettings, membership: Membership) -> Self {
        Self::start_with(kafka, membership, 2, GiftCode)
    }

    fn start_with(kafka: &KafkaSettings, membership: Membership, threads: u8, handler: impl Handler) -> Self {
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
struct Slow(Duration);

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
fn cluster(results_partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("tasks", 4, 1).unwrap();
    cluster.create_topic("results", results_partitions, 1).unwrap();
    cluster
}

fn settings(bootstrap: String, format: TaskFormat) -> KafkaSettings {
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

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn json(outcome: &Outcome) -> serde_json::Value {
    let Outcome::Answer(answer) = outcome else { panic!("no answer: {outcome:?}") };
    assert_eq!((answer.status, &answer.content_type), (200, &None));
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn every_task_gets_its_own_answer() {
    let mut rig = Rig::start(TaskFormat::Headers);
    let worker = RunningWorker::start(&rig.settings, Membership::Assigned);
    let ids: Vec<_> = (0..500).map(|n| (rig.id(), n)).collect();
    for (id, n) in &ids {
        rig.submit(*id, &format!(r#"{{"action":"get_gift_code","n":{n}}}"#)).unwrap();
    }
    let found = rig.completions(ids.len());
    for (id, n) in ids {
        let answer = json(&found[&id]);
        assert_eq!(answer["n"], n);
        assert_eq!(answer["request_id"], id.to_string());
    }
    assert_eq!(worker.counts.answered.get(), 500);
    assert_eq!(rig.handle.close(PATIENCE), 0);
}

#[test]
fn the_template_s_envelope_makes_the_round_trip() {
    let mut rig = Rig::start(TaskFormat::Json);
    let _worker = RunningWorker::start(&rig.settings, Membership::Assigned);
    let id = rig.id();
    rig.submit(id, r#"{"action":"get_gift_code","correlation_id":"theirs"}"#).unwrap();
    assert_eq!(rig.submit(rig.id(), "[1]"), Err(Undelivered::NotAnObject));
    let answer = json(&rig.completions(1)[&id]);
    assert_eq!(answer["request_id"], id.to_string());
    assert!(answer["gift_code"].as_str().unwrap().starts_with("GIFT-"));
}

#[test]
fn a_lost_broker_is_known_within_a_second_and_back_soon() {
    let mut rig = Rig::start(TaskFormat::Headers);
    // The broker holds its acknowledgements back, so that tasks wait when it goes away.
    rig.cluster.broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    let ids: Vec<_> = (0..20).map(|_| rig.id()).collect();
    for id in &ids {
        rig.submit(*id, "{}").unwrap();
    }
    let start = Instant::now();
    rig.cluster.broker_down(-1).unwrap();
    let found = rig.completions(ids.len());
    assert!(start.elapsed() < Duration::from_secs(1), "told after {:?}", start.elapsed());
    for id in ids {
        assert_eq!(found[&id], Outcome::Undelivered(Undelivered::Unavailable));
    }
    assert_eq!(rig.submitter.check(), Err(Undelivered::Unavailable));
    assert!(!rig.life.is_ready());

    rig.cluster.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    rig.cluster.broker_up(-1).unwrap();
    eventually("ready again", || rig.life.is_ready());
    assert_eq!(rig.submitter.check(), Ok(()));
    let _worker = RunningWorker::start(&rig.settings, Membership::Assigned);
    let id = rig.id();
    rig.submit(id, r#"{"n":7}"#).unwrap();
    let mut found = rig.completions(1);
    // Tasks that were given up may have been written all the same, and are answered too: late, for nobody.
    while !found.contains_key(&id) {
        found.extend(rig.completions(1));
    }
    assert_eq!(json(&found[&id])["n"], 7);
}

/// With the broker there, and with one that comes while tasks are posted.
#[test]
fn from_the_first_moment_every_task_that_is_taken_is_answered() {
    for comes_later in [false, true] {
        let cluster = cluster(16);
        let settings = settings(cluster.bootstrap_servers(), TaskFormat::Headers);
        let worker = RunningWorker::start(&settings, Membership::Assigned);
        greet(&settings, &worker);
        // To fix sixteen positions takes longer than a task and its reply.
        cluster.broker_round_trip_time(-1, Duration::from_millis(10)).unwrap();
        if comes_later {
            cluster.broker_down(-1).unwrap();
        }
        let mut rig = Rig::on(cluster, TaskFormat::Headers);
        assert_eq!(rig.submitter.check(), Err(Undelivered::Unavailable));
        assert_eq!(rig.submit(rig.id(), "{}"), Err(Undelivered::Unavailable));
        if comes_later {
            rig.cluster.broker_up(-1).unwrap();
        }
        let ids = rig.take(300);
        let found = rig.outcomes(&ids);
        assert!(ids.iter().all(|id| matches!(found[id], Outcome::Answer(_))));
    }
}

/// Waits until the worker reads every partition: it counts a record without an id on each.
fn greet(settings: &KafkaSettings, worker: &RunningWorker) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &settings.bootstrap).create().unwrap();
    for partition in 0..4 {
        assert!(producer.send(BaseRecord::<[u8], str>::to("tasks").partition(partition).payload("hello")).is_ok());
    }
    producer.flush(PATIENCE).unwrap();
    eventually("the worker reads", || worker.counts.hostile.get() == 4);
}

#[test]
fn a_reply_partition_without_a_leader_costs_no_answer() {
    let cluster = cluster(3);
    cluster.partition_leader("results", 1, None).unwrap();
    let mut rig = Rig::on(cluster, TaskFormat::Headers);
    let _worker = RunningWorker::start(&rig.settings, Membership::Assigned);
    let ids = rig.take(100);
    assert!(rig.life.is_ready());
    assert!(rig.outcomes(&ids).values().all(|outcome| matches!(outcome, Outcome::Answer(_))));

    // The mock cluster crashes when somebody reads from a partition that has lost its leader; that it gets one is fine.
    rig.cluster.partition_leader("results", 1, Some(1)).unwrap();
    let reader: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &rig.settings.bootstrap).create().unwrap();
    eventually("the partition with its new leader is used", || {
        rig.submit(rig.id(), "{}").unwrap();
        reader.fetch_watermarks("results", 1, PATIENCE).is_ok_and(|(_, next)| next > 0)
    });
    let ids = rig.take(100);
    let found = rig.outcomes(&ids);
    assert!(ids.iter().all(|id| matches!(found[id], Outcome::Answer(_))));
}

/// A real broker cannot be made to hand a partition to another one: there is one.
#[test]
fn k5_leaders_move_and_only_time_is_lost() {
    const BACK: Duration = Duration::from_secs(3);
    let mut row = Row::start("K5", "every partition of both topics moves to another broker (mock cluster)", BACK);
    let cluster = MockCluster::new(2).unwrap();
    for topic in ["tasks", "results"] {
        cluster.create_topic(topic, 4, 2).unwrap();
        (0..4).for_each(|partition| cluster.partition_leader(topic, partition, Some(1)).unwrap());
    }
    let mut rig = Rig::on(cluster, TaskFormat::Headers);
    let _worker = RunningWorker::start(&rig.settings, Membership::Assigned);
    let answered = |rig: &mut Rig| {
        let ids = rig.take(50);
        let found = rig.outcomes(&ids);
        assert!(ids.iter().all(|id| matches!(found[id], Outcome::Answer(_))));
    };
    answered(&mut rig);
    for (topic, leader) in [("tasks", 2), ("results", 2), ("results", 1), ("tasks", 1)] {
        let moved = Instant::now();
        (0..4).for_each(|partition| rig.cluster.partition_leader(topic, partition, Some(leader)).unwrap());
        answered(&mut rig);
        row.healed(&format!("50 answers after {topic} moved to broker {leader}"), moved.elapsed());
    }
    row.saw("every task is answered, later");
}

#[test]
fn a_slow_worker_skips_what_expires_meanwhile() {
    let rig = Rig::start(TaskFormat::Headers);
    for _ in 0..60 {
        rig.submit_for(Duration::from_millis(500), rig.id(), "{}").unwrap();
    }
    let slow = Slow(Duration::from_millis(50));
    let worker = RunningWorker::start_with(&rig.settings, Membership::Assigned, 2, slow);
    let counts = Arc::clone(&worker.counts);
    eventually("all are answered or expired", || counts.answered.get() + counts.expired.get() >= 60);
    // Two threads, ten each and the ones under way.
    assert!(counts.answered.get() <= 22, "{} were answered", counts.answered.get());
    assert_eq!(counts.answered.get() + counts.expired.get(), 60, "each once");
}

#[test]
fn a_slow_worker_stops_soon_and_leaves_the_rest_to_the_next() {
    const TASKS: u64 = 200;
    let mut rig = Rig::start(TaskFormat::Headers);
    let ids: Vec<_> = (0..TASKS).map(|_| rig.id()).collect();
    for id in &ids {
        rig.submit_for(Duration::from_mins(2), *id, "{}").unwrap();
    }
    let slow = Slow(Duration::from_millis(50));
    // One member each: commits are refused while the group of several is still forming.
    let first = RunningWorker::start_with(&rig.settings, Membership::Group, 1, slow);
    // More than one round: what was left over of the first has been read again.
    eventually("some are answered", || first.counts.answered.get() >= 12);
    let (counts, stopped) = (Arc::clone(&first.counts), Instant::now());
    drop(first);
    let took = stopped.elapsed();
    let answered = counts.answered.get();
    assert!(answered < TASKS / 2, "{answered} before the stop, which took {took:?}");

    let next = RunningWorker::start_with(&rig.settings, Membership::Group, 1, GiftCode);
    let found = rig.outcomes(&ids);
    assert!(found.values().all(|outcome| matches!(outcome, Outcome::Answer(_))));
    let next_answered = next.counts.answered.get();
    assert_eq!(answered + next_answered, TASKS, "each once: {answered} in {took:?} and {next_answered}");
}

#[test]
fn a_seek_says_which_partitions_stay_where_they_were() {
    struct Nobody;
    impl Events for Nobody {}
    let cluster = cluster(2);
    let settings = settings(cluster.bootstrap_servers(), TaskFormat::Headers);
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &settings.bootstrap).create().unwrap();
    for n in ["0", "1"] {
        assert!(producer.send(BaseRecord::<[u8], str>::to("results").partition(0).payload(n)).is_ok());
    }
    producer.flush(PATIENCE).unwrap();
    let consumer = Consumer::new(client::reply_reader(&settings).unwrap(), Arc::new(Nobody)).unwrap();
    consumer.assign_also("results", &[(0, Position::Beginning)]).unwrap();
    let mut batch = consumer.batch(1);
    let mut read = || {
        eventually("a record", || consumer.consume(&mut batch, 1, Duration::from_millis(10)) == 1);
        batch.iter().next().map(|message| message.offset())
    };
    assert_eq!((read(), read()), (Some(0), Some(1)));
    // Of the two only one is assigned.
    let failed = consumer.seek("results", &[(0, Position::At(0)), (1, Position::At(0))], PATIENCE);
    assert_eq!(failed.unwrap_err().iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), [1]);
    assert_eq!(read(), Some(0));
    assert_eq!(consumer.seek("results", &[(0, Position::At(1))], PATIENCE), Ok(()));
    assert_eq!(read(), Some(1));
}

#[test]
fn a_missing_topic_is_told_and_found_again() {
    let rig = Rig::start(TaskFormat::Headers);
    rig.cluster.topic_error("tasks", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    eventually("missing", || rig.submitter.check() == Err(Undelivered::TopicMissing));
    assert!(!rig.life.is_ready());
    rig.cluster.topic_error("tasks", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    eventually("there", || rig.submitter.check() == Ok(()) && rig.life.is_ready());
}

#[test]
fn too_large_a_task_is_refused_at_once() {
    let rig = Rig::start(TaskFormat::Headers);
    assert_eq!(rig.submit(rig.id(), &"x".repeat(2 << 20)), Err(Undelivered::TooLarge));
}

#[test]
fn replies_of_others_and_garbage_are_counted_and_do_no_harm() {
    let mut rig = Rig::start(TaskFormat::Headers);
    let foreign = Table::<()>::new(ShardAddress { instance: INSTANCE + 1, shard: 0 }, 8).mint().unwrap().id();
    let no_shard = Table::<()>::new(ShardAddress { instance: INSTANCE, shard: 9 }, 8).mint().unwrap().id();
    let (mine, last) = (rig.id(), rig.id());
    let no_result = format!(r#"{{"correlation_id":"{mine}"}}"#);
    rig.reply(&[
        (Some(foreign.to_string().as_bytes()), b"{}"),
        (Some(&no_shard.to_bytes()), b"{}"),
        (Some(b"no id"), b"\xff\x00"),
        (None, b"garbage"),
        (None, b""),
        (None, no_result.as_bytes()),
        (Some(last.to_string().as_bytes()), b"{\"fine\":true}"),
    ]);
    let found = rig.completions(2);
    assert_eq!(found[&mine], Outcome::Malformed);
    assert_eq!(json(&found[&last])["fine"], true);
    let expected = [("foreign", 2), ("unreadable", 3), ("malformed", 1)];
    eventually("counted", || expected.iter().all(|(result, count)| rig.counted(result, *count)));
}
