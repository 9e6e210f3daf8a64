//! HTTP as clients and attackers send it, over raw sockets, against the real binary (`dev`: the embedded stack).
//!
//! One server with short limits is shared by most tests of this file, and one with the limits as they come by those of
//! the modules. After whatever a test has done, the server must still answer a normal request: `assert_serving` says so
//! at the end of each. What is answered after a refusal, or not answered, shows where the server saw a request end.

#[path = "../support/mod.rs"]
mod support;

mod framing;
mod h1spec;
mod openapi;
mod protocol;
mod slow;
mod stream;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use support::http::{Method, NoResponse, Raw, post_queue};
use support::server::Server;

/// An answer that has to come at once, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(5);
/// The server's own limits, short so that the tests are.
const HEADER_MS: u64 = 1000;
const BODY_MS: u64 = 700;
const WRITE_MS: u64 = 1000;
const IDLE_MS: u64 = 2000;
/// A time limit is kept to within two ticks of the sweeper, and the machine is busy.
const SLACK: Duration = Duration::from_millis(2500);

static SERVER: LazyLock<Server> = LazyLock::new(|| short_limits().start());

/// The same with the limits as they come: for tests in which the server waits.
static PATIENT: LazyLock<Server> = LazyLock::new(|| Server::builder().command("dev").start());

fn short_limits() -> support::server::Builder {
    Server::builder()
        .command("dev")
        .set("HEADER_TIMEOUT_MS", HEADER_MS.to_string())
        .set("BODY_TIMEOUT_MS", BODY_MS.to_string())
        .set("WRITE_TIMEOUT_MS", WRITE_MS.to_string())
        .set("IDLE_TIMEOUT_MS", IDLE_MS.to_string())
        .set("TASK_CONTENT_TYPES", "application/x-thing")
        .set("RATE_LIMIT_CAPACITY", "1000")
}

#[test]
fn dev_ends_without_a_complaint() {
    let mut server = Server::builder().command("dev").start();
    assert_eq!(server.post("{}", SOON).expect("an answer").status, 200);
    server.sigterm();
    assert!(server.wait_exit(SOON).success());
    let log = server.log();
    let (_, end) = log.split_once(" draining ").expect("the drain's first line");
    assert!(end.contains("drained") && !end.contains(" WARN ") && !end.contains("ERROR"), "{log}");
}

fn connect() -> Raw {
    Raw::connect(SERVER.address())
}

/// Sends exactly these bytes and reads one response.
fn ask(bytes: &[u8]) -> support::http::Response {
    let mut connection = connect();
    connection.send(bytes);
    connection.response(SOON).unwrap_or_else(|error| panic!("{error:?} to {:?}", String::from_utf8_lossy(bytes)))
}

