//! Where a request ends: lengths, transfer codings, chunks, line endings. Behind each request follows another one: it
//! is answered when the first was framed as it says, and never after a refusal.

use crate::support::http::{Raw, Response};
use crate::{PATIENT, SOON, post};

/// Answered with 404.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
/// A body, how long it is, and the same in one chunk.
const BODY: &str = r#"{"n":1}"#;
const LENGTH: &str = "content-length: 7\r\n";
const CHUNK: &str = "7\r\n{\"n\":1}\r\n0\r\n\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// Sends the bytes with [`NEXT`] behind them and reads the first answer.
pub fn followed(name: &str, bytes: &[u8]) -> (Response, Raw) {
    let mut connection = Raw::connect(PATIENT.address());
    connection.send(&[bytes, NEXT].concat());
    let answer = connection.response(SOON).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    (answer, connection)
}

/// The problem, then the end of the connection.
pub fn assert_refused(name: &str, bytes: &[u8], status: u16, code: &str) {
    let (answer, mut connection) = followed(name, bytes);
    assert_eq!((answer.status, answer.code().as_deref()), (status, Some(code)), "{name}: {}", answer.text());
    assert!(answer.closes(), "{name}: the connection is kept");
    assert!(connection.is_closed_within(SOON), "{name}: something follows the refusal");
}

/// The answer, then that to [`NEXT`].
pub fn assert_taken(name: &str, bytes: &[u8], status: u16) -> Response {
    let (answer, mut connection) = followed(name, bytes);
    assert_eq!(answer.status, status, "{name}: {}", answer.text());
    let next = connection.response(SOON).unwrap_or_else(|error| panic!("{name}, the next request: {error:?}"));
    assert_eq!((next.status, next.code().as_deref()), (404, Some("not_found")), "{name}: {}", next.text());
    answer
}

#[test]
fn a_length_that_is_none_is_refused() {
    for value in ["7, 7", "7,7", "0x7", "", "1 0", "1\t0", "seven", "7.0", "\"7\"", "7;", "-7", "+7", "--7", "7-"] {
        assert_refused(value, &post(&format!("content-length: {value}\r\n"), BODY), 400, "bad_request");
    }
    // Over 64 bits, and two below: those are larger than any body, by the rule for bodies.
    let huge = |length: &str| post(&format!("content-length: {length}\r\n"), "");
    assert_refused("2^64", &huge("18446744073709551616"), 400, "bad_request");
    assert_refused("10^40", &huge(&format!("1{}", "0".repeat(40))), 400, "bad_request");
    assert_refused("2^64 - 3", &huge("18446744073709551613"), 413, "body_too_large");
    // hyper keeps the two highest for itself, and calls them too large a head.
    assert_refused("2^64 - 1", &huge("18446744073709551615"), 431, "headers_too_large");
    for (name, headers) in [
        ("the second differs", "content-length: 7\r\ncontent-length: 8\r\n"),
        ("the first differs", "content-length: 8\r\ncontent-length: 7\r\n"),
        ("the second is none", "content-length: 7\r\ncontent-length: x\r\n"),
        ("the third differs", "content-length: 7\r\ncontent-length: 7\r\ncontent-length: 0\r\n"),
        ("another case", "content-length: 7\r\nCONTENT-LENGTH: 70\r\n"),
    ] {
        assert_refused(name, &post(headers, BODY), 400, "bad_request");
    }
}

#[test]
fn a_length_in_any_spelling_that_means_one_is_taken() {
    for (name, headers) in [
        ("plain", LENGTH),
        ("twice the same", "content-length: 7\r\ncontent-length: 7\r\n"),
        ("spaces around", "content-length: \t 7 \t \r\n"),
        ("no space", "content-length:7\r\n"),
        ("zeros in front", "content-length: 0000000000000000000000007\r\n"),
        ("a name that only looks like it", "content_length: 9\r\ncontent-length: 7\r\n"),
        ("a coding's name that only looks like it", "transfer_encoding: chunked\r\ncontent-length: 7\r\n"),
    ] {
        let answer = assert_taken(name, &post(headers, BODY), 200);
        assert_eq!(answer.json()["n"], 1, "{name}");
    }
}

