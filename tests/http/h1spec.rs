//! The 33 cases of h1spec (github.com/uNetworking/h1spec, `http_test.ts`), as a table: what is sent, and what may come
//! back. h1spec wants a server that echoes every body at every path. This one has a queue at one path and takes JSON
//! there, so that three rows differ from the original, each with its reason; what they are about is the same.

use std::time::Duration;

use crate::support::http::{NoResponse, Raw};
use crate::{PATIENT, SOON};

/// h1spec waits 500 ms for nothing to happen.
const SILENCE: Duration = Duration::from_millis(500);

/// The request that h1spec cuts off at different places, and where.
const WHOLE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CUTS: [(&str, &str); 15] = [
    ("in the method", "G"),
    ("before the target", "GET "),
    ("in the target", "GET /"),
    ("after the target", "GET / "),
    ("in the version", "GET / HTTP"),
    ("after the version", "GET / HTTP/1.1"),
    ("in the end of the request line", "GET / HTTP/1.1\r"),
    ("after the request line", "GET / HTTP/1.1\r\n"),
    ("in a field's name", "GET / HTTP/1.1\r\nHos"),
    ("before a field's value", "GET / HTTP/1.1\r\nHost:"),
    ("after the space before a field's value", "GET / HTTP/1.1\r\nHost: "),
    ("after a field's value", "GET / HTTP/1.1\r\nHost: localhost"),
    ("in the end of a field", "GET / HTTP/1.1\r\nHost: localhost\r"),
    ("after the last field", "GET / HTTP/1.1\r\nHost: localhost\r\n"),
    ("in the empty line", "GET / HTTP/1.1\r\nHost: localhost\r\n\r"),
];

/// Statuses that h1spec allows.
type Range = (u16, u16);
const OK: &[Range] = &[(200, 299)];
const CLIENT_ERROR: &[Range] = &[(400, 499)];
const ANY_ERROR: &[Range] = &[(400, 599)];

/// What is sent, what may come back, and what an echo would show.
const WHOLE_REQUESTS: [(&str, &str, &[Range], Option<i64>); 18] = [
    ("no version", "GET / \r\n\r\n", ANY_ERROR, None),
    (
        "an expectation without a body",
        "GET / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\n\r\n",
        &[(100, 100), (200, 299)],
        None,
    ),
    ("a plain GET", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", OK, None),
    ("odd but valid fields", "GET / HTTP/1.1\r\nhoSt:\texample.com\r\nempty:\r\n\r\n", OK, None),
    ("brackets in a name", "GET / HTTP/1.1\r\nHost: example.com\r\nX-Invalid[]: test\r\n\r\n", CLIENT_ERROR, None),
    ("no Host", "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", CLIENT_ERROR, None),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: example.com\r\nHost: example.org\r\n\r\n", CLIENT_ERROR, None),
    (
        "a negative length that overflows",
        "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: -123456789123456789123456789\r\n\r\n",
        CLIENT_ERROR,
        None,
    ),
    ("a negative length", "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: -1234\r\n\r\n", CLIENT_ERROR, None),
    ("a length of letters", "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: abc\r\n\r\n", CLIENT_ERROR, None),
    ("an empty value", "GET / HTTP/1.1\r\nHost: example.com\r\nX-Empty-Header: \r\n\r\n", OK, None),
    (
        "a control character",
        "GET / HTTP/1.1\r\nHost: example.com\r\nX-Bad-Control-Char: test\x07\r\n\r\n",
        CLIENT_ERROR,
        None,
    ),
    ("version 9.9", "GET / HTTP/9.9\r\nHost: example.com\r\n\r\n", ANY_ERROR, None),
    ("text before the method", "Extra lineGET / HTTP/1.1\r\nHost: example.com\r\n\r\n", ANY_ERROR, None),
    ("CR and no LF", "GET / HTTP/1.1\r\nHost: example.com\r\n\rSome-Header: Test\r\n\r\n", CLIENT_ERROR, None),
    // The original sends `hello` to `/` and wants it back. Here `/` takes GET only, and the queue takes JSON; the
    // sample worker sends `n` back.
    (
        "a body",
        "POST /queue HTTP/1.1\r\nHost: example.com\r\nContent-Length: 7\r\n\r\n{\"n\":5}",
        &[(200, 299), (404, 404)],
        Some(5),
    ),
    // The same in one chunk of `c` bytes.
    (
        "a chunk",
        "POST /queue HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
         c\r\n{\"n\":123456}\r\n0\r\n\r\n",
        OK,
        Some(123_456),
    ),
    // The original allows 400 to 499, or an echo of the chunk. RFC 9112, 6.3 calls both headers together an error that
    // ought to be handled as one, and so does this server.
    (
        "a length and a coding",
        "POST /queue HTTP/1.1\r\nHost: example.com\r\ncontent-LengtH: 5\r\nTransFer-Encoding: chunked\r\n\r\n\
         c\r\n{\"n\":123456}\r\n0\r\n\r\n",
        CLIENT_ERROR,
        None,
    ),
];

#[test]
fn a_request_that_is_cut_off_is_waited_for_and_then_served() {
    let mut clients: Vec<Raw> = CUTS
        .iter()
        .map(|(_, sent)| {
            let mut connection = Raw::connect(PATIENT.address());
            connection.send(sent.as_bytes());
            connection
        })
        .collect();
    let mut silence = SILENCE;
    for ((name, _), client) in CUTS.iter().zip(&mut clients) {
        let answer = client.response(silence);
        assert!(matches!(&answer, Err(NoResponse::Timeout(seen)) if seen.is_empty()), "{name}: {answer:?}");
        // The others have waited as long by now.
        silence = Duration::from_millis(1);
    }
    // More than h1spec asks: what was cut off was not damaged.
    for ((name, sent), client) in CUTS.iter().zip(&mut clients) {
        client.send(&WHOLE.as_bytes()[sent.len()..]);
        let answer = client.response(SOON).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
}

#[test]
fn a_whole_request_gets_what_h1spec_allows() {
    for (name, sent, allowed, echo) in &WHOLE_REQUESTS {
        let mut connection = Raw::connect(PATIENT.address());
        connection.send(sent.as_bytes());
        let answer = connection.response(SOON).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let is_allowed = allowed.iter().any(|(least, most)| (*least..=*most).contains(&answer.status));
        assert!(is_allowed, "{name}: {} {}", answer.status, answer.text());
        if let Some(number) = echo {
            assert_eq!(answer.json()["n"], *number, "{name}");
        }
    }
}

#[test]
fn no_case_is_missing() {
    assert_eq!(CUTS.len() + WHOLE_REQUESTS.len(), 33);
    assert!(CUTS.iter().all(|(_, sent)| WHOLE.starts_with(sent) && sent.len() < WHOLE.len()));
}
