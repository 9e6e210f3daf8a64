//! Kafka is away, hangs, has no topic. The tests that kill or stop it have a node of their
//! own, and one node goes through several faults, because its start is what takes the time.

use std::time::{Duration, Instant};

use crate::stack::{ANSWER_MAX, Stack, answer, assert_ends, checker, hold_at, settings, size};
use crate::support::kafka::Kafka;
use crate::support::redis::RedisServer;
use crate::support::rows::{BUSY, Row};
use crate::support::server::Worker;
use crate::support::wait_until;
use crate::{KAFKA_BACK_WITHIN, REDIS_BACK_WITHIN, REFUSED_WITHIN, SILENCE_NOTICED_WITHIN, WAIT_MAX, timed};

const UNAVAILABLE: &str = "broker_unavailable";
const MISSING: &str = "topic_missing";
/// Promise P8 for a broker whose connections break, and what a busy machine adds.
const NOTICED_WITHIN: Duration = Duration::from_secs(1).saturating_add(BUSY);
/// Promise P8 for what a Kafka had been given that says nothing: `KAFKA_DELIVERY_TIMEOUT_MS` + 2 s, and a busy machine.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(5).saturating_add(BUSY);
/// `broker.session.timeout.ms` of scripts/kafka/server.properties, and the controller's look at it.
const FENCED_AFTER: Duration = Duration::from_millis(4_500);
/// "At once" after SIGCONT.
const CONTINUED_WITHIN: Duration = Duration::from_secs(4);

#[test]
fn k1_k2_k3_k5_s11_down_killed_hung_restarted_and_both_away() {
    let mut kafka = Kafka::start();
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
    // A real worker and not the checker: it has to live through all of this too.
    let _worker = Worker::start(&kafka, &tasks, &results);
    kafka.kill();
    let redis = RedisServer::start_secured();
    let server = settings(&kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    k1_down_at_start(&mut kafka, &mut stack);
    k2_killed_under_load(&mut kafka, &mut stack);
    k3_hung_under_load(&mut kafka, &mut stack);
    k5_restarted_in_order(&mut kafka, &mut stack);
    s11_kafka_and_redis_away(&mut kafka, &mut stack);
}

fn k1_down_at_start(kafka: &mut Kafka, stack: &mut Stack) {
    let mut row = Row::start("K1", "Kafka is down at the start", KAFKA_BACK_WITHIN);
    row.saw("503, then 200");
    assert_eq!(stack.server.get("/livez").expect("an answer").status, 200);
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row.refused("503, the slowest of 20", stack.all_refused(UNAVAILABLE, 20, REFUSED_WITHIN));
    assert!(stack.server.metric("thousandx_limiter_granted_total") < 1.0, "no permit was asked for");
    assert_eq!(size(&mut stack.redis.client()), 0);

    kafka.restart();
    let back = Instant::now();
    row.healed("ready after the start of Kafka", stack.until_ready(back, KAFKA_BACK_WITHIN));
    row.healed("first 200 after the start of Kafka", stack.until_served(back, KAFKA_BACK_WITHIN));
    stack.assert_healed(&mut row);
}

/// Asked from the first moment on, a server refuses until it could read the reply: nobody waits for his deadline.
#[test]
fn k1_posting_from_before_the_server_is_ready() {
    let mut row = Row::start("K1", "requests from before the server is ready", KAFKA_BACK_WITHIN);
    let kafka = Kafka::shared();
    // Many positions have to be fixed before the first task may go out.
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 64));
    let redis = RedisServer::start_secured();
    let _worker = checker(kafka, &tasks);
    let server = settings(kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    for _ in 0..3 {
        let load = stack.load();
        row.healed("first 200 under load", stack.until_served(Instant::now(), KAFKA_BACK_WITHIN));
        row.note("64 good answers", many_served(&stack));
        row.history(&load.stop(), &[200, 503]);
        stack.until_idle(WAIT_MAX);
        stack.server = settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()).start_unready();
    }
}

