//! Kafka is away, hangs, has no topic, takes no record of that size. The tests that kill or stop it have a node of their
//! own, and one node goes through several faults, because its start is what takes the time.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::stack::{ANSWER_MAX, SET, Stack, answer, assert_ends, assert_sound, checker, settings, size};
use crate::support::http::{Raw, post, post_queue};
use crate::support::kafka::Kafka;
use crate::support::redis::RedisServer;
use crate::support::server::Worker;
use crate::support::wait_until;
use crate::{KAFKA_BACK_WITHIN, REDIS_BACK_WITHIN, REFUSED_WITHIN, WAIT_MAX, row, timed};

const UNAVAILABLE: &str = "broker_unavailable";
const MISSING: &str = "topic_missing";
/// A hung broker still has its connections: it is known by an answer that does not come, for a second, every half.
const HUNG_WITHIN: Duration = Duration::from_secs(3);
/// "At once" after SIGCONT.
const CONTINUED_WITHIN: Duration = Duration::from_secs(4);

#[test]
fn k1_k2_k3_s11_down_killed_hung_and_both_away() {
    let mut kafka = Kafka::start();
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 2));
    // A real worker and not the checker: it has to live through all of this too.
    let _worker = Worker::start(&kafka, &tasks, &results);
    kafka.kill();
    let redis = RedisServer::start();
    let server = settings(&kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    k1_down_at_start(&mut kafka, &mut stack);
    k2_killed_under_load(&mut kafka, &mut stack);
    k3_hung_under_load(&mut kafka, &mut stack);
    s11_kafka_and_redis_away(&mut kafka, &mut stack);
}

fn k1_down_at_start(kafka: &mut Kafka, stack: &mut Stack) {
    assert_eq!(stack.server.get("/livez").expect("an answer").status, 200);
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row("K1", "503, the slowest of 20", stack.all_refused(UNAVAILABLE, 20, REFUSED_WITHIN));
    assert!(stack.server.metric("thousandx_limiter_granted_total") < 1.0, "no permit was asked for");
    assert_eq!(size(&mut stack.redis.client()), 0);

    kafka.restart();
    let back = Instant::now();
    row("K1", "ready after the start of Kafka", stack.until_ready(back, KAFKA_BACK_WITHIN));
    row("K1", "first 200 after the start of Kafka", stack.until_served(back, KAFKA_BACK_WITHIN));
    stack.assert_healed("K1");
}

/// Asked from the first moment on, a server refuses until it could read the reply: nobody waits for his deadline.
#[test]
fn k1_posting_from_before_the_server_is_ready() {
    let kafka = Kafka::shared();
    // Many positions have to be fixed before the first task may go out.
    let (tasks, results) = (kafka.topic("tasks", 4), kafka.topic("results", 64));
    let redis = RedisServer::start();
    let _worker = checker(kafka, &tasks);
    let server = settings(kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    for _ in 0..3 {
        let load = stack.load();
        row("K1", "first 200 under load", stack.until_served(Instant::now(), KAFKA_BACK_WITHIN));
        row("K1", "64 good answers", many_served(&stack));
        assert_sound(&load.stop(), &[200, 503]);
        stack.until_idle(WAIT_MAX);
        stack.server = settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()).start_unready();
    }
}

fn k2_killed_under_load(kafka: &mut Kafka, stack: &mut Stack) {
    for round in ["K2 first", "K2 again"] {
        let load = stack.load();
        stack.until_served(Instant::now(), WAIT_MAX);
        kafka.kill();
        // The first of these may be in flight when the broker goes, and wait for its deadline.
        row(round, "503 at the latest after the kill", stack.until_refused(UNAVAILABLE, ANSWER_MAX));
        row(round, "503, the slowest of 100", stack.all_refused(UNAVAILABLE, 100, REFUSED_WITHIN));
        assert!(!stack.server.is_ready());
        assert_ends(round, settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));

        kafka.restart();
        let back = Instant::now();
        row(round, "ready after the restart", stack.until_ready(back, KAFKA_BACK_WITHIN));
        row(round, "first 200 after the restart", stack.until_served(back, KAFKA_BACK_WITHIN));
        assert_sound(&load.stop(), &[200, 503, 504]);
        stack.assert_healed(round);
    }
}

