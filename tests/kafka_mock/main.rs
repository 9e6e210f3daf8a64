//! The Kafka part and the worker against librdkafka's mock cluster, in one process: tasks go out by a submitter, the
//! sample worker answers, and completions arrive in a mailbox.
//!
//! Every wait is a poll with a deadline ([`eventually`], or a timeout on the mailbox); each test has a cluster of its
//! own on a port that the kernel chose.

#![allow(clippy::unwrap_used, reason = "a test's helper fails by panic, like the test itself")]

#[path = "../support/mod.rs"]
mod support;

mod rig;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaRespErr;
use rig::{INSTANCE, PATIENCE, Rig, RunningWorker, Slow, cluster, eventually, json, settings, unix_ms};
use support::rows::Row;
use thousandx::config::{KafkaSettings, TaskFormat};
use thousandx::correlate::{ShardAddress, Table};
use thousandx::kafka::client;
use thousandx::kafka::native::{Consumer, Events, Position};
use thousandx::kafka::wire::{Outcome, Undelivered};
use thousandx::worker::{GiftCode, Membership};

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
fn under_load_tasks_share_batches_and_each_gets_its_answer() {
    let mut rig = Rig::start(TaskFormat::Headers);
    let _worker = RunningWorker::start(&rig.settings, Membership::Assigned);
    let ids: Vec<_> = (0..2_000).map(|n| (rig.id(), n)).collect();
    let deadline = unix_ms() + 20_000;
    for (id, n) in &ids {
        // 200 in two milliseconds, by the clock that the tasks carry.
        rig.submit_until(deadline + n / 200 * 2, *id, &format!(r#"{{"action":"get_gift_code","n":{n}}}"#)).unwrap();
    }
    let found = rig.completions(ids.len());
    assert!(ids.iter().all(|(id, n)| json(&found[id])["n"] == *n));
    let (prompt, bulk) = (rig.produced("prompt"), rig.produced("bulk"));
    assert!(prompt > 0 && bulk > 0 && prompt + bulk == 2_000, "prompt {prompt}, bulk {bulk}");
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