fn k2_killed_under_load(kafka: &mut Kafka, stack: &mut Stack) {
    for round in ["once", "again"] {
        let mut row = Row::start("K2", format!("Kafka is killed and restarted, {round}"), KAFKA_BACK_WITHIN);
        let load = stack.load();
        stack.until_served(Instant::now(), WAIT_MAX);
        kafka.kill();
        // From then on new requests get 503 at once; what was sent before waits for its delivery or its deadline.
        row.refused("503 for new requests, after the kill", timed(|| stack.server.wait_ready(false, NOTICED_WITHIN)).1);
        row.refused("503, the slowest of 100", stack.all_refused(UNAVAILABLE, 100, REFUSED_WITHIN));
        assert!(!stack.server.is_ready());
        assert_ends(&row, settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));

        kafka.restart();
        let back = Instant::now();
        row.healed("ready after the restart", stack.until_ready(back, KAFKA_BACK_WITHIN));
        row.healed("first 200 after the restart", stack.until_served(back, KAFKA_BACK_WITHIN));
        row.history(&load.stop(), &[200, 503, 504]);
        stack.assert_healed(&mut row);
    }
}

fn k3_hung_under_load(kafka: &mut Kafka, stack: &mut Stack) {
    let mut row = Row::start("K3", "Kafka hangs (SIGSTOP)", KAFKA_BACK_WITHIN);
    // One whose clients would wait for longer than it tries to deliver.
    let patient =
        settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()).set("KAFKA_GIFT_CODE_TIMEOUT", "20");
    let patient = patient.start();
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);
    kafka.sigstop();
    let caught = hold_at(&patient, 0);
    row.note("not ready after SIGSTOP", timed(|| stack.server.wait_ready(false, SILENCE_NOTICED_WITHIN)).1);
    row.refused("503, the slowest of 20", stack.all_refused(UNAVAILABLE, 20, REFUSED_WITHIN));
    assert_ends(&row, settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));
    let (caught, took) = answer(caught);
    assert_eq!((caught.status, caught.code().as_deref()), (503, Some(UNAVAILABLE)), "{}", caught.text());
    assert!(took < GIVEN_UP_WITHIN, "{took:?}");
    row.note("503 for what was sent before the hang was known", took);
    drop(patient);
    kafka.sigcont();
    let back = Instant::now();
    row.note("ready after SIGCONT", stack.until_ready(back, CONTINUED_WITHIN));
    // The broker may have forgotten the worker meanwhile, and let it in only when its old session is over (6 s).
    row.healed("first 200 after SIGCONT", stack.until_served(back, KAFKA_BACK_WITHIN));
    let report = load.stop();
    row.note("slowest answer of the load", report.slowest());
    row.history(&report, &[200, 503, 504]);
    stack.assert_healed(&mut row);
}

/// A broker that was away for longer than its session is fenced, and says when asked that the cluster has no brokers.
/// librdkafka then forgets those that it knows, and asks nobody any more.
#[test]
fn k3_hung_until_the_cluster_has_no_broker() {
    const TIMES: usize = 4;
    let mut kafka = Kafka::start();
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
    let _worker = Worker::start(&kafka, &tasks, &results);
    let redis = RedisServer::start_secured();
    let server = settings(&kafka, &tasks, &results, &redis.url()).start();
    let stack = Stack { redis, tasks, results, server };
    let mut row = Row::start("K3", "Kafka hangs until its session with its controller is over", KAFKA_BACK_WITHIN);
    let load = stack.load();
    for _ in 0..TIMES {
        stack.until_served(Instant::now(), WAIT_MAX);
        kafka.sigstop();
        std::thread::sleep(FENCED_AFTER); // workload: how long it hangs
        kafka.sigcont();
        row.healed("first 200 after SIGCONT", stack.until_served(Instant::now(), KAFKA_BACK_WITHIN));
    }
    row.history(&load.stop(), &[200, 503, 504]);
    stack.assert_healed(&mut row);
}

/// The one broker is leader of everything and coordinator of the worker's group: both go and come back with it. Leaders
/// that move to other brokers are in `brokers.rs`, and on the mock cluster in `tests/kafka_mock`.
fn k5_restarted_in_order(kafka: &mut Kafka, stack: &mut Stack) {
    let mut row = Row::start("K5", "the group's coordinator is restarted in order", KAFKA_BACK_WITHIN);
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);
    kafka.stop();
    row.refused("503 at the latest after the end", stack.until_refused(UNAVAILABLE, ANSWER_MAX));
    kafka.restart();
    let back = Instant::now();
    row.healed("first 200 after the restart", stack.until_served(back, KAFKA_BACK_WITHIN));
    row.history(&load.stop(), &[200, 503, 504]);
    stack.assert_healed(&mut row);
}