fn k3_hung_under_load(kafka: &mut Kafka, stack: &mut Stack) {
    let load = stack.load();
    stack.until_served(Instant::now(), WAIT_MAX);
    kafka.sigstop();
    let caught = stack.hold(0);
    row("K3", "not ready after SIGSTOP", timed(|| stack.server.wait_ready(false, HUNG_WITHIN)).1);
    row("K3", "503, the slowest of 20", stack.all_refused(UNAVAILABLE, 20, REFUSED_WITHIN));
    assert_ends("K3", settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));
    // Sent before the hang was known: given up after KAFKA_DELIVERY_TIMEOUT_MS, or at the deadline.
    let (caught, took) = answer(caught);
    assert!([503, 504].contains(&caught.status), "{}", caught.text());
    assert!(took < ANSWER_MAX, "{took:?}");
    row("K3", &format!("{} for what was sent before the hang was known", caught.status), took);
    kafka.sigcont();
    let back = Instant::now();
    row("K3", "ready after SIGCONT", stack.until_ready(back, CONTINUED_WITHIN));
    // The broker may have forgotten the worker meanwhile, and let it in only when its old session is over (6 s).
    row("K3", "first 200 after SIGCONT", stack.until_served(back, KAFKA_BACK_WITHIN));
    let report = load.stop();
    let slowest = report.history.iter().map(|exchange| exchange.end.saturating_sub(exchange.start)).max();
    row("K3", "slowest answer of the load", slowest.unwrap_or_default());
    assert_sound(&report, &[200, 503, 504]);
    stack.assert_healed("K3");
}

fn s11_kafka_and_redis_away(kafka: &mut Kafka, stack: &mut Stack) {
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
    row("S11", "503, the slowest of 50", slowest);
    assert_ends("S11", settings(kafka, &stack.tasks, &stack.results, &stack.redis.url()));
    stack.redis.restart();
    kafka.restart();
    let back = Instant::now();
    row("S11", "first 200 after both are back", stack.until_served(back, KAFKA_BACK_WITHIN));
    row("S11", "ready after both are back", stack.until_ready(back, KAFKA_BACK_WITHIN));
    assert_sound(&load.stop(), &[200, 503, 504]);
    stack.assert_healed("S11");
}

#[test]
fn k4_topics_missing_at_start_and_deleted_later() {
    let kafka = Kafka::shared();
    let (tasks, results) = ("k4-tasks".to_owned(), "k4-results".to_owned());
    kafka.create_topic(&results, 2);
    let redis = RedisServer::start();
    let server = settings(kafka, &tasks, &results, &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks, results, server };
    row("K4", "topic_missing after the start", stack.until_refused(MISSING, WAIT_MAX));
    row("K4", "503, the slowest of 20", stack.all_refused(MISSING, 20, REFUSED_WITHIN));
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    assert!(stack.server.metric("thousandx_limiter_granted_total") < 1.0, "no permit was asked for");

    kafka.create_topic(&stack.tasks, 2);
    let back = Instant::now();
    let _worker = Worker::start(kafka, &stack.tasks, &stack.results);
    row("K4", "ready after the topic was made", stack.until_ready(back, KAFKA_BACK_WITHIN));
    row("K4", "first 200 after the topic was made", stack.until_served(back, KAFKA_BACK_WITHIN));
    stack.assert_healed("K4");

    // Each topic once, and both: offsets of before are beyond the end of what is made anew.
    let both = [stack.tasks.clone(), stack.results.clone()];
    for gone in [&both[..1], &both[1..], &both[..]] {
        let load = stack.load();
        row("K4", "64 good answers before", many_served(&stack));
        for topic in gone {
            kafka.delete_topic(topic);
        }
        row("K4", &format!("topic_missing after {gone:?} was deleted"), stack.until_refused(MISSING, WAIT_MAX));
        row("K4", "503, the slowest of 20", stack.all_refused(MISSING, 20, REFUSED_WITHIN));
        for topic in gone {
            kafka.create_topic(topic, 2);
        }
        let back = Instant::now();
        row("K4", "ready after it was made again", stack.until_ready(back, KAFKA_BACK_WITHIN));
        row("K4", "first 200 after it was made again", stack.until_served(back, KAFKA_BACK_WITHIN));
        assert_sound(&load.stop(), &[200, 503, 504]);
        row("K4", "64 good answers after", many_served(&stack));
        stack.assert_healed("K4");
    }
}

