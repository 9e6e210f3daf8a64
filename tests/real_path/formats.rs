//! Several instances on the same topics, in both ways of routing replies; and the template's format with its worker.

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::SOON;
use crate::support::load::{Load, Report, Running};
use crate::support::python::PythonWorker;
use crate::support::server::Server;
use crate::support::stack::Stack;

/// Requests of each client at the most: enough for every instance to meet the others' replies.
const REQUESTS: u64 = 20;

fn load(server: &Server) -> Running {
    Load::new(server.address()).connections(8).requests_max(REQUESTS).duration(SOON).start()
}

fn assert_all_answered(report: &Report) {
    report.assert_sound();
    assert_eq!(report.count(200), report.sent, "{report:?}");
}

fn replies(server: &Server, result: &str) -> f64 {
    server.metric(&format!("thousandx_replies_total{{result=\"{result}\"}}"))
}

#[test]
fn instances_share_the_replies_and_each_keeps_its_own() {
    let stack = Stack::new();
    let _worker = stack.worker();
    let servers: Vec<Server> = (0..3).map(|_| stack.serve().start_unready()).collect();
    let servers = servers.into_iter().map(|mut server| {
        server.wait_ready(true, 3 * SOON);
        server
    });
    let servers: Vec<Server> = servers.collect();
    let loads: Vec<Running> = servers.iter().map(load).collect();
    let sent: Vec<u64> = loads
        .into_iter()
        .map(|load| {
            let report = load.join();
            assert_all_answered(&report);
            report.sent
        })
        .collect();
    let total: u64 = sent.iter().sum();
    for (server, sent) in servers.iter().zip(sent) {
        let others = format!("{}", total - sent);
        server.wait_metric(r#"thousandx_replies_total{result="foreign"}"#, SOON, |count| count.to_string() == others);
        assert_eq!(replies(server, "delivered").to_string(), sent.to_string());
    }
    stack.wait_permits(0, SOON);
}

#[test]
fn with_own_partitions_nobody_reads_the_others_replies() {
    let stack = Stack::with_partitions(4, 4);
    let _worker = stack.worker();
    let start = |own: &str| stack.serve().set("REPLY_ROUTING", "partition").set("REPLY_PARTITIONS", own).start();
    let servers = [start("0,1"), start("2-3")];
    let loads = servers.each_ref().map(load);
    for (load, server) in loads.into_iter().zip(&servers) {
        let report = load.join();
        assert_all_answered(&report);
        assert_eq!(server.metric("thousandx_reply_records_total").to_string(), report.sent.to_string());
        assert_eq!(replies(server, "foreign").to_string(), "0");
    }
    stack.wait_permits(0, SOON);
}

#[test]
fn the_documents_worker_answers() {
    let stack = Stack::new();
    let server = stack.serve().start();
    let producer: BaseProducer = stack.kafka.client().create().expect("a producer");
    let foreign = BaseRecord::<(), str>::to(&stack.tasks).payload("somebody else's record");
    producer.send(foreign).expect("a record is queued");
    producer.flush(SOON).expect("the record is with Kafka");
    let mut worker = PythonWorker::start_script("docs/worker.py", stack.kafka, &stack.tasks, &stack.results);
    for (task, status, answer) in [
        (r#"{"double":21}"#, 200, r#"{"doubled": 42}"#),
        (r#"{"double":"x"}"#, 422, r#"{"error": "double: a number"}"#),
    ] {
        let got = server.post(task, SOON).expect("an answer");
        assert_eq!((got.status, got.text().as_str()), (status, answer), "{task}");
    }
    let failed = server.post("[1]", SOON).expect("an answer");
    assert_eq!((failed.status, failed.code().as_deref()), (502, Some("worker_error")), "{}", failed.text());
    assert!(failed.text().contains("unknown_task"), "{}", failed.text());
    stack.wait_permits(0, SOON);
    worker.process().sigterm();
    assert!(worker.process().wait_exit(SOON).success(), "{}", worker.process().log());
}

#[test]
fn the_templates_worker_answers_in_the_templates_format() {
    let stack = Stack::new();
    let server = stack.serve().set("TASK_FORMAT", "json").start();
    let _worker = PythonWorker::start(stack.kafka, &stack.tasks, &stack.results);
    for body in ["", r#"{"action":"get_gift_code"}"#, "{ \"n\" : \"ü\", \"action\":\"get_gift_code\" } "] {
        let answer = server.post(body, SOON).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        assert!(json["gift_code"].as_str().is_some_and(|code| code.starts_with("GIFT-")), "{json}");
        assert_eq!(json["request_id"].as_str(), answer.header("x-request-id"), "{json}");
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(2), "{json}");
    }
    // The template's way to say that a task failed.
    let failed = server.post(r#"{"action":"dance"}"#, SOON).expect("an answer");
    assert_eq!((failed.status, failed.code().as_deref()), (502, Some("worker_error")), "{}", failed.text());
    for body in ["[1]", "1", "\"{}\"", "null"] {
        let refused = server.post(body, SOON).expect("an answer");
        assert_eq!((refused.status, refused.code().as_deref()), (400, Some("bad_request")), "{body}");
        assert!(refused.text().contains("TASK_FORMAT"), "{}", refused.text());
    }
    stack.wait_permits(0, SOON);
}
