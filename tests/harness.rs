//! The test support tested itself: real Kafka that is used, killed and started again, the Python worker, the checker, the
//! response parser. What fails here makes the results of all other test files doubtful.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use support::checker::{Behaviour, Checker};
use support::kafka::Kafka;
use support::load::Load;
use support::python::PythonWorker;
use support::{metrics, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_killed_broker_comes_back_with_its_data() {
    let mut kafka = Kafka::start();
    let topic = kafka.topic("survives", 1);
    produce(&kafka, &topic, &[], b"before");
    kafka.kill();
    kafka.restart();
    produce(&kafka, &topic, &[], b"after");
    assert_eq!(consume(&kafka, &topic, 2), ["before", "after"]);
}

#[test]
fn topics_are_made_grown_and_deleted() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("grows", 1);
    kafka.grow_topic(&topic, 3);
    kafka.delete_topic(&topic);
}

#[test]
fn a_stopped_broker_goes_on() {
    let mut kafka = Kafka::start();
    let topic = kafka.topic("pauses", 1);
    kafka.sigstop();
    let producer: BaseProducer = kafka.client().create().expect("a producer");
    producer.send(BaseRecord::<(), _>::to(&topic).payload("held")).expect("a record is queued");
    assert!(producer.flush(Duration::from_millis(300)).is_err(), "a stopped broker acknowledges nothing");
    kafka.sigcont();
    producer.flush(LIMIT).expect("acknowledged after all");
    assert_eq!(consume(&kafka, &topic, 1), ["held"]);
}