/// Deleted and made again so quickly that nobody may have looked in between.
#[test]
fn k4_topics_made_anew_at_once() {
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    let _worker = Worker::start(kafka, &stack.tasks, &stack.results);
    row("K4", "64 good answers before", many_served(&stack));
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
        row("K4", &format!("first 200 after {anew:?} was made anew"), stack.until_served(back, KAFKA_BACK_WITHIN));
        row("K4", "64 good answers after", many_served(&stack));
        assert_sound(&load.stop(), &[200, 503, 504]);
        stack.assert_healed("K4");
    }
}

/// Until 64 requests in a row were answered 200: every partition, there and back, has had some.
fn many_served(stack: &Stack) -> Duration {
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
fn k6_task_too_large_for_the_topic() {
    /// Of the topic; the server's own limit is a MiB.
    const TOPIC_BYTES_MAX: usize = 20_000;
    let kafka = Kafka::shared();
    let (tasks, results) = ("k6-tasks".to_owned(), "k6-results".to_owned());
    create_small_topic(kafka, &tasks, TOPIC_BYTES_MAX);
    kafka.create_topic(&results, 2);
    let redis = RedisServer::start();
    let server = settings(kafka, &tasks, &results, &redis.url()).start();
    let stack = Stack { redis, tasks, results, server };
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let (answer, took) = timed(|| too_large(&stack, TOPIC_BYTES_MAX + 1_000));
        slowest = slowest.max(took);
        assert_eq!(answer, (413, Some("body_too_large".into())), "log:\n{}", stack.server.log());
        assert!(took < REFUSED_WITHIN, "{took:?}");
    }
    row("K6", "413 from the broker, the slowest of 200", slowest);
    // Refused by its length alone, before it is sent.
    let (answer, took) = timed(|| {
        let mut connection = Raw::connect(stack.server.address());
        connection.send(b"POST /queue HTTP/1.1\r\nhost: test\r\ncontent-length: 1048577\r\n\r\n");
        connection.response(REFUSED_WITHIN)
    });
    assert_eq!(answer.expect("an answer").code().as_deref(), Some("body_too_large"));
    row("K6", "413 by content-length", took);
    // Who travelled in one batch with a task that is too large is not told that his own is, but to send it again.
    let report = load.stop();
    assert_sound(&report, &[200, 503]);
    // A task that the broker refused is no reply.
    let delivered = stack.server.metric(r#"thousandx_replies_total{result="delivered"}"#);
    assert!((delivered - f64::from(u32::try_from(report.count(200)).expect("few"))).abs() < 0.5, "{delivered}");
    row("K6", &format!("{} of {} small tasks had to be sent again", report.count(503), report.sent), slowest);
    stack.assert_healed("K6");
}

#[test]
fn k6_many_that_fit_are_not_too_large_together() {
    /// Of a body; with its headers it always fits the topic. Eight of them in one batch would not.
    const BODY_BYTES_MAX: usize = 3_000;
    let kafka = Kafka::shared();
    let (tasks, results) = ("k6-many-tasks".to_owned(), "k6-many-results".to_owned());
    create_small_topic(kafka, &tasks, BODY_BYTES_MAX + 17_000);
    kafka.create_topic(&results, 2);
    let redis = RedisServer::start();
    let server = settings(kafka, &tasks, &results, &redis.url())
        .set("MAX_BODY_BYTES", BODY_BYTES_MAX.to_string())
        .set("KAFKA_CONFIG", "linger.ms=20")
        .start();
    let stack = Stack { redis, tasks, results, server };
    let _worker = checker(kafka, &stack.tasks);
    let body = format!(r#"{{"pad":"{}"}}"#, "x".repeat(BODY_BYTES_MAX - 20));
    let (answers, took) = timed(|| {
        let one = || {
            let (address, body) = (stack.server.address(), body.clone());
            std::thread::spawn(move || post(address, &body, ANSWER_MAX).expect("an answer").status)
        };
        let waiting: Vec<_> = (0..50).map(|_| one()).collect();
        waiting.into_iter().map(|thread| thread.join().expect("a request")).collect::<Vec<_>>()
    });
    assert_eq!(answers, [200; 50]);
    row("K6", "50 times 200 at once, together larger than a batch may be", took);
    stack.assert_healed("K6");
}

#[test]
fn k8_partitions_added_under_load() {
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    // It knows the partitions of its start, as a worker does until its metadata is renewed: a task on a new one would
    // wait, a reply to a new one fail.
    let _worker = checker(kafka, &stack.tasks);
    let load = stack.load();
    row("K8", "64 good answers before", many_served(&stack));
    kafka.grow_topic(&stack.results, 6);
    kafka.grow_topic(&stack.tasks, 8);
    let looked = || stack.server.log().contains("a reply partition was added").then_some(());
    let (seen, took) = timed(|| wait_until(WAIT_MAX, looked));
    assert!(seen.is_some(), "the new reply partitions are read; log:\n{}", stack.server.log());
    row("K8", "new reply partitions are read", took);
    row("K8", "64 good answers after", many_served(&stack));
    assert_sound(&load.stop(), &[200]);
    stack.assert_healed("K8");
}

#[test]
fn k7_more_wait_than_may() {
    const WAITING_MAX: usize = 8;
    const SENT: usize = 40;
    let kafka = Kafka::shared();
    let redis = RedisServer::start();
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
    row("K7", &format!("503 for {} of {SENT}, the slowest", full.len()), slowest);
    let _worker = checker(kafka, &stack.tasks);
    stack.assert_healed("K7");
}

/// A task of so many bytes that does not fit: status and code.
fn too_large(stack: &Stack, bytes: usize) -> (u16, Option<String>) {
    let body = format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes));
    let answer = post(stack.server.address(), &body, ANSWER_MAX).expect("an answer");
    (answer.status, answer.code())
}

