//! Text from outside that wants to be more than text: in requests and in workers' replies. It breaks no line of the
//! log, in either format, and sets no header of an answer; and a client that pipelines has one request in flight.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::SOON;
use crate::support::checker::{Behaviour, Seen};
use crate::support::http::{Raw, Response, post_queue};
use crate::support::server::Server;
use crate::support::stack::Stack;

/// What must never begin a line, be a field of its own, or appear at all.
const CANARY: &str = "FORGED";

/// Every header that an answer may have, whatever a worker says.
const ALLOWED: [&str; 6] = ["connection", "content-length", "content-type", "date", "retry-after", "x-request-id"];

/// Headers that a worker might set, or be made to set.
const FOREIGN: [&str; 14] = [
    "set-cookie",
    "location",
    "x-request-id",
    "connection",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "upgrade",
    "server",
    "date",
    "www-authenticate",
    "access-control-allow-origin",
    "strict-transport-security",
    "x-anything",
];

/// Text that ends a line, a terminal's colour, a JSON string or UTF-8.
fn evils() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 8] = [
        b"a\r\nFORGED: 1\r\n\r\nFORGED",
        b"a\nFORGED",
        b"a\rFORGED",
        b"\x1b[2J\x1b[31mFORGED",
        b"\",\"level\":\"ERROR\",\"message\":\"FORGED",
        b"\"}\n{\"timestamp\":\"2026-01-01T00:00:00Z\",\"level\":\"ERROR\",\"message\":\"FORGED\"}",
        b"\xff\xfe\xc2\x85\xe2\x80\xa8FORGED",
        b"a\0b\x07\x7fFORGED",
    ];
    texts.map(<[u8]>::to_vec).into()
}

/// The task's `evil` and `at` say which text the worker puts where.
fn hostile(seen: &Seen) -> Behaviour {
    let task: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let number = task["evil"].as_u64().and_then(|number| usize::try_from(number).ok());
    let Some(evil) = number.and_then(|number| evils().into_iter().nth(number)) else {
        return Behaviour::Answer(Duration::ZERO);
    };
    let header = |name| Behaviour::Custom(b"{}".to_vec(), vec![(name, evil.clone())]);
    match task["at"].as_str().unwrap_or_default() {
        "error" => header("x-error"),
        "type" => header("content-type"),
        "status" => header("x-status"),
        "id" => Behaviour::WrongId(evil),
        "other" => header("x-FORGED"),
        _ => Behaviour::Custom(evil, vec![]),
    }
}

#[test]
fn no_text_from_outside_breaks_a_line_of_the_log() {
    let stack = Stack::new();
    let _worker = stack.checker(hostile);
    for format in ["text", "json"] {
        // With everything that can be logged; and a short deadline, for replies that find nobody.
        let builder = stack.serve().set("LOG_FORMAT", format).set("LOG_LEVEL", "trace");
        let mut server = builder.set("KAFKA_GIFT_CODE_TIMEOUT", "2").set("KAFKA_DELIVERY_TIMEOUT_MS", "1500").start();
        send_hostile_requests(&server);
        ask_hostile_workers(&server);
        server.sigterm();
        assert!(server.wait_exit(SOON).success(), "{}", server.log());
        let log = server.log();
        assert!(log.lines().count() > 5, "{log}");
        for line in log.lines() {
            assert!(!line.chars().any(char::is_control), "a control character in {line:?}");
            if format == "text" {
                assert_text_line(line);
            } else {
                assert_json_line(line);
            }
        }
        assert!(!log.contains(CANARY), "what others say is not logged: {log}");
    }
}

/// The time, the level, and the rest.
fn assert_text_line(line: &str) {
    let mut words = line.split_whitespace();
    let (time, level) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    assert!(time.len() > 20 && time.starts_with("20") && time.ends_with('Z'), "no line of ours: {line:?}");
    assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "no line of ours: {line:?}");
}

fn assert_json_line(line: &str) {
    let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    assert!(["timestamp", "level", "target"].iter().all(|name| object[name].is_string()), "no line of ours: {line}");
}

