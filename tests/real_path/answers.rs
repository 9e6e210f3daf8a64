//! One request, one answer: what the client gets for everything that a worker can say, and what the worker gets.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;

use crate::SOON;
use crate::support::checker::{Behaviour, Checker, Seen};
use crate::support::http::{Raw, Response, post};
use crate::support::server::Server;
use crate::support::stack::Stack;
use crate::support::wait_until;

/// The reply deadline of the shared server.
const DEADLINE: Duration = Duration::from_secs(2);
/// The broker takes 1,048,588 bytes with headers and framing.
const LARGEST: usize = 1_000_000;

/// What the tests of this file and of `strays` share.
pub struct Stage {
    pub stack: Stack,
    pub server: Server,
    pub checker: Checker,
}

pub static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let stack = Stack::new();
    let checker = stack.checker(as_told);
    let server = stack
        .serve()
        .set("KAFKA_GIFT_CODE_TIMEOUT", DEADLINE.as_secs().to_string())
        .set("KAFKA_DELIVERY_TIMEOUT_MS", "1500")
        .start();
    Stage { stack, server, checker }
});

/// The task's body says what the worker does; without `"do"` it is the answer.
fn as_told(seen: &Seen) -> Behaviour {
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let custom = |value: &str, headers: &[(&'static str, &str)]| {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes().to_vec())).collect();
        Behaviour::Custom(value.as_bytes().to_vec(), headers)
    };
    match body["do"].as_str().unwrap_or_default() {
        "never" => Behaviour::Never,
        "twice" => Behaviour::Twice(Duration::ZERO),
        "late" => Behaviour::Late(Duration::from_millis(200)),
        "garbage" => Behaviour::Garbage,
        "error" => Behaviour::Error("out_of_codes".into()),
        "huge" => Behaviour::Huge(900_000),
        "wrong-id" => Behaviour::WrongId(body["id"].as_str().unwrap_or_default().into()),
        "created" => custom("<made/>", &[("x-status", "201"), ("content-type", "application/xml")]),
        "nothing" => custom("", &[("x-status", "204")]),
        "teapot" => custom(r#"{"tea":1}"#, &[("x-status", "418")]),
        "bad-status" => custom("{}", &[("x-status", "99")]),
        "bad-type" => custom("{}", &[("content-type", "a\r\nset-cookie: b")]),
        "empty" => custom("", &[]),
        _ => Behaviour::Answer(Duration::ZERO),
    }
}

impl Stage {
    /// One request on a connection of its own.
    pub fn post(&self, body: &str) -> Response {
        self.server.post(body, DEADLINE + SOON).expect("an answer")
    }

    /// The task that carried this body.
    fn task(&self, body: &str) -> Seen {
        let history = self.checker.history();
        history.into_iter().find(|seen| seen.body == body.as_bytes()).expect("a task with this body")
    }
}

#[test]
fn the_sample_worker_answers() {
    let stack = Stack::new();
    let server = stack.serve().start();
    let _worker = stack.worker();
    for body in ["", "{}", r#"{"action":"get_gift_code"}"#, "[]"] {
        let answer = server.post(body, SOON).expect("an answer");
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let json = answer.json();
        assert_eq!(json["request_id"].as_str(), answer.header("x-request-id"), "{json}");
        let code = json["gift_code"].as_str().and_then(|code| code.strip_prefix("GIFT-")).expect("a gift code");
        assert!(code.len() == 8 && code.bytes().all(|byte| byte.is_ascii_hexdigit()), "{json}");
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(2), "{json}");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let client = reqwest::Client::new();
        let url = format!("http://{}/queue", server.address());
        for n in 0..20 {
            let answer = client.post(&url).json(&serde_json::json!({"n": n})).send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
            let answer: Value = answer.json().await.expect("JSON");
            assert_eq!(answer["n"], n, "its own answer");
        }
    });
    stack.wait_permits(0, SOON);
}