fn s11_kafka_and_redis_away(kafka: &mut Kafka, stack: &mut Stack) {
    let mut row = Row::start("S11", "Kafka and Redis are killed and restarted", KAFKA_BACK_WITHIN);
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);
    kafka.kill();
    stack.redis.kill();
    let refused = || {
        let (answer, took) = stack.post();
        (answer.is_ok_and(|answer| answer.status == 503)).then_some(took)
    };
    let took = wait_until(ANSWER_MAX, refused).expect("refused");
    assert!(took < REFUSED_WITHIN, "{took:?}");
    let slowest = (0..50).map(|_| refused().expect("refused")).max().unwrap_or_default();
    assert!(slowest < REFUSED_WITHIN, "{slowest:?}");
    row.refused("503, the slowest of 50", slowest);
    assert_ends(&row, settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));
    stack.redis.restart();
    kafka.restart();
    let back = Instant::now();
    row.healed("first 200 after both are back", stack.until_served(back, KAFKA_BACK_WITHIN));
    row.healed("ready after both are back", stack.until_ready(back, KAFKA_BACK_WITHIN));
    row.history(&load.stop(), &[200, 503, 504]);
    stack.assert_healed(&mut row);
}

#[test]
fn k4_topics_missing_at_start_and_deleted_later() {
    let mut row = Row::start("K4", "topics are missing at the start, and deleted later", KAFKA_BACK_WITHIN);
    let kafka = Kafka::shared();
    let (tasks, results) = ("k4-tasks".to_owned(), "k4-results".to_owned());
    kafka.create_topic(&results, 2);
    let redis = RedisServer::start_secured();
    let server = settings(kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    row.refused("topic_missing after the start", stack.until_refused(MISSING, WAIT_MAX));
    row.refused("503, the slowest of 20", stack.all_refused(MISSING, 20, REFUSED_WITHIN));
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    assert!(stack.server.metric("thousandx_limiter_granted_total") < 1.0, "no permit was asked for");

    kafka.create_topic(&stack.tasks, 2);
    let back = Instant::now();
    let _worker = Worker::start(kafka, &stack.tasks, &stack.results);
    row.healed("ready after the topic was made", stack.until_ready(back, KAFKA_BACK_WITHIN));
    row.healed("first 200 after the topic was made", stack.until_served(back, KAFKA_BACK_WITHIN));
    stack.assert_healed(&mut row);

    // Each topic once, and both: offsets of before are beyond the end of what is made anew.
    let both = [stack.tasks.clone(), stack.results.clone()];
    for gone in [&both[..1], &both[1..], &both[..]] {
        let load = stack.load();
        row.note("64 good answers before", many_served(&stack));
        for topic in gone {
            kafka.delete_topic(topic);
        }
        row.refused(&format!("topic_missing after {gone:?} was deleted"), stack.until_refused(MISSING, WAIT_MAX));
        row.refused("503, the slowest of 20", stack.all_refused(MISSING, 20, REFUSED_WITHIN));
        for topic in gone {
            kafka.create_topic(topic, 2);
        }
        let back = Instant::now();
        row.healed("ready after it was made again", stack.until_ready(back, KAFKA_BACK_WITHIN));
        row.healed("first 200 after it was made again", stack.until_served(back, KAFKA_BACK_WITHIN));
        row.history(&load.stop(), &[200, 503, 504]);
        row.note("64 good answers after", many_served(&stack));
        stack.assert_healed(&mut row);
    }
}

/// Deleted and made again so quickly that nobody may have looked in between.
#[test]
fn k4_topics_made_anew_at_once() {
    let mut row = Row::start("K4", "topics are deleted and made again at once", KAFKA_BACK_WITHIN);
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    let _worker = Worker::start(kafka, &stack.tasks, &stack.results);
    row.note("64 good answers before", many_served(&stack));
    let both = [stack.results.clone(), stack.tasks.clone()];
    for anew in [&both[..1], &both[1..], &both[..]] {
        let load = stack.load();
        many_served(&stack);
        for topic in anew {
            kafka.delete_topic(topic);
        }
        for topic in anew {
            kafka.create_topic(topic, 2);
        }
        let back = Instant::now();
        row.healed(&format!("first 200 after {anew:?} was made anew"), stack.until_served(back, KAFKA_BACK_WITHIN));
        row.note("64 good answers after", many_served(&stack));
        row.history(&load.stop(), &[200, 503, 504]);
        stack.assert_healed(&mut row);
    }
}

/// Until 64 requests in a row were answered 200: every partition, there and back, has had some.
pub fn many_served(stack: &Stack) -> Duration {
    let mut in_a_row = 0;
    let (served, took) = timed(|| {
        wait_until(WAIT_MAX, || {
            let served = stack.post().0.is_ok_and(|answer| answer.status == 200);
            in_a_row = if served { in_a_row + 1 } else { 0 };
            (in_a_row >= 64).then_some(())
        })
    });
    assert!(served.is_some(), "{in_a_row} in a row; log:\n{}", stack.server.log());
    took
}

#[test]
fn k8_partitions_added_under_load() {
    let mut row = Row::start("K8", "partitions are added to both topics", None);
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    // It knows the partitions of its start, as a worker does until its metadata is renewed: a task on a new one would
    // wait, a reply to a new one fail.
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    row.note("64 good answers before", many_served(&stack));
    kafka.grow_topic(&stack.results, 6);
    kafka.grow_topic(&stack.tasks, 8);
    let looked = || stack.server.log().contains("a reply partition was added").then_some(());
    let (seen, took) = timed(|| wait_until(WAIT_MAX, looked));
    assert!(seen.is_some(), "the new reply partitions are read; log:\n{}", stack.server.log());
    row.note("new reply partitions are read", took);
    row.note("64 good answers after", many_served(&stack));
    row.history(&load.stop(), &[200]);
    stack.assert_healed(&mut row);
}

#[test]
fn k7_more_wait_than_may() {
    const WAITING_MAX: usize = 8;
    const SENT: usize = 40;
    let mut row = Row::start("K7", "more tasks wait than may", None);
    let kafka = Kafka::shared();
    let redis = RedisServer::start_secured();
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
    let server = settings(kafka, &tasks, &results, &redis.url()).set("MAX_QUEUE_SIZE", WAITING_MAX.to_string()).start();
    let stack = Stack { redis, tasks, results, server };
    // Without a worker: who waits, waits for its deadline.
    let waiting: Vec<_> = (0..SENT).map(|_| stack.hold(0)).collect();
    let answers: Vec<_> = waiting.into_iter().map(answer).collect();
    let (late, full): (Vec<_>, Vec<_>) = answers.iter().partition(|(answer, _)| answer.status == 504);
    assert!((1..=WAITING_MAX).contains(&late.len()), "{} waited", late.len());
    for (answer, took) in &full {
        assert_eq!((answer.status, answer.code().as_deref()), (503, Some("broker_queue_full")));
        assert!(*took < REFUSED_WITHIN, "{took:?}");
    }
    let slowest = full.iter().map(|(_, took)| *took).max().unwrap_or_default();
    row.saw(format!("503 × {}, 504 × {}", full.len(), late.len()));
    row.refused("503, the slowest", slowest);
    let _worker = checker(kafka, &stack.tasks);
    stack.assert_healed(&mut row);
}

#[test]
fn s11_redis_back_before_kafka_is_told_apart() {
    let mut row = Row::start("S11", "topics are missing and Redis is away, which comes back first", None);
    row.saw("503 topic_missing");
    let kafka = Kafka::shared();
    let mut redis = RedisServer::start_secured();
    redis.kill();
    let server = settings(kafka, "never-made", "never-made-either", &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks: String::new(), results: String::new(), server };
    // Kafka is asked first: nothing is asked of Redis for a task that nobody could take.
    row.refused("topic_missing with Redis away", stack.until_refused(MISSING, WAIT_MAX));
    stack.redis.restart();
    let ready = wait_until(REDIS_BACK_WITHIN, || {
        let parts = stack.server.get("/readyz?verbose").ok()?.text();
        (parts.contains("[+] limiter 0") && parts.contains("[+] limiter 1")).then_some(())
    });
    assert!(ready.is_some(), "the limiter is ready: {}", stack.server.log());
    stack.all_refused(MISSING, 5, REFUSED_WITHIN);
    row.permits(size(&mut stack.redis.client()), Duration::ZERO);
}

#[test]
fn s11_names_that_do_not_resolve() {
    let mut row = Row::start("S11", "the names of Kafka and Redis do not resolve", None);
    row.saw("503");
    // RFC 2606: a name that never is one.
    let redis = RedisServer::start_secured();
    let builder = settings(Kafka::shared(), "k-names", "k-names-results", "redis://redis.invalid:6379");
    let server = builder.clone().set("KAFKA_BOOTSTRAP_SERVERS", "kafka.invalid:9092").start_unready();
    let stack = Stack { redis, tasks: String::new(), results: String::new(), server };
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row.refused("503 without names, the slowest of 20", stack.all_refused(UNAVAILABLE, 20, REFUSED_WITHIN));
    assert_ends(&row, builder);
}