#[test]
fn the_python_worker_answers_in_plain_json() {
    let kafka = Kafka::shared();
    let (tasks, results) = (kafka.topic("tasks", 2), kafka.topic("results", 1));
    let mut worker = PythonWorker::start(kafka, &tasks, &results);
    produce(kafka, &tasks, &[], br#"{"action":"get_gift_code","correlation_id":"one"}"#);
    let replies = consume(kafka, &results, 1);
    let reply: serde_json::Value = serde_json::from_str(&replies[0]).expect("JSON");
    assert_eq!(reply["correlation_id"], "one");
    assert!(reply["result"].as_str().is_some_and(|code| code.starts_with("GIFT-")), "{reply}");
    worker.process().sigterm();
    assert!(worker.process().wait_exit(LIMIT).success());
}

#[test]
fn the_checker_counts_what_it_holds() {
    let kafka = Kafka::shared();
    let (tasks, results) = (kafka.topic("tasks", 2), kafka.topic("results", 1));
    let checker = Checker::start(kafka, &tasks, |seen| match seen.body.as_slice() {
        b"never" => Behaviour::Never,
        b"twice" => Behaviour::Twice(Duration::ZERO),
        _ => Behaviour::Answer(Duration::from_millis(200)),
    });
    let headers = |id: &'static str| [("kafka_correlationId", id.as_bytes()), ("kafka_replyTopic", results.as_bytes())];
    for (id, body) in [("1", "held"), ("2", "held"), ("3", "never")] {
        produce(kafka, &tasks, &headers(id), body.as_bytes());
    }
    assert_eq!(consume(kafka, &results, 2), ["held", "held"]);
    produce(kafka, &tasks, &headers("4"), b"twice");
    assert_eq!(consume(kafka, &results, 4)[2..], ["twice", "twice"]);
    let counts = checker.counts();
    assert_eq!((counts.tasks, counts.replies, counts.without_id), (4, 4, 0));
    assert_eq!(counts.in_flight, 1, "the one without a deadline and without an answer");
    assert!((2..=3).contains(&counts.in_flight_max), "{counts:?}");
    assert_eq!(checker.history().iter().filter(|seen| seen.body == b"held").count(), 2);
}

#[test]
fn a_child_ends_with_its_owner() {
    let kafka = Kafka::start();
    let proc_entry = format!("/proc/{}", kafka.pid());
    assert!(std::fs::exists(&proc_entry).expect("proc can be read"));
    drop(kafka);
    assert!(!std::fs::exists(&proc_entry).expect("proc can be read"));
}

#[test]
fn the_load_client_tells_good_answers_from_bad() {
    let address = scripted_server(|number, body| match number {
        3 => Some(response("200 OK", "application/json", r#"{"nonce":"of another request"}"#)),
        5 => None,
        7 => Some(response("429 Too Many", "application/problem+json", r#"{"code":"capacity_reached"}"#)),
        8 => Some(response("503 Not Now", "text/html", "no problem document")),
        _ => Some(response("200 OK", "application/json", body)),
    });
    let report = Load::new(address).requests_max(10).duration(LIMIT).run();
    assert_eq!((report.sent, report.lost, report.wrong, report.hung), (10, 1, 2, 0), "{report:?}");
    assert_eq!((report.count(200), report.count(429), report.count(503)), (7, 1, 1));
    assert_eq!(report.by_code.get("capacity_reached"), Some(&1));
    assert_eq!((report.history.len(), report.latency_us.len()), (10, 7));
}

#[test]
fn the_load_client_gives_up_on_an_answer_that_never_comes() {
    // Accepted by the kernel's backlog, read by nobody.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = silent.local_addr().expect("an address");
    let report = Load::new(address).requests_max(1).answer_limit(Duration::from_millis(50)).run();
    assert_eq!((report.sent, report.hung), (1, 1), "{report:?}");
}

#[test]
fn metrics_are_summed_over_the_labels_not_asked_for() {
    let text =
        "# HELP a_total text\na_total{code=\"x\",shard=\"0\"} 2\na_total{shard=\"1\",code=\"x\"} 3\nab_total 9\n";
    assert_eq!(metrics::value(text, "a_total"), Some(5.0));
    assert_eq!(metrics::value(text, r#"a_total{code="x"}"#), Some(5.0));
    assert_eq!(metrics::value(text, r#"a_total{shard="1"}"#), Some(3.0));
    assert_eq!(metrics::value(text, r#"a_total{code="y"}"#), None);
}

mod parser {
    use super::support::http::{Method, Response, parse};

    fn whole(input: &[u8]) -> (Response, usize) {
        parse(input, Method::Other, false).expect("HTTP").expect("complete")
    }

    #[test]
    fn a_declared_length_is_taken_exactly() {
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nokHTTP/1.1 ";
        let (response, used) = whole(input);
        assert_eq!((response.status, response.text().as_str(), response.header("x-a")), (200, "ok", Some("b")));
        assert_eq!(&input[used..], b"HTTP/1.1 ");
    }

    #[test]
    fn chunks_are_joined() {
        let input =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\na;x=1\r\n0123456789\r\n0\r\n\r\nrest";
        let (response, used) = whole(input);
        assert_eq!(response.text(), "abc0123456789");
        assert_eq!(&input[used..], b"rest");
    }

    #[test]
    fn every_shorter_prefix_is_incomplete() {
        for input in [
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc".as_slice(),
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ] {
            for length in 0..input.len() {
                assert_eq!(parse(&input[..length], Method::Other, false), Ok(None), "{length} bytes");
            }
            assert!(matches!(parse(input, Method::Other, false), Ok(Some((_, used))) if used == input.len()));
        }
    }

    #[test]
    fn without_a_length_the_body_goes_on_to_the_end() {
        let input = b"HTTP/1.1 200 OK\r\n\r\nall of it";
        assert_eq!(parse(input, Method::Other, false), Ok(None));
        let (response, _) = parse(input, Method::Other, true).expect("HTTP").expect("complete");
        assert_eq!(response.text(), "all of it");
    }

    #[test]
    fn some_responses_have_no_body() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let (response, used) = parse(head, Method::Head, false).expect("HTTP").expect("complete");
        assert_eq!((response.body.len(), used), (0, head.len()));
        let (response, used) = whole(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n");
        assert_eq!((response.status, used), (100, 25));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for input in [
            b"SSH-2.0-x\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n",
        ] {
            assert!(parse(input, Method::Other, false).is_err(), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn a_problem_document_has_a_code() {
        let body = r#"{"code":"capacity_reached"}"#;
        let length = body.len();
        let head =
            format!("HTTP/1.1 429 T\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\r\n");
        let (response, _) = whole(format!("{head}{body}").as_bytes());
        assert_eq!(response.code().as_deref(), Some("capacity_reached"));
    }
}

// === helpers

fn response(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Answers the requests on one connection at a time as `script` says by their number, from 1; `None` ends the connection.
/// Its thread ends with the test binary.
fn scripted_server(script: impl Fn(u32, &str) -> Option<String> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut number = 0;
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            while let Some(body) = read_request(&mut stream) {
                number += 1;
                let Some(answer) = script(number, &body) else { break };
                stream.get_mut().write_all(answer.as_bytes()).expect("an answer is taken");
            }
        }
    });
    address
}

/// The body of one request; `None` at the end of the connection.
fn read_request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a whole body");
            return Some(String::from_utf8(body).expect("text"));
        }
    }
}

fn produce(kafka: &Kafka, topic: &str, headers: &[(&str, &[u8])], value: &[u8]) {
    let producer: BaseProducer = kafka.client().create().expect("a producer");
    let mut owned = OwnedHeaders::new();
    for (key, value) in headers {
        owned = owned.insert(Header { key, value: Some(*value) });
    }
    assert_eq!(owned.count(), headers.len());
    producer.send(BaseRecord::<(), _>::to(topic).payload(value).headers(owned)).expect("a record is queued");
    producer.flush(LIMIT).expect("a record is acknowledged");
}

/// The first `count` values of partition 0, from its beginning.
fn consume(kafka: &Kafka, topic: &str, count: usize) -> Vec<String> {
    let consumer: BaseConsumer = kafka.client().set("group.id", "not-used").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
    consumer.assign(&list).expect("partitions can be assigned");
    let mut values = Vec::new();
    let complete = wait_until(LIMIT, || {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            values.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
        }
        (values.len() >= count).then_some(())
    });
    assert!(complete.is_some(), "{topic} has only {values:?}");
    values
}