#[test]
fn k6_the_largest_body_at_the_default_limits() {
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let fits = format!(r#"{{"pad":"{}"}}"#, "x".repeat(1_000_000));
    let mut connection = Raw::connect(stack.server.address());
    connection.send(&post_queue(&fits));
    let (answer, took) = timed(|| connection.response(ANSWER_MAX).expect("an answer"));
    assert_eq!((answer.status, answer.body.len()), (200, fits.len()), "{:?}", answer.code());
    row("K6", "200 for a body of 1 MB", took);
    // MAX_BODY_BYTES exactly: with its headers it is larger than the broker's default.
    let (answer, took) = timed(|| too_large(&stack, 1_048_576 - r#"{"pad":""}"#.len()));
    assert_eq!(answer, (413, Some("body_too_large".into())));
    row("K6", "413 for a body of 1 MiB", took);
    stack.assert_healed("K6");
}

fn create_small_topic(kafka: &Kafka, name: &str, bytes_max: usize) {
    let bytes_max = bytes_max.to_string();
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().expect("a Kafka admin client");
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("max.message.bytes", &bytes_max);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let options = AdminOptions::new().operation_timeout(Some(WAIT_MAX));
    let results = runtime.block_on(admin.create_topics([&topic], &options)).expect("create topics");
    assert!(results.iter().all(Result::is_ok), "create {name}: {results:?}");
}

#[test]
fn s11_redis_back_before_kafka_is_told_apart() {
    let kafka = Kafka::shared();
    let mut redis = RedisServer::start();
    redis.kill();
    let server = settings(kafka, "never-made", "never-made-either", &redis.url()).start_unready();
    let mut stack = Stack { redis, tasks: String::new(), results: String::new(), server };
    // Kafka is asked first: nothing is asked of Redis for a task that nobody could take.
    row("S11", "topic_missing with Redis away", stack.until_refused(MISSING, WAIT_MAX));
    stack.redis.restart();
    let ready = wait_until(REDIS_BACK_WITHIN, || {
        let parts = stack.server.get("/readyz?verbose").ok()?.text();
        (parts.contains("[+] limiter 0") && parts.contains("[+] limiter 1")).then_some(())
    });
    assert!(ready.is_some(), "the limiter is ready: {}", stack.server.log());
    stack.all_refused(MISSING, 5, REFUSED_WITHIN);
    assert_eq!(size(&mut stack.redis.client()), 0, "{SET} is empty");
}

#[test]
fn s11_names_that_do_not_resolve() {
    // RFC 2606: a name that never is one.
    let redis = RedisServer::start();
    let builder = settings(Kafka::shared(), "k-names", "k-names-results", "redis://redis.invalid:6379");
    let server = builder.clone().set("KAFKA_BOOTSTRAP_SERVERS", "kafka.invalid:9092").start_unready();
    let stack = Stack { redis, tasks: String::new(), results: String::new(), server };
    assert_eq!(stack.server.get("/readyz").expect("an answer").status, 503);
    row("S11", "503 without names, the slowest of 20", stack.all_refused(UNAVAILABLE, 20, REFUSED_WITHIN));
    assert_ends("S11", builder);
}
