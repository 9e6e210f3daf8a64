//! Hosts, targets, methods, versions, expectations, upgrades.

use std::collections::BTreeSet;

use crate::framing::{assert_refused, assert_taken};
use crate::support::http::{NoResponse, Raw, Response};
use crate::{PATIENT, SOON};

fn ask(bytes: &[u8]) -> Response {
    let mut connection = Raw::connect(PATIENT.address());
    connection.send(bytes);
    connection.response(SOON).unwrap_or_else(|error| panic!("{error:?} to {:?}", String::from_utf8_lossy(bytes)))
}

fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\n{headers}\r\n").into_bytes()
}

#[test]
fn there_is_exactly_one_host_and_it_is_one() {
    for host in ["a", "a:80", "127.0.0.1", "[::1]:8000", "xn--bcher-kva.example", "", "a%20b", "A_b~c!d"] {
        assert_taken(host, &get("/", &format!("host: {host}\r\n")), 200);
    }
    for host in [
        "a b", "a\tb", "a/b", "http://a", "u@a", "u:p@a", "a:b", "a:1:2", "a:123456", "a:-1", "[::1", "::1", "[]",
        "[g]", "a?b", "a#b", "a\\b", "<a>", "\"a\"", "{a}", "a|b", "a^b", "\u{fc}",
    ] {
        assert_refused(host, &get("/", &format!("host: {host}\r\n")), 400, "bad_request");
    }
    for (name, headers) in [
        ("none", ""),
        ("two", "host: a\r\nhost: b\r\n"),
        ("twice the same", "host: a\r\nhost: a\r\n"),
        ("one of them empty", "host:\r\nhost: a\r\n"),
        ("two, in other case", "host: a\r\nHOST: b\r\n"),
        ("a name that only looks like it", "x-host: a\r\n"),
    ] {
        assert_refused(name, &get("/", headers), 400, "bad_request");
    }
    let old = ask(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.status, 200, "HTTP/1.0 has no Host");
    assert_eq!(ask(b"GET / HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n").status, 400, "but two are two");
}

#[test]
fn targets_in_every_form_find_their_path() {
    // RFC 9112, 3.2.2: in absolute form the target's own host counts. Nothing here depends on either.
    for target in ["http://other.example/", "http://a", "HTTP://a:8000/", "/?a=b", "/?", "http://a/?x#y"] {
        assert_taken(target, &get(target, "host: a\r\n"), 200);
    }
    assert_refused("absolute, without Host", &get("http://a/", ""), 400, "bad_request");
    assert_refused("absolute, with a bad Host", &get("http://a/", "host: a b\r\n"), 400, "bad_request");
    for target in ["//", "/.", "/%2e", "/queue/", "/QUEUE", "/queue%00", "/livez/../queue", "a", "a:80", "*", "/\u{fc}"]
    {
        let answer = ask(&get(target, "host: a\r\n"));
        assert!(matches!(answer.status, 400 | 404), "{target}: {} {}", answer.status, answer.text());
    }
    for target in ["", "/a b", "/\0", "/\u{7f}", "/\t", "http://", "http://[::1", "http:///", "ftp:"] {
        let answer = ask(&get(target, "host: a\r\n"));
        assert!((400..500).contains(&answer.status), "{target}: {} {}", answer.status, answer.text());
        assert!(answer.closes() || answer.status == 404, "{target}: the connection is kept");
    }
}