#[test]
fn a_length_and_a_coding_exclude_each_other() {
    for (name, headers) in [
        ("the length first", format!("{LENGTH}{CHUNKED}")),
        ("the coding first", format!("{CHUNKED}{LENGTH}")),
        ("far apart", format!("{LENGTH}x: {}\r\n{CHUNKED}", "y".repeat(2000))),
        ("in other case", format!("Content-LENGTH: 7\r\n{}", CHUNKED.to_uppercase())),
        ("a length of nothing", format!("content-length: 0\r\n{CHUNKED}")),
        ("with spaces", "content-length:\t7\r\ntransfer-encoding:\t chunked \t\r\n".to_owned()),
        ("two lengths and a coding", format!("{LENGTH}{LENGTH}{CHUNKED}")),
        ("a foreign coding", format!("{LENGTH}transfer-encoding: gzip\r\n")),
        ("no coding", format!("{LENGTH}transfer-encoding: identity\r\n")),
        ("an empty coding", format!("{LENGTH}transfer-encoding:\r\n")),
    ] {
        assert_refused(name, &post(&headers, CHUNK), 400, "bad_request");
        // In pieces, so that no part of the head is seen with the one before it.
        let mut connection = Raw::connect(PATIENT.address());
        for piece in post(&headers, CHUNK).chunks(7) {
            connection.send(piece);
        }
        assert_eq!(connection.response(SOON).expect("an answer").code().as_deref(), Some("bad_request"), "{name}");
    }
}