/// Every evil text at every place of a request. What becomes of each request does not matter here.
fn send_hostile_requests(server: &Server) {
    for evil in evils() {
        let at = |before: &str, after: &str| [before.as_bytes(), &evil, after.as_bytes()].concat();
        let field = |name: &str| at(&format!("POST /queue HTTP/1.1\r\nhost: a\r\n{name}: "), "\r\n\r\n");
        let mut requests = vec![
            at("GET /", " HTTP/1.1\r\nhost: a\r\n\r\n"),
            at("GET /?", " HTTP/1.1\r\nhost: a\r\n\r\n"),
            at("", " / HTTP/1.1\r\nhost: a\r\n\r\n"),
            at("GET / HTTP/", "\r\nhost: a\r\n\r\n"),
            at("GET / HTTP/1.1\r\nhost: ", "\r\n\r\n"),
            at("GET / HTTP/1.1\r\nhost: a\r\n", ": x\r\n\r\n"),
            [format!("POST /queue HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", evil.len()).as_bytes(), &evil]
                .concat(),
        ];
        for name in
            ["x-request-id", "content-type", "traceparent", "tracestate", "user-agent", "x-forwarded-for", "cookie"]
        {
            requests.push(field(name));
        }
        for request in requests {
            let mut connection = Raw::connect(server.address());
            connection.send(&request);
            let answer = connection.response(SOON).unwrap_or_else(|error| {
                panic!("{error:?} to {:?}", String::from_utf8_lossy(&request));
            });
            assert_own_headers(&answer);
        }
    }
}

/// Every evil text at every place of a reply.
fn ask_hostile_workers(server: &Server) {
    for number in 0..evils().len() {
        for at in ["error", "type", "status", "other", "value"] {
            let answer = server.post(&format!(r#"{{"evil":{number},"at":"{at}"}}"#), SOON).expect("an answer");
            assert_own_headers(&answer);
            let expected: &[u16] = match at {
                "other" => &[200],
                // Only visible ASCII is a type: some of the texts are.
                "type" => &[200, 502],
                _ => &[502],
            };
            assert!(expected.contains(&answer.status), "{at} {number}: {} {}", answer.status, answer.text());
        }
    }
    // One is enough: nobody is told, so that each takes the whole deadline.
    let answer = server.post(r#"{"evil":5,"at":"id"}"#, SOON).expect("an answer");
    assert_eq!(answer.status, 504, "{}", answer.text());
}

fn assert_own_headers(answer: &Response) {
    let names: BTreeSet<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.is_subset(&ALLOWED.into()), "{names:?}");
    assert_eq!(names.len(), answer.headers.len(), "each at most once: {:?}", answer.headers);
    for (name, value) in &answer.headers {
        assert!(!value.chars().any(char::is_control), "{name}: {value:?}");
    }
}

#[test]
fn a_worker_sets_the_status_the_type_and_the_body_and_nothing_else() {
    let stack = Stack::new();
    let worker = stack.checker(|seen| {
        let mut headers: Vec<(&'static str, Vec<u8>)> = FOREIGN.iter().map(|name| (*name, b"7".to_vec())).collect();
        match seen.body.as_slice() {
            b"401" => headers.push(("x-status", b"401".to_vec())),
            b"204" => headers.push(("x-status", b"204".to_vec())),
            b"502" => headers.push(("x-error", b"failed".to_vec())),
            _ => headers.push(("content-type", b"text/plain".to_vec())),
        }
        Behaviour::Custom(b"\"of the worker\"".to_vec(), headers)
    });
    let server = stack.serve().start();
    for (body, status) in [("200", 200), ("401", 401), ("204", 204), ("502", 502)] {
        let mut connection = Raw::connect(server.address());
        for _ in 0..2 {
            connection.send(&post_queue(body));
            let answer = connection.response(SOON).expect("an answer");
            assert_eq!(answer.status, status, "{}", answer.text());
            assert_own_headers(&answer);
            assert_ne!(answer.header("x-request-id"), Some("7"), "the server's own");
            assert_ne!(answer.header("date"), Some("7"), "the server's own");
            assert_eq!(answer.header("connection"), None, "the connection is not the worker's to close");
            let length = answer.header("content-length").map(|length| length.parse().expect("a number"));
            assert_eq!(length.unwrap_or(0), answer.body.len(), "the length is the body's");
        }
    }
    assert_eq!(worker.counts().replies, 8);
}

#[test]
fn a_client_that_pipelines_has_one_request_in_flight() {
    const REQUESTS: u64 = 40;
    let stack = Stack::new();
    let worker = stack.checker(|_| Behaviour::Answer(Duration::from_millis(20)));
    let server = stack.serve().start();
    let mut connection = Raw::connect(server.address());
    let all: Vec<u8> = (0..REQUESTS).flat_map(|n| post_queue(&n.to_string())).collect();
    connection.send(&all);
    for n in 0..REQUESTS {
        assert_eq!(connection.response(SOON).expect("an answer").text(), n.to_string(), "in order");
        assert!(stack.permits() <= 1, "{} permits", stack.permits());
    }
    let counts = worker.counts();
    assert_eq!((counts.tasks, counts.in_flight_max), (REQUESTS, 1), "{counts:?}");
}
