//! The other commands: `topics`, `probe`, `work`.

use std::time::Duration;

use crate::SOON;
use crate::support::checker::Behaviour;
use crate::support::kafka::Kafka;
use crate::support::redis::RedisServer;
use crate::support::server::{Builder, Server};
use crate::support::stack::Stack;

fn topics(kafka: &Kafka, tasks: u32, results: u32) -> Builder {
    let partitions = |builder: Builder| {
        builder.set("TASKS_PARTITIONS", tasks.to_string()).set("RESULTS_PARTITIONS", results.to_string())
    };
    partitions(Server::builder().command("topics").kafka(kafka, "made-tasks", "made-results"))
}

/// Exit code and output of a command that ends by itself.
fn run(builder: &Builder) -> (Option<i32>, String) {
    let mut process = builder.spawn();
    let status = process.wait_exit(Duration::from_secs(30));
    (status.code(), process.log())
}

#[test]
fn topics_are_made_once_and_checked_then() {
    let kafka = Kafka::shared();
    let (code, log) = run(&topics(kafka, 3, 2));
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("created made-tasks with 3 partitions"), "{log}");
    let (code, log) = run(&topics(kafka, 3, 2));
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("made-results exists with 2 partitions"), "{log}");
    assert!(!log.contains("warning"), "nothing differs: {log}");
    let other = topics(kafka, 3, 2)
        .set("TOPIC_REPLICATION", "2")
        .set("TOPIC_RETENTION_MS", "1000")
        .set("MAX_BODY_BYTES", "2000000");
    let (code, log) = run(&other);
    assert_eq!(code, Some(0), "{log}");
    for difference in [
        "warning: made-tasks has replication 1, and TOPIC_REPLICATION asks for 2",
        "warning: made-results has retention.ms=3600000, and TOPIC_RETENTION_MS asks for 1000",
        "warning: made-results has max.message.bytes=1065088, and MAX_BODY_BYTES asks for 2016512",
    ] {
        assert!(log.contains(difference), "{difference}\nis missing in:\n{log}");
    }
    assert_eq!(run(&topics(kafka, 2, 1)).0, Some(0), "more partitions than asked for are fine");
    let (code, log) = run(&topics(kafka, 3, 5));
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("made-results exists with 2 partitions and RESULTS_PARTITIONS asks for 5"), "{log}");
}

#[test]
fn the_largest_body_fits_the_topics_that_were_made() {
    let (kafka, redis) = (Kafka::shared(), RedisServer::start());
    let (tasks, results) = ("large-tasks", "large-results");
    let (code, log) = run(&Server::builder().command("topics").kafka(kafka, tasks, results));
    assert_eq!(code, Some(0), "{log}");
    let stack = Stack { kafka, redis, tasks: tasks.into(), results: results.into() };
    let _checker = stack.checker(|_| Behaviour::Answer(Duration::ZERO));
    let largest = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
    let server = stack.serve().start();
    let answer = server.post(&largest, SOON).expect("an answer");
    assert!(answer.status == 200 && answer.body == largest.as_bytes(), "{} {:.200}", answer.status, answer.text());

    // Topics that somebody else made take less by default.
    let stack = Stack::new();
    let server = stack.serve().start();
    let answer = server.post(&largest, SOON).expect("an answer");
    assert_eq!((answer.status, answer.code().as_deref()), (413, Some("body_too_large")), "{}", answer.text());
    stack.wait_permits(0, SOON);
}

#[test]
fn topics_without_a_broker_say_so() {
    let broken = Server::builder()
        .command("topics")
        .set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", crate::support::free_port()));
    let (code, log) = run(&broken);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("no answer from Kafka at 127.0.0.1:"), "{log}");
}

#[test]
fn the_probe_says_whether_a_server_is_ready() {
    let stack = Stack::new();
    let mut server = stack.serve().start();
    let probe = |server: &Server| {
        let port = server.address().port().to_string();
        let mut probe = Server::builder().command("probe").set("PORT", port).spawn();
        (probe.wait_exit(SOON).code(), probe.log())
    };
    let (code, log) = probe(&server);
    assert_eq!(code, Some(0), "{log}");
    // A Redis that is away: not ready, and the parts are named.
    stack.redis.sigstop();
    server.wait_ready(false, SOON);
    let (code, log) = probe(&server);
    assert!(code == Some(1) && log.contains("503") && log.contains("limiter"), "{log}");
    stack.redis.sigcont();
    server.wait_ready(true, SOON);
    server.kill9();
    let (code, log) = probe(&server);
    assert_eq!(code, Some(1), "{log}");
}

#[test]
fn the_worker_ends_in_order() {
    let stack = Stack::new();
    let server = stack.serve().start();
    let mut worker = stack.worker();
    assert_eq!(server.post("{}", SOON).expect("an answer").status, 200);
    worker.process().sigterm();
    let status = worker.process().wait_exit(SOON);
    assert_eq!(status.code(), Some(0), "{}", worker.process().log());
    // What it answered is committed: the next worker does not do it again.
    let mut next = stack.worker();
    assert_eq!(server.post("{}", SOON).expect("an answer").status, 200);
    next.process().sigterm();
    next.process().wait_exit(SOON);
    assert!(next.process().log().contains("answered=1"), "{}", next.process().log());
}