#[test]
fn the_only_coding_is_chunked_once() {
    for value in [
        "gzip",
        "identity",
        "xchunked",
        "chunkedx",
        "x chunked",
        "chunked x",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ", chunked",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\0",
        "\u{fffd}chunked",
        "",
    ] {
        assert_refused(value, &post(&format!("transfer-encoding: {value}\r\n"), CHUNK), 400, "bad_request");
    }
    for (name, headers) in [
        ("twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
        ("after another", "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n"),
        ("before another", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"),
        ("a space before the colon", "transfer-encoding : chunked\r\n"),
        ("a tab before the colon", "transfer-encoding\t: chunked\r\n"),
        ("a space before the name", "x: y\r\n transfer-encoding: chunked\r\n"),
        ("on a second line", "transfer-encoding:\r\n chunked\r\n"),
        ("behind a bare CR", "x: y\rtransfer-encoding: chunked\r\n"),
        ("behind a bare LF", "x: y\ntransfer-encoding: chunked\r\n"),
        ("a NUL in the name", "transfer\0-encoding: chunked\r\n"),
    ] {
        assert_refused(name, &post(headers, CHUNK), 400, "bad_request");
    }
    let old = format!("POST /queue HTTP/1.0\r\nhost: a\r\n{CHUNKED}\r\n{CHUNK}");
    assert_refused("HTTP/1.0 has no codings", old.as_bytes(), 400, "bad_request");
    for value in ["chunked", "CHUNKED", "\tchunked\t"] {
        let answer = assert_taken(value, &post(&format!("transfer-encoding:{value}\r\n"), CHUNK), 200);
        assert_eq!(answer.json()["n"], 1, "{value}");
    }
}

#[test]
fn chunks_that_are_none_are_refused() {
    let long = |length: usize| "x".repeat(length);
    for (name, body) in [
        ("no size", "\r\n{}\r\n0\r\n\r\n".to_owned()),
        ("over 64 bits", "10000000000000000\r\n{}\r\n0\r\n\r\n".into()),
        ("many zeros and over 64 bits", format!("{}10000000000000000\r\n", "0".repeat(100))),
        ("a sign", "+7\r\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("negative", "-1\r\n{}\r\n0\r\n\r\n".into()),
        ("a prefix", "0x7\r\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("two sizes", "7 7\r\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("a space in front", " 7\r\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("LF after the size", "7\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("CR alone after the size", "7\r{\"n\":1}\r\n0\r\n\r\n".into()),
        ("LF in an extension", "7;a\nb\r\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("CR in an extension", "7;a\rb\r\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("LF after the data", "7\r\n{\"n\":1}\n0\r\n\r\n".into()),
        ("nothing after the data", "7\r\n{\"n\":1}0\r\n\r\n".into()),
        ("more data than said", "7\r\n{\"n\":1} \r\n0\r\n\r\n".into()),
        ("less data than said", "9\r\n{\"n\":1}\r\n0\r\n\r\n".into()),
        ("LF after the last", "7\r\n{\"n\":1}\r\n0\n\r\n".into()),
        ("LF at the end", "7\r\n{\"n\":1}\r\n0\r\n\rx".into()),
        ("an extension without end", format!("7;{}", long(17_000))),
        ("an extension of 17 kB", format!("7;{}\r\n{{\"n\":1}}\r\n0\r\n\r\n", long(17_000))),
        ("17 kB of small extensions", format!("{}0\r\n\r\n", "1;xxxxxxxx\r\n \r\n".repeat(2_200))),
        ("a trailer that is none", "7\r\n{\"n\":1}\r\n0\r\nnone\r\n\r\n".into()),
        ("a trailer with LF", "7\r\n{\"n\":1}\r\n0\r\na: b\nc: d\r\n\r\n".into()),
        ("a folded trailer", "7\r\n{\"n\":1}\r\n0\r\na: b\r\n c\r\n\r\n".into()),
        ("a large trailer", format!("7\r\n{{\"n\":1}}\r\n0\r\na: {}\r\n\r\n", long(30_000))),
        ("many trailers", format!("7\r\n{{\"n\":1}}\r\n0\r\n{}\r\n", "a: b\r\n".repeat(150))),
    ] {
        assert_refused(name, &post(CHUNKED, &body), 400, "bad_request");
    }
}

#[test]
fn chunks_in_any_shape_are_taken() {
    let trailer = format!("7\r\n{BODY}\r\n0\r\nx-request-id: from-the-trailer\r\ncontent-length: 3\r\n\r\n");
    for (name, body) in [
        ("one", CHUNK),
        ("zeros in front", "00000000000000000000007\r\n{\"n\":1}\r\n000\r\n\r\n"),
        ("a space behind", "7 \t\r\n{\"n\":1}\r\n0 \r\n\r\n"),
        ("extensions", "3;a=b\r\n{\"n\r\n4;c=\"d\"\r\n\":1}\r\n0;e\r\n\r\n"),
        ("hexadecimal, both cases", "a\r\n{\"n\":1   }\r\nB\r\n           \r\n0\r\n\r\n"),
        ("trailers", trailer.as_str()),
    ] {
        let answer = assert_taken(name, &post(CHUNKED, body), 200);
        assert_eq!(answer.json()["n"], 1, "{name}");
        assert_ne!(answer.header("x-request-id"), Some("from-the-trailer"), "{name}: a trailer is no header");
    }
}

#[test]
fn lines_end_in_crlf_and_fields_are_fields() {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{rest}\r\n").into_bytes();
    for (name, bytes) in [
        ("LF after the request line", b"GET / HTTP/1.1\nhost: a\r\n\r\n".to_vec()),
        ("LF after a field", get("x: y\n")),
        ("LF after a long field", get("a-name-longer-than-any-of-interest: y\n")),
        ("LF at the end", b"GET / HTTP/1.1\r\nhost: a\r\n\n".to_vec()),
        ("LF everywhere", b"GET / HTTP/1.1\nhost: a\n\n".to_vec()),
        ("LF behind an empty line", b"\r\nGET / HTTP/1.1\nhost: a\n\n".to_vec()),
        ("a bare CR in a value", get("x: a\rb\r\n")),
        ("a bare CR before a field", get("\rx: a\r\n")),
        ("CR CR LF", get("x: a\r\r\n")),
        ("a NUL in a value", get("x: a\0b\r\n")),
        ("a control character in a value", get("x: a\u{7}b\r\n")),
        ("DEL in a value", get("x: a\u{7f}b\r\n")),
        ("a folded value", get("x: a\r\n b\r\n")),
        ("a value folded by a tab", get("x: a\r\n\tb\r\n")),
        ("a space before the first field", b"GET / HTTP/1.1\r\n x: y\r\nhost: a\r\n\r\n".to_vec()),
        ("a space before the colon", get("x : a\r\n")),
        ("a tab before the colon", get("x\t: a\r\n")),
        ("no colon", get("x\r\n")),
        ("no name", get(": a\r\n")),
        ("brackets in a name", get("x[]: a\r\n")),
        ("a NUL in a name", get("x\0y: a\r\n")),
        ("a name that is not ASCII", get("\u{fc}: a\r\n")),
    ] {
        assert_refused(name, &bytes, 400, "bad_request");
    }
    for (name, bytes) in [
        ("an empty value", get("x:\r\n")),
        ("a tab in a value", get("x: a\tb\r\n")),
        ("a value that is not ASCII", get("x: gr\u{fc}\u{df}e\r\n")),
        ("any token as a name", get("!#$%&'*+-.^_`|~0aA: b\r\n")),
        ("an empty line in front", [b"\r\n".to_vec(), get("")].concat()),
    ] {
        assert_taken(name, &bytes, 200);
    }
}