#[test]
fn every_body_goes_to_the_worker_and_back_byte_for_byte() {
    let large = format!("\"{}\"", "x".repeat(LARGEST - 2));
    let escaped = r#"{"a":"\u00fc\ud83c\udf81","b":[1.0,-0,1e400,null],"a":"twice"}"#;
    for body in ["0", "null", "\"grüße 🎁\"", "  { \"a\" : [ ] }\r\n", escaped, &large] {
        let answer = STAGE.post(body);
        let shown: String = body.chars().take(80).collect();
        assert_eq!(answer.status, 200, "{shown}: {}", answer.text());
        assert!(answer.body == body.as_bytes(), "{shown} came back as something else");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
    }
    assert_eq!(STAGE.post("").text(), r#"{"action":"get_gift_code"}"#, "what an empty body means");
}

#[test]
fn status_and_type_are_the_workers() {
    let created = STAGE.post(r#"{"do":"created"}"#);
    assert_eq!((created.status, created.text().as_str()), (201, "<made/>"));
    assert_eq!(created.header("content-type"), Some("application/xml"));
    let nothing = STAGE.post(r#"{"do":"nothing"}"#);
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    let teapot = STAGE.post(r#"{"do":"teapot"}"#);
    assert_eq!((teapot.status, teapot.text().as_str()), (418, r#"{"tea":1}"#));
    assert!(teapot.header("x-request-id").is_some());
}

#[test]
fn what_the_worker_cannot_do_is_a_bad_gateway() {
    let malformed = r#"thousandx_replies_total{result="malformed"}"#;
    let before = STAGE.server.metric(malformed);
    let failed = STAGE.post(r#"{"do":"error"}"#);
    assert_eq!((failed.status, failed.code().as_deref()), (502, Some("worker_error")), "{}", failed.text());
    assert!(failed.text().contains("out_of_codes"), "{}", failed.text());
    for (n, what) in (1..).zip(["garbage", "bad-status", "bad-type", "empty"]) {
        let answer = STAGE.post(&format!(r#"{{"do":"{what}"}}"#));
        assert_eq!((answer.status, answer.code().as_deref()), (502, Some("malformed_reply")), "{what}");
        assert_eq!(answer.json()["request_id"].as_str(), answer.header("x-request-id"));
        assert!(answer.header("set-cookie").is_none());
        assert!((STAGE.server.metric(malformed) - before - f64::from(n)).abs() < 0.5, "{what} is counted");
    }
    assert!(!STAGE.server.log().contains("not json"), "a payload is never logged");
}

#[test]
fn a_huge_reply_arrives_and_the_reader_goes_on() {
    let answer = STAGE.post(r#"{"do":"huge"}"#);
    assert_eq!((answer.status, answer.body.len()), (200, 900_000));
    assert_eq!(STAGE.post("1").text(), "1");
}

#[test]
fn the_task_carries_what_the_readme_says() {
    let body = r#"{"task":"with every header"}"#;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent_ms = unix_ms();
    let answer = post_with(
        &format!(
            "content-type: application/json; charset=utf-8\r\ntraceparent: {trace}\r\ntracestate: a=1\r\nx-request-id: mine.1\r\n"
        ),
        body,
    );
    assert_eq!(answer.header("x-request-id"), Some("mine.1"));
    let task = STAGE.task(body);
    let text = |name: &str| task.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let names: Vec<&str> = task.headers.keys().map(String::as_str).collect();
    let mut expected = [
        "content-type",
        "kafka_correlationId",
        "kafka_replyPartition",
        "kafka_replyTopic",
        "traceparent",
        "tracestate",
        "x-deadline-ms",
        "x-request-id",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let id = text("kafka_correlationId").expect("an id");
    assert!(id.len() == 36 && id.as_bytes()[14] == b'8' && id != "mine.1", "{id}");
    assert_eq!(text("kafka_replyTopic").as_deref(), Some(STAGE.stack.results.as_str()));
    let partition: [u8; 4] = task.headers["kafka_replyPartition"].as_slice().try_into().expect("4 bytes");
    assert!((0..2).contains(&i32::from_be_bytes(partition)));
    let deadline_ms: u128 = text("x-deadline-ms").and_then(|text| text.parse().ok()).expect("a number");
    let due = deadline_ms.saturating_sub(sent_ms);
    assert!((1_900..2_000 + SOON.as_millis()).contains(&due), "the deadline is {due} ms after the request");
    assert_eq!(text("content-type").as_deref(), Some("application/json; charset=utf-8"));
    assert_eq!((text("traceparent").as_deref(), text("tracestate").as_deref()), (Some(trace), Some("a=1")));
    assert_eq!(text("x-request-id").as_deref(), Some("mine.1"));
}

#[test]
fn a_clients_request_id_is_passed_only_when_it_is_harmless() {
    let hostile = "a\"b{}";
    let body = r#"{"task":"with a hostile id"}"#;
    let answer = post_with(&format!("x-request-id: {hostile}\r\nkafka_correlationId: forged\r\n"), body);
    let task = STAGE.task(body);
    let names: Vec<&str> = task.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["kafka_correlationId", "kafka_replyPartition", "kafka_replyTopic", "x-deadline-ms"]);
    assert_eq!(answer.header("x-request-id").map(str::as_bytes), Some(task.id.as_slice()), "the id is our own");
}

fn post_with(headers: &str, body: &str) -> Response {
    let mut connection = Raw::connect(STAGE.server.address());
    let length = body.len();
    connection
        .send(format!("POST /queue HTTP/1.1\r\nhost: a\r\n{headers}content-length: {length}\r\n\r\n{body}").as_bytes());
    let answer = connection.response(SOON).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

fn unix_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis()
}

/// Redis grants while the server stands still, as it does with its whole machine.
#[test]
fn who_got_its_permit_after_its_deadline_sends_no_task() {
    let stack = Stack::new();
    let _checker = stack.checker(|_| Behaviour::Never);
    let server = stack.serve().set("KAFKA_GIFT_CODE_TIMEOUT", "3").set("WORKERS", "1");
    let mut server = server.set("KAFKA_DELIVERY_TIMEOUT_MS", "2000").start();
    let granted = wait_until(3 * SOON, || {
        let sent = server.metric("thousandx_limiter_batched_total");
        stack.redis.sigstop();
        let address = server.address();
        let waiting = std::thread::spawn(move || post(address, "{}", SOON));
        let asked = wait_until(SOON / 20, || (server.metric("thousandx_limiter_batched_total") > sent).then_some(()));
        server.process().sigstop();
        stack.redis.sigcont();
        std::thread::sleep(Duration::from_secs(3)); // workload: the deadline passes
        server.process().sigcont();
        let answer = waiting.join().expect("the thread of a request").expect("an answer");
        stack.wait_permits(0, SOON);
        // On a busy machine the call may be over before the server stands still: then it is done again.
        (asked.is_some() && answer.code().as_deref() == Some("reply_timeout")).then_some(())
    });
    assert!(granted.is_some(), "no permit was granted late; {}", server.log());
    let sent = server.metric("thousandx_kafka_produced_total");
    assert!(sent < 1.0, "{sent} tasks were sent");
}
