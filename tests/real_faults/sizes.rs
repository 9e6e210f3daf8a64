//! Tasks that the broker does not take because of their size.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::stack::{ANSWER_MAX, Stack, checker, settings};
use crate::support::canary;
use crate::support::http::{Raw, post, post_queue};
use crate::support::kafka::Kafka;
use crate::support::redis::RedisServer;
use crate::support::rows::Row;
use crate::{REFUSED_WITHIN, WAIT_MAX, timed};

#[test]
fn k6_task_too_large_for_the_topic() {
    /// Of the topic; the server's own limit is a MiB.
    const TOPIC_BYTES_MAX: usize = 20_000;
    let mut row = Row::start("K6", "tasks are too large for the topic", None);
    row.saw("413");
    let kafka = Kafka::shared();
    let (tasks, results) = ("k6-tasks".to_owned(), "k6-results".to_owned());
    create_small_topic(kafka, &tasks, TOPIC_BYTES_MAX);
    kafka.create_topic(&results, 2);
    let redis = RedisServer::start_secured();
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
    row.refused("413 from the broker, the slowest of 200", slowest);
    // Refused by its length alone, before it is sent.
    let (answer, took) = timed(|| {
        let mut connection = Raw::connect(stack.server.address());
        connection.send(b"POST /queue HTTP/1.1\r\nhost: test\r\ncontent-length: 1048577\r\n\r\n");
        connection.response(REFUSED_WITHIN)
    });
    assert_eq!(answer.expect("an answer").code().as_deref(), Some("body_too_large"));
    row.note("413 by content-length", took);
    // Who travelled in one batch with a task that is too large is not told that his own is, but to send it again.
    let report = load.stop();
    row.history(&report, &[200, 503]);
    // A task that the broker refused is no reply.
    let delivered = stack.server.metric(r#"thousandx_replies_total{result="delivered"}"#);
    assert!((delivered - f64::from(u32::try_from(report.count(200)).expect("few"))).abs() < 0.5, "{delivered}");
    row.note(&format!("{} of {} small tasks had to be sent again", report.count(503), report.sent), slowest);
    stack.assert_healed(&mut row);
}

#[test]
fn k6_many_that_fit_are_not_too_large_together() {
    /// Of a body; with its headers it always fits the topic. Eight of them in one batch would not.
    const BODY_BYTES_MAX: usize = 3_000;
    let mut row = Row::start("K6", "fifty tasks fit, together they would not", None);
    row.saw("200 × 50");
    let kafka = Kafka::shared();
    let (tasks, results) = ("k6-many-tasks".to_owned(), "k6-many-results".to_owned());
    create_small_topic(kafka, &tasks, BODY_BYTES_MAX + 17_000);
    kafka.create_topic(&results, 2);
    let redis = RedisServer::start_secured();
    let server = settings(kafka, &tasks, &results, &redis.url())
        .set("MAX_BODY_BYTES", BODY_BYTES_MAX.to_string())
        .set("KAFKA_CONFIG", format!("{};linger.ms=20", canary::kafka_config()))
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
    row.note("50 times 200 at once, together larger than a batch may be", took);
    stack.assert_healed(&mut row);
}

/// A task of so many bytes that does not fit: status and code.
fn too_large(stack: &Stack, bytes: usize) -> (u16, Option<String>) {
    let body = format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes));
    let answer = post(stack.server.address(), &body, ANSWER_MAX).expect("an answer");
    (answer.status, answer.code())
}

#[test]
fn k6_the_largest_body_at_the_default_limits() {
    let mut row = Row::start("K6", "bodies of 1 MB and of 1 MiB at the default limits", None);
    row.saw("200 and 413");
    let kafka = Kafka::shared();
    let stack = Stack::start(kafka);
    let _worker = checker(kafka, &stack.tasks);
    let fits = format!(r#"{{"pad":"{}"}}"#, "x".repeat(1_000_000));
    let mut connection = Raw::connect(stack.server.address());
    connection.send(&post_queue(&fits));
    let (answer, took) = timed(|| connection.response(ANSWER_MAX).expect("an answer"));
    assert_eq!((answer.status, answer.body.len()), (200, fits.len()), "{:?}", answer.code());
    row.note("200 for a body of 1 MB", took);
    // MAX_BODY_BYTES exactly: with its headers it is larger than the broker's default.
    let (answer, took) = timed(|| too_large(&stack, 1_048_576 - r#"{"pad":""}"#.len()));
    assert_eq!(answer, (413, Some("body_too_large".into())));
    row.refused("413 for a body of 1 MiB", took);
    stack.assert_healed(&mut row);
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
