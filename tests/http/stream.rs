//! Many requests on one connection: order, pieces of any size, and what one may do to the next.

use crate::support::http::{Raw, post_queue};
use crate::{PATIENT, SOON, assert_serving};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn connect() -> Raw {
    Raw::connect(PATIENT.address())
}

/// Statuses and codes of all answers, up to the end of the connection.
fn answers(connection: &mut Raw) -> Vec<(u16, String)> {
    std::iter::from_fn(|| connection.response(SOON).ok())
        .map(|answer| (answer.status, answer.code().unwrap_or_default()))
        .collect()
}

#[test]
fn errors_among_pipelined_requests_keep_the_order() {
    let mut connection = connect();
    let all = [
        GET.to_vec(),
        post_queue("{"),
        b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        post_queue(r#"{"n":1}"#),
        b"PUT /queue HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_vec(),
        GET.to_vec(),
        post_queue(r#"{"n":2}"#),
    ];
    connection.send(&all.concat());
    let expected = [
        (200, ""),
        (400, "malformed_json"),
        (404, "not_found"),
        (200, ""),
        (405, "method_not_allowed"),
        // This one closes: what follows it is not answered.
        (400, "bad_request"),
    ];
    assert_eq!(answers(&mut connection), expected.map(|(status, code)| (status, code.to_owned())));
    assert_serving();
}

/// Such requests never reach the router; the answer is a problem document all the same.
#[test]
fn what_cannot_be_parsed_behind_another_request_gets_its_typed_error() {
    for (name, second) in [
        ("folded", "GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n"),
        ("no version", "GET /\r\n\r\n"),
        ("a length that is none", "GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n"),
    ] {
        for first in [GET, b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"] {
            let refused = (400, "bad_request".to_owned());
            let mut together = connect();
            together.send(&[first, second.as_bytes(), GET].concat());
            assert_eq!(answers(&mut together), [(200, String::new()), refused.clone()], "{name}, together");
            let mut apart = connect();
            apart.send(first);
            assert_eq!(apart.response(SOON).expect("an answer").status, 200);
            apart.send(&[second.as_bytes(), GET].concat());
            assert_eq!(answers(&mut apart), [refused], "{name}, apart");
        }
    }
    // Where such a head begins is not known when its beginning came with the request before: its size is, its line not.
    let mut large = connect();
    large.send(&[GET, format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(60_000)).as_bytes(), GET].concat());
    let seen = answers(&mut large);
    assert!(matches!(&seen[..], [(200, _), (414 | 431, code)] if !code.is_empty()), "{seen:?}");
}

/// SECURITY.md's exception: such a head is not looked at, hyper takes the coding, and nothing follows.
#[test]
fn a_pipelined_request_with_both_lengths_is_framed_by_its_coding_and_is_the_last() {
    let both = "POST /queue HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut connection = connect();
    connection.send(&[GET, both.as_bytes(), b"7\r\n{\"n\":7}\r\n0\r\n\r\n", GET].concat());
    assert_eq!(connection.response(SOON).unwrap().status, 200);
    let answer = connection.response(SOON).unwrap();
    assert!(answer.status == 400 || answer.json()["n"] == 7, "{}", answer.text());
    assert!(connection.is_closed_within(SOON), "nothing is read behind it");
}

/// The head was cut where only its last line is left, and what follows looks like lines without CR.
#[test]
fn a_body_behind_a_head_that_came_in_two_is_not_taken_for_a_head() {
    let body = "{\n\"n\": 3\n}\n";
    let head = format!("POST /queue HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    for cut in [1, 2, 3, 4, 5, 20] {
        let (begin, end) = head.split_at(head.len() - cut);
        let mut connection = connect();
        connection.send(&[GET, begin.as_bytes()].concat());
        assert_eq!(connection.response(SOON).unwrap().status, 200);
        connection.send(format!("{end}{body}").as_bytes());
        let answer = connection.response(SOON).unwrap();
        assert_eq!(answer.status, 200, "cut {cut} bytes before the body: {}", answer.text());
        assert_eq!(answer.json()["n"], 3);
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let request = "POST /queue HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: nothing\r\n\r\n\
                   3;x=\"y\"\r\n{\"n\r\n4\r\n\":9}\r\n0\r\nx-trailer: z\r\n\r\n";
    let mut connection = connect();
    for _ in 0..2 {
        for byte in request.as_bytes() {
            connection.send(&[*byte]);
        }
        assert_eq!(connection.response(SOON).unwrap().json()["n"], 9);
    }
}

#[test]
fn a_refusal_among_bytes_is_the_same_wherever_they_are_cut() {
    let request: &[u8] = b"POST /queue HTTP/1.1\r\nhost: a\r\nx: y\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for cut in 1..request.len() {
        let mut connection = connect();
        connection.send(&request[..cut]);
        // The head may be refused before the rest has been sent.
        let _ = connection.try_send(&request[cut..]);
        let answer = connection.response(SOON).unwrap_or_else(|error| panic!("cut at {cut}: {error:?}"));
        assert_eq!(answer.code().as_deref(), Some("bad_request"), "cut at {cut}: {}", answer.text());
    }
}

#[test]
fn bytes_that_are_no_request_behind_one_do_not_harm_it() {
    let long = &b"x".repeat(20_000)[..];
    for behind in [&b"\0\xff garbage"[..], b"\r\n", b"\n\n\n", b"GET", b"GET / HTTP/1.1\r\nhost", long] {
        let mut connection = connect();
        connection.send(&[&post_queue(r#"{"n":4}"#)[..], behind].concat());
        assert_eq!(connection.response(SOON).expect("the answer").json()["n"], 4, "before {} bytes", behind.len());
    }
    assert_serving();
}
