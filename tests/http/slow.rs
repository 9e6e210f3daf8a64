//! Clients that take their time, and clients in numbers: each has a bound, and others are served meanwhile.

use std::io::Read;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::http::{NoResponse, Raw, post_queue};
use crate::support::server::Server;
use crate::support::wait_until;
use crate::{BODY_MS, HEADER_MS, IDLE_MS, SERVER, SLACK, SOON, assert_serving, post, short_limits};

/// Idle connections, if the descriptor limit allows so many.
const IDLE: usize = 10_000;
/// Descriptors of this process for everything else.
const OTHER_DESCRIPTORS: u64 = 500;
/// Most memory of the server for a connection that waits for its first byte, or its next request. With room for a build
/// without optimisation; what it is in truth is printed.
const BYTES_PER_CONNECTION_MAX: f64 = 65_536.0;

#[test]
fn a_body_that_trickles_is_ended_by_the_limit_all_the_same() {
    for headers in ["content-length: 1000\r\n", "transfer-encoding: chunked\r\n"] {
        let mut connection = Raw::connect(SERVER.address());
        let begun = Instant::now();
        connection.send(&post(headers, ""));
        let limit = Duration::from_millis(BODY_MS) + SLACK;
        let answer = wait_until(limit, || {
            let byte: &[u8] = if headers.starts_with('c') { b" " } else { b"1\r\n \r\n" };
            let _ = connection.try_send(byte);
            connection.response(Duration::from_millis(20)).ok()
        });
        let answer = answer.unwrap_or_else(|| panic!("{headers}: no answer within {limit:?}"));
        assert_eq!(answer.code().as_deref(), Some("body_timeout"), "{headers}: {}", answer.text());
        assert!(begun.elapsed() >= Duration::from_millis(BODY_MS), "not before the limit");
    }
    assert_serving();
}

/// What came with the request before it starts no clock of its own: until its next byte it is an idle connection, and
/// ends as one.
#[test]
fn half_a_head_behind_a_request_is_held_no_longer_than_an_idle_connection() {
    let mut connection = Raw::connect(SERVER.address());
    connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost:");
    assert_eq!(connection.response(SOON).expect("an answer").status, 200);
    assert!(connection.is_closed_within(Duration::from_millis(IDLE_MS) + SLACK), "still open");

    let mut connection = Raw::connect(SERVER.address());
    connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost:");
    assert_eq!(connection.response(SOON).expect("an answer").status, 200);
    let begun = Instant::now();
    let limit = Duration::from_millis(HEADER_MS) + SLACK;
    while connection.try_send(b"a").is_ok() && !connection.is_closed_within(Duration::from_millis(50)) {
        assert!(begun.elapsed() < limit, "a trickle is a head");
    }
}

#[test]
fn a_head_without_end_is_refused_at_its_limit_and_not_at_its_time() {
    let server = short_limits().set("HEADER_TIMEOUT_MS", "60000").start();
    for (name, block) in [
        ("fields", "x: y\r\n".repeat(10_000)),
        ("one name", "x".repeat(60_000)),
        ("one value", format!("x:{}", "y".repeat(60_000))),
        ("empty values", "x:\r\n".repeat(10_000)),
    ] {
        let mut connection = Raw::connect(server.address());
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n");
        let mut sent = 0;
        while sent < 1_000_000 && connection.try_send(block.as_bytes()).is_ok() {
            sent += block.len();
        }
        let answer = connection.response(SOON).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(answer.code().as_deref(), Some("headers_too_large"), "{name}: {}", answer.text());
    }
    let mut connection = Raw::connect(server.address());
    let _ = connection.try_send(&b"\r\n".repeat(200_000));
    let answer = connection.response(SOON).expect("an end to empty lines");
    assert!((400..500).contains(&answer.status), "{}", answer.text());
}