#[test]
fn methods_are_case_sensitive_and_others_are_told_which() {
    let asked = |request: &str| ask(format!("{request} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
    for (request, status, allow) in [
        ("get /", 405, Some("GET, HEAD")),
        ("post /queue", 405, Some("POST")),
        ("POSTX /queue", 405, Some("POST")),
        ("PUT /queue", 405, Some("POST")),
        ("OPTIONS /queue", 405, Some("POST")),
        ("DELETE /readyz", 405, Some("GET, HEAD")),
        ("PATCH /metrics", 405, Some("GET, HEAD")),
        ("TRACE /", 405, Some("GET, HEAD")),
        ("M-SEARCH /", 405, Some("GET, HEAD")),
        ("!#$%&'*+-.^_`|~ /", 405, Some("GET, HEAD")),
        ("CONNECT /queue", 405, Some("POST")),
        // The server as a whole, and another server: there is nothing there.
        ("OPTIONS *", 404, None),
        ("CONNECT a:80", 404, None),
        ("GET *", 404, None),
    ] {
        let answer = asked(request);
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{request}: {}", answer.text());
        assert!(!answer.text().contains(request), "{request}: a request is never repeated");
    }
    for request in ["G@T /", "G\u{e9}T /", "G\0T /", "", " GET /", "GET\t/", "(GET) /"] {
        assert_eq!(asked(request).code().as_deref(), Some("bad_request"), "{request:?}");
    }
    let long = asked(&format!("{} /", "A".repeat(60_000)));
    assert_eq!(long.code().as_deref(), Some("uri_too_long"), "a request line without end");
}

#[test]
fn versions_keep_or_close_as_they_say() {
    let kept = |head: &str| {
        let mut connection = Raw::connect(PATIENT.address());
        connection.send(format!("{head}\r\n").as_bytes());
        let answer = connection.response(SOON).unwrap_or_else(|error| panic!("{head}: {error:?}"));
        assert_eq!(answer.status, 200, "{head}: {}", answer.text());
        connection.try_send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").is_ok() && connection.response(SOON).is_ok()
    };
    assert!(kept("GET / HTTP/1.1\r\nhost: a\r\n"));
    assert!(kept("GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive\r\n"));
    assert!(kept("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n"));
    assert!(!kept("GET / HTTP/1.0\r\n"));
    assert!(!kept("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"));
    assert!(!kept("GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Close\r\n"));
    assert!(!kept("GET / HTTP/1.0\r\nconnection: keep-alive\r\nconnection: close\r\n"));
    for version in ["HTTP/1.2", "HTTP/1.10", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1", "HTTP/1.1 ", "HTTP 1.1", "X"]
    {
        let request = format!("GET / {version}\r\nhost: a\r\n\r\n");
        assert_refused(version, request.as_bytes(), 400, "bad_request");
    }
    assert_refused("HTTP/0.9", b"GET /\r\n\r\n", 400, "bad_request");
    // A client that knows without asking that this is HTTP/2 could not read an answer in HTTP/1.1.
    let mut connection = Raw::connect(PATIENT.address());
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!(connection.is_closed_within(SOON), "an end without a word");
}

#[test]
fn only_one_expectation_is_met_and_only_when_there_is_something_to_expect() {
    let mut connection = Raw::connect(PATIENT.address());
    let head = |rest: &str| format!("POST /queue HTTP/1.1\r\nhost: a\r\n{rest}\r\n");
    connection.send(head("expect: 100-Continue\r\ncontent-length: 7\r\n").as_bytes());
    assert_eq!(connection.response(SOON).unwrap().status, 100);
    connection.send(br#"{"n":1}"#);
    assert_eq!(connection.response(SOON).unwrap().json()["n"], 1);
    // A body that comes without waiting may still be asked for.
    connection.send((head("expect: 100-continue\r\ncontent-length: 7\r\n") + r#"{"n":2}"#).as_bytes());
    let first = connection.response(SOON).unwrap();
    let answer = if first.status == 100 { connection.response(SOON).unwrap() } else { first };
    assert_eq!(answer.json()["n"], 2);
    // A version that has no expectations, and one that is not known, which RFC 9110, 10.1.1 allows to ignore.
    for (name, request) in [
        ("no body", head("expect: 100-continue\r\n")),
        ("HTTP/1.0", "POST /queue HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n{}".to_owned()),
        ("not known", head("expect: 200-ok\r\ncontent-length: 2\r\n") + "{}"),
    ] {
        assert_eq!(ask(request.as_bytes()).status, 200, "{name}");
    }
    // What is refused by its head is not asked for.
    for (name, headers, status) in [
        ("too large", "expect: 100-continue\r\ncontent-length: 9000000\r\n", 413),
        ("not taken", "expect: 100-continue\r\ncontent-length: 7\r\ncontent-type: text/xml\r\n", 415),
        ("framed twice", "expect: 100-continue\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n", 400),
    ] {
        let answer = ask(head(headers).as_bytes());
        assert!(answer.status == status && answer.closes(), "{name}: {} {}", answer.status, answer.text());
    }
}

#[test]
fn nothing_is_upgraded() {
    for (name, headers) in [
        ("WebSocket", "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\n"),
        ("HTTP/2", "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"),
        ("TLS", "connection: upgrade\r\nupgrade: TLS/1.3\r\n"),
    ] {
        let answer = assert_taken(name, &get("/", &format!("host: a\r\n{headers}")), 200);
        assert_eq!(answer.header("upgrade"), None, "{name}");
    }
}

/// Every header that an answer may have.
#[test]
fn answers_carry_no_other_headers() {
    let known: BTreeSet<&str> =
        ["allow", "connection", "content-length", "content-type", "date", "retry-after", "x-request-id"].into();
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("POST", "/queue"),
        ("PUT", "/queue"),
    ] {
        let answer = ask(format!("{method} {target} HTTP/1.1\r\nhost: a\r\norigin: http://b\r\n\r\n").as_bytes());
        let names: BTreeSet<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.is_subset(&known), "{method} {target}: {names:?}");
        assert_eq!(names.len(), answer.headers.len(), "{method} {target}: each at most once");
    }
}

/// A half answer is worse than none: what ends early is never answered as if it were whole.
#[test]
fn a_body_that_ends_early_is_not_run() {
    for head in ["content-length: 7\r\n\r\n{\"n\":", "transfer-encoding: chunked\r\n\r\n7\r\n{\"n\":1}\r\n0\r\n"] {
        let mut connection = Raw::connect(PATIENT.address());
        connection.send(format!("POST /queue HTTP/1.1\r\nhost: a\r\n{head}").as_bytes());
        connection.half_close();
        match connection.response(SOON) {
            Ok(answer) => assert_eq!(answer.code().as_deref(), Some("bad_request"), "{head}"),
            Err(NoResponse::Closed(seen)) => assert!(seen.is_empty(), "{head}: {seen:?}"),
            Err(error) => panic!("{head}: {error:?}"),
        }
    }
}