fn assert_serving() {
    let answer = SERVER.post(r#"{"nonce":"still-here"}"#, SOON).expect("an answer");
    assert_eq!((answer.status, &answer.json()["nonce"]), (200, &"still-here".into()), "{}", answer.text());
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /queue HTTP/1.1\r\nhost: a\r\n{headers}\r\n{body}").into_bytes()
}

#[test]
fn the_readmes_curl_lines_work() {
    let answer = ask(b"POST /queue HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl\r\nAccept: */*\r\n\r\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["gift_code"].as_str().is_some_and(|code| code.starts_with("GIFT-")), "{}", answer.text());
    assert_eq!(answer.json()["request_id"], answer.header("x-request-id").expect("x-request-id"));
    assert_eq!(answer.header("content-type"), Some("application/json"));

    let body = r#"{"action":"get_gift_code","n":1}"#;
    let form = format!("content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n", body.len());
    assert_eq!(ask(&post(&form, body)).status, 200, "curl -d sends JSON as a form");
    let greeting = ask(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(greeting.text(), r#"{"Hello":"World"}"#);
    assert_eq!(SERVER.get("/livez").unwrap().status, 200);
    assert_eq!(SERVER.get("/health").unwrap().status, 200);
    let ready = SERVER.get("/readyz?verbose").unwrap();
    assert!(ready.status == 200 && ready.text().contains("[+] kafka producer"), "{}", ready.text());
}

#[test]
fn every_bad_request_gets_its_typed_error() {
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let length = |body: &str| format!("content-length: {}\r\n", body.len());
    let cases: &[(&str, Vec<u8>, u16, &str)] = &[
        ("malformed JSON", post(&length("{"), "{"), 400, "malformed_json"),
        ("deep JSON", post(&length(&deep), &deep), 400, "malformed_json"),
        ("two values", post(&length("{}{}"), "{}{}"), 400, "malformed_json"),
        ("only spaces", post(&length("  "), "  "), 400, "malformed_json"),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400, "bad_request"),
        ("two Hosts", b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n".to_vec(), 400, "bad_request"),
        ("bad Host", b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_vec(), 400, "bad_request"),
        ("CL and TE", post("content-length: 2\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), 400, "bad_request"),
        ("TE and CL", post("transfer-encoding: chunked\r\ncontent-length: 2\r\n", "0\r\n\r\n"), 400, "bad_request"),
        ("two lengths", post("content-length: 2\r\ncontent-length: 3\r\n", "{}"), 400, "bad_request"),
        ("negative length", post("content-length: -1\r\n", ""), 400, "bad_request"),
        ("plus length", post("content-length: +2\r\n", "{}"), 400, "bad_request"),
        ("unknown coding", post("transfer-encoding: gzip\r\n", ""), 400, "bad_request"),
        ("coding before chunked", post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"), 400, "bad_request"),
        ("chunked twice", post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", ""), 400, "bad_request"),
        ("bad chunk size", post("transfer-encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"), 400, "bad_request"),
        ("huge chunk size", post("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n"), 400, "bad_request"),
        ("chunk without end", post("transfer-encoding: chunked\r\n", "2\r\n{}0\r\n\r\n"), 400, "bad_request"),
        ("folded header", post("x: a\r\n b\r\n", ""), 400, "bad_request"),
        ("space before colon", post("x : a\r\n", ""), 400, "bad_request"),
        ("NUL in a header", post("x: a\0b\r\n", ""), 400, "bad_request"),
        ("no version", b"GET /\r\n\r\n".to_vec(), 400, "bad_request"),
        ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400, "bad_request"),
        ("no such path", b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), 404, "not_found"),
        ("wrong method", b"GET /queue HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), 405, "method_not_allowed"),
        ("declared too large", post("content-length: 1048577\r\n", ""), 413, "body_too_large"),
        ("long target", long_target(9000), 414, "uri_too_long"),
        ("very long target", long_target(60_000), 414, "uri_too_long"),
        ("XML", post("content-type: text/xml\r\ncontent-length: 4\r\n", "<a/>"), 415, "unsupported_media_type"),
        ("many headers", post(&"x: y\r\n".repeat(70), ""), 431, "headers_too_large"),
        ("very many headers", post(&"x: y\r\n".repeat(200), ""), 431, "headers_too_large"),
        ("large header", post(&format!("x: {}\r\n", "y".repeat(17_000)), ""), 431, "headers_too_large"),
        ("very large header", post(&format!("x: {}\r\n", "y".repeat(60_000)), ""), 431, "headers_too_large"),
    ];
    for (name, bytes, status, code) in cases {
        let answer = ask(bytes);
        assert_eq!((answer.status, answer.code().as_deref()), (*status, Some(*code)), "{name}: {}", answer.text());
        let id = answer.header("x-request-id").unwrap_or_else(|| panic!("{name}: no request id"));
        assert_eq!(answer.json()["request_id"], id, "{name}");
        let closes = !matches!(*code, "malformed_json" | "not_found" | "method_not_allowed");
        assert_eq!(answer.closes(), closes, "{name}");
    }
    assert_eq!(ask(b"PUT /queue HTTP/1.1\r\nhost: a\r\n\r\n").header("allow"), Some("POST"));
    assert_serving();
}

fn long_target(length: usize) -> Vec<u8> {
    format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(length)).into_bytes()
}

#[test]
fn a_closing_error_closes_and_a_keeping_one_keeps() {
    let mut connection = connect();
    connection.send(&post("content-length: 1\r\n", "{"));
    assert_eq!(connection.response(SOON).unwrap().status, 400);
    connection.send(&post_queue(r#"{"nonce":"a"}"#));
    assert_eq!(connection.response(SOON).unwrap().json()["nonce"], "a");
    connection.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(connection.response(SOON).unwrap().code().as_deref(), Some("bad_request"));
    assert!(connection.is_closed_within(SOON));
}

#[test]
fn a_body_over_the_limit_is_refused_and_the_refusal_arrives() {
    // The client goes on sending: a reset must not overtake the answer.
    let mut connection = connect();
    connection.send(&post("content-length: 3000000\r\n", ""));
    let _ = connection.try_send(&vec![b' '; 3_000_000]);
    assert_eq!(connection.response(SOON).expect("413 before the reset").status, 413);

    let mut connection = connect();
    connection.send(&post("transfer-encoding: chunked\r\n", ""));
    let chunk = format!("{:x}\r\n{}\r\n", 100_000, " ".repeat(100_000));
    for _ in 0..12 {
        if connection.try_send(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(connection.response(SOON).expect("413 at the limit").status, 413);

    let largest = format!("\"{}\"", "x".repeat(1_000_000));
    assert_eq!(SERVER.post(&largest, SOON).unwrap().status, 200, "just below the limit");
    assert_serving();
}

#[test]
fn an_answer_to_a_body_that_nobody_reads_arrives_and_closes() {
    for path in ["/nothing", "/livez"] {
        let mut connection = connect();
        connection.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n").as_bytes());
        let _ = connection.try_send(&vec![b' '; 500_000]);
        let answer = connection.response(SOON).expect("the answer before the reset");
        assert!(matches!(answer.status, 404 | 405) && answer.closes(), "{path}: {}", answer.text());
    }
    let body = "GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}";
    assert!(ask(body.as_bytes()).closes(), "a body that was not asked for");
    assert_serving();
}

#[test]
fn bodies_that_arrive_have_a_common_bound() {
    let server = short_limits().set("MAX_BUFFERED_BYTES", "300000").set("BODY_TIMEOUT_MS", "60000").start();
    let head = "POST /queue HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n";
    let mut clients: Vec<Raw> = (0..4)
        .map(|_| {
            let mut connection = Raw::connect(server.address());
            connection.send(head.as_bytes());
            connection.send(&b" ".repeat(200_000));
            connection
        })
        .collect();
    let refused = support::wait_until(SOON, || {
        let answers = clients.iter_mut().filter_map(|client| client.response(Duration::from_millis(20)).ok());
        answers.into_iter().find(|answer| answer.code().as_deref() == Some("overloaded"))
    });
    assert_eq!(refused.expect("a refusal").status, 503);
    drop(clients);
    let free = support::wait_until(SOON, || server.post("{}", SOON).ok().filter(|answer| answer.status == 200));
    assert!(free.is_some(), "small bodies never asked for any of it");
}

#[test]
fn bodies_arrive_in_any_pieces() {
    let mut connection = connect();
    connection.send(&post("transfer-encoding: chunked\r\n", "8\r\n{\"nonce\"\r\n"));
    connection.send(b"6;ext=1\r\n:\"pi\"}\r\n0\r\n\r\n");
    assert_eq!(connection.response(SOON).unwrap().json()["nonce"], "pi");
    for byte in post_queue(r#"{"nonce":"slow"}"#) {
        connection.send(&[byte]);
    }
    assert_eq!(connection.response(SOON).unwrap().json()["nonce"], "slow");
    connection.send(&post("expect: 100-continue\r\ncontent-length: 13\r\n", ""));
    assert_eq!(connection.response(SOON).unwrap().status, 100);
    connection.send(br#"{"nonce":"c"}"#);
    assert_eq!(connection.response(SOON).unwrap().json()["nonce"], "c");
}

#[test]
fn an_opaque_type_passes_as_it_is() {
    let answer = ask(&post("content-type: application/x-thing\r\ncontent-length: 3\r\n", "\u{1}<a"));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn the_clients_request_id_is_echoed_when_it_is_harmless() {
    let echo = |id: &str| ask(&post(&format!("x-request-id: {id}\r\n"), ""));
    assert_eq!(echo("my-id_1.2").header("x-request-id"), Some("my-id_1.2"));
    for hostile in ["a b", "x\"y", &"z".repeat(65), "{}"] {
        let answer = echo(hostile);
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("x-request-id"), Some(hostile));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut connection = connect();
    let all: Vec<u8> = (0..20).flat_map(|n| post_queue(&format!(r#"{{"n":{n}}}"#))).collect();
    connection.send(&all);
    for n in 0..20 {
        assert_eq!(connection.response(SOON).unwrap().json()["n"], n);
    }
    connection.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.response_to(Method::Head, SOON).unwrap().body, b"");
}

#[test]
fn slow_clients_are_ended_by_the_limit_that_they_break() {
    let timed = |bytes: &[u8]| {
        let mut connection = connect();
        let begun = Instant::now();
        connection.send(bytes);
        (connection, begun)
    };
    // No head at all, half a head, and one that trickles: all end at the header limit.
    for bytes in [&b""[..], b"POST /queue HTTP/1.1\r\nhost: a\r\n"] {
        let (mut connection, begun) = timed(bytes);
        assert!(connection.is_closed_within(Duration::from_millis(HEADER_MS) + SLACK), "{bytes:?}");
        assert!(begun.elapsed() >= Duration::from_millis(HEADER_MS), "not before the limit");
    }
    let (mut connection, begun) = timed(b"GET / HTTP/1.1\r\n");
    while connection.try_send(b"x: y\r\n").is_ok() && !connection.is_closed_within(Duration::from_millis(100)) {
        assert!(begun.elapsed() < Duration::from_millis(HEADER_MS) + SLACK, "a trickle does not extend the limit");
    }
    // A body that does not come.
    let (mut connection, begun) = timed(&post("content-length: 10\r\n", "{"));
    let answer = connection.response(Duration::from_millis(BODY_MS) + SLACK).expect("408");
    assert_eq!(answer.code().as_deref(), Some("body_timeout"));
    assert!(answer.closes() && begun.elapsed() >= Duration::from_millis(BODY_MS));
    // Idle between requests.
    let (mut connection, begun) = timed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.response(SOON).unwrap().status, 200);
    assert!(connection.is_closed_within(Duration::from_millis(IDLE_MS) + SLACK));
    assert!(begun.elapsed() >= Duration::from_millis(IDLE_MS));
    assert_serving();
}

#[test]
fn a_client_that_does_not_read_is_ended_at_the_write_limit() {
    let connection = connect();
    socket2::SockRef::from(connection.stream()).set_recv_buffer_size(4096).unwrap();
    // Many large answers: the greeting costs the client nothing and fills both socket buffers.
    let requests = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(5000);
    let mut writer = connection.stream().try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let begun = Instant::now();
    let flood = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &requests));
    let limit = Duration::from_millis(WRITE_MS) + SLACK;
    let ended = "thousandx_connection_timeouts_total{limit=\"write\"}";
    SERVER.wait_metric(ended, limit + SOON, |count| count >= 1.0);
    assert!(begun.elapsed() >= Duration::from_millis(WRITE_MS));
    let _ = flood.join().expect("the writer ends when the server resets the connection");
    assert_serving();
}

#[test]
fn half_close_and_reset_hurt_nobody() {
    let mut connection = connect();
    connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    connection.half_close();
    match connection.response(SOON) {
        Ok(answer) => assert_eq!(answer.status, 200),
        Err(NoResponse::Closed(seen)) => assert!(seen.is_empty(), "a half answer: {seen:?}"),
        Err(error) => panic!("{error:?}"),
    }
    for _ in 0..50 {
        let mut connection = connect();
        connection.send(&post_queue("{}"));
        connection.reset();
    }
    assert_serving();
}

#[test]
fn connections_above_the_cap_are_told_so() {
    let server = short_limits().set("MAX_CONNECTIONS", "10").set("HEADER_TIMEOUT_MS", "60000").start();
    // Those that are not refused are held, until one is.
    let mut held = Vec::new();
    let refused = support::wait_until(SOON, || {
        let mut connection = Raw::connect(server.address());
        let answer = connection.response(Duration::from_millis(200)).ok();
        held.push(connection);
        answer.filter(|answer| answer.code().as_deref() == Some("overloaded"))
    })
    .expect("a refusal");
    assert!(held.len() <= 11, "{} connections", held.len());
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    drop(held);
    let free = support::wait_until(SOON, || server.post("{}", SOON).ok().filter(|answer| answer.status == 200));
    assert!(free.is_some(), "the cap is free again");
}

#[test]
fn the_admin_address_takes_the_metrics_off_the_public_one() {
    let admin = support::free_port();
    let server = short_limits().set("ADMIN_ADDR", format!("127.0.0.1:{admin}")).start();
    assert_eq!(server.get("/metrics").unwrap().status, 404);
    let get = |path: &str| support::http::get(support::loopback(admin), path, SOON).unwrap();
    assert!(get("/metrics").text().contains("thousandx_in_flight"));
    assert_eq!((get("/readyz").status, get("/queue").status), (200, 404));
}

/// README's table of metrics is what `/metrics` says, word for word: names, types and help of every family.
#[test]
fn the_readme_lists_every_metric() {
    let mut samples = thousandx::observe::metrics::Samples::default();
    // The limiter in Redis is the one part that the embedded stack does not have.
    thousandx::observe::metrics::Collect::collect(&thousandx::admit::redis::RedisMetrics::default(), &mut samples);
    let (_, limiter) = thousandx::observe::exposition::encode(&samples, None);
    let scraped = SERVER.get("/metrics").unwrap().text();
    let mut rows: Vec<String> = [scraped.as_str(), &limiter].into_iter().flat_map(metric_rows).collect();
    rows.sort();
    let table = format!("| metric | type | what |\n|---|---|---|\n{}", rows.concat());
    let readme = std::fs::read_to_string(support::repository("README.md")).unwrap();
    let (_, rest) = readme.split_once("<!-- metrics:begin -->\n").expect("the marker");
    let (listed, _) = rest.split_once("<!-- metrics:end -->").expect("the marker");
    assert_eq!(listed, table, "README's table of metrics has to be:\n{table}");
}

fn metric_rows(exposition: &str) -> Vec<String> {
    let words = |line: &str| line.splitn(4, ' ').map(str::to_owned).collect::<Vec<_>>();
    let comments: Vec<_> = exposition.lines().filter(|line| line.starts_with("# ")).map(words).collect();
    let of_kind = |kind: &'static str| comments.iter().filter(move |words| words[1] == kind);
    let kind = |name: &str| of_kind("TYPE").find(|words| words[2] == name).map_or("", |words| &words[3]).to_owned();
    of_kind("HELP").map(|words| format!("| `{}` | {} | {} |\n", words[2], kind(&words[2]), words[3])).collect()
}