#[test]
fn an_answer_that_nobody_reads_holds_no_permit_and_ends_at_the_write_limit() {
    const WRITE: Duration = Duration::from_secs(3);
    let server = short_limits()
        .set("RATE_LIMIT_CAPACITY", "1")
        .set("BODY_TIMEOUT_MS", "10000")
        .set("WRITE_TIMEOUT_MS", WRITE.as_millis().to_string())
        .start();
    let cut = || server.metric(r#"thousandx_connection_timeouts_total{limit="write"}"#);
    let mut slow = Raw::connect_narrow(server.address());
    let body = format!(r#"{{"nonce":"{}"}}"#, "x".repeat(900_000));
    slow.send(&post_queue(&body));
    server.wait_metric(r#"thousandx_replies_total{result="delivered"}"#, SOON, |count| count >= 1.0);
    let begun = Instant::now();
    server.wait_metric("thousandx_in_flight", SOON, |count| count == 0.0);
    let other = server.post(r#"{"nonce":"other"}"#, SOON).expect("an answer");
    assert_eq!((other.status, cut().to_string().as_str()), (200, "0"), "the only permit is free while one waits");
    server.wait_metric(r#"thousandx_connection_timeouts_total{limit="write"}"#, WRITE + SLACK, |count| count >= 1.0);
    assert!(begun.elapsed() + Duration::from_millis(500) >= WRITE, "cut after {:?}", begun.elapsed());
    match slow.response(SOON) {
        Err(NoResponse::Closed(seen)) => assert!(seen.len() < body.len(), "a whole answer"),
        Err(NoResponse::Io(_)) => {}
        other => panic!("neither cut nor reset: {other:?}"),
    }
}

#[test]
fn ten_thousand_idle_connections_cost_little_memory_and_nobody_an_answer() {
    let count = raise_descriptors();
    let server = Server::builder().command("dev").set("HEADER_TIMEOUT_MS", "60000").start();
    assert_eq!(server.post("{}", SOON).expect("an answer").status, 200);
    let memory = || server.metric("process_resident_memory_bytes");
    let before = memory();
    let mut idle: Vec<Raw> = (0..count).map(|_| Raw::connect(server.address())).collect();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let connections = count as f64;
    server.wait_metric("thousandx_connections_open", SOON, |open| open >= connections);
    let fresh = (memory() - before) / connections;
    assert_served(&server);

    for connection in &mut idle {
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    for connection in &mut idle {
        assert_eq!(connection.response(SOON).expect("an answer").status, 200);
    }
    let used = (memory() - before) / connections;
    assert_served(&server);
    println!("{count} idle connections: {fresh:.0} bytes each before a request, {used:.0} after one");
    assert!(fresh.max(used) < BYTES_PER_CONNECTION_MAX, "{fresh:.0} and {used:.0} bytes a connection");

    let open = idle.iter().filter(|connection| is_open(connection)).count();
    assert_eq!(open, count, "none was closed to make room");
    drop(idle);
    server.wait_metric("thousandx_connections_open", SOON, |open| open < 10.0);
    assert_served(&server);
}

/// An ordinary client, several times.
fn assert_served(server: &Server) {
    for n in 0..20 {
        let begun = Instant::now();
        let answer = server.post(&format!(r#"{{"n":{n}}}"#), SOON).expect("an answer");
        assert_eq!((answer.status, &answer.json()["n"]), (200, &n.into()), "{}", answer.text());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

/// Raises this process' limit and says how many connections fit it; the server raises its own.
fn raise_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = IDLE as u64 + OTHER_DESCRIPTORS;
    let allowed = limit.maximum.map_or(wanted, |hard| hard.min(wanted));
    if limit.current.is_some_and(|soft| soft < allowed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum })
            .expect("up to the hard limit");
    }
    let fitting = usize::try_from(allowed.saturating_sub(OTHER_DESCRIPTORS)).expect("a small number").min(IDLE);
    assert!(fitting >= 100, "only {allowed} descriptors are allowed (ulimit -Hn)");
    if fitting < IDLE {
        println!("{fitting} connections in place of {IDLE}: ulimit -Hn is {allowed}");
    }
    fitting
}

fn is_open(connection: &Raw) -> bool {
    let mut stream = connection.stream();
    stream.set_nonblocking(true).expect("a socket can be nonblocking");
    stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
