//! docs/openapi.json against the program: the codes of `error::Reject`, the routes, and real answers.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;
use thousandx::error::Reject;

use crate::support::http::{Method, Raw, Response, post_queue};
use crate::support::repository;
use crate::{PATIENT, SOON};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = std::fs::read_to_string(repository("docs/openapi.json")).expect("the document");
    serde_json::from_str(&text).expect("JSON")
});

/// Methods that a path of the document may have.
const METHODS: [&str; 8] = ["get", "head", "post", "put", "patch", "delete", "options", "trace"];

/// The value itself, or what its `$ref` names.
fn resolve(value: &'static Value) -> &'static Value {
    let Some(target) = value.get("$ref").and_then(Value::as_str) else { return value };
    let pointer = target.strip_prefix('#').unwrap_or_else(|| panic!("{target} is not in the document"));
    DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("{target} does not exist"))
}

fn members(value: &'static Value) -> impl Iterator<Item = (&'static String, &'static Value)> {
    value.as_object().expect("an object").iter()
}

/// The codes of a problem response; none of anything else.
fn codes(response: &'static Value) -> BTreeSet<&'static str> {
    let schema = response.pointer("/content/application~1problem+json/schema/allOf/1/properties/code/enum");
    schema.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn it_has_every_status_and_code_and_no_other() {
    let mut documented = BTreeSet::new();
    for (name, response) in members(&DOCUMENT["components"]["responses"]) {
        let schema = &response["content"]["application/problem+json"]["schema"]["allOf"];
        assert_eq!(schema[0]["$ref"], "#/components/schemas/Problem", "{name}");
        let status = schema[1]["properties"]["status"]["const"].as_u64().and_then(|status| status.try_into().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("{name} has no status"));
        let codes = codes(response);
        let fates = || Reject::every().into_iter().map(|reject| reject.fate()).filter(|fate| codes.contains(fate.code));
        let has = |header: &str| response["headers"].get(header).is_some();
        assert_eq!(fates().all(|fate| fate.retry_after_s.is_some()), has("Retry-After"), "{name}");
        assert_eq!(fates().any(|fate| fate.retry_after_s.is_some()), has("Retry-After"), "{name}");
        assert_eq!(status == 405, has("Allow"), "{name}");
        documented.extend(codes.into_iter().map(|code| (status, code)));
    }
    let every: BTreeSet<_> = Reject::every().iter().map(|reject| (reject.fate().status, reject.fate().code)).collect();
    assert_eq!(documented, every);
}

#[test]
fn the_queue_may_answer_every_status_but_not_found() {
    let answers = &DOCUMENT["paths"]["/queue"]["post"]["responses"];
    let documented: BTreeSet<u16> = members(answers).map(|(status, _)| status.parse().expect("a status")).collect();
    let every =
        Reject::every().into_iter().map(|reject| reject.fate().status).filter(|status| *status != 404).chain([200]);
    assert_eq!(documented, every.collect());
    for (path, operations) in members(&DOCUMENT["paths"]) {
        for (method, operation) in members(operations) {
            for (status, response) in members(&operation["responses"]) {
                let response = resolve(response);
                assert!(response["description"].is_string(), "{method} {path} {status}");
                let own = codes(response);
                let known = Reject::every()
                    .iter()
                    .any(|reject| reject.fate().status.to_string() == *status && own.contains(reject.fate().code));
                assert!(own.is_empty() || known, "{method} {path}: {status} has the codes of another status");
            }
        }
    }
}

#[test]
fn its_paths_and_methods_are_the_servers() {
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (path, operations) in members(&DOCUMENT["paths"]) {
        for method in METHODS {
            let request = format!("{} {path} HTTP/1.1\r\nhost: a\r\n\r\n", method.to_uppercase());
            let answer = ask(method, request.as_bytes());
            let expected = if operations.get(method).is_some() { 200 } else { 405 };
            assert_eq!(answer.status, expected, "{method} {path}: {}", answer.text());
        }
    }
}

#[test]
fn real_answers_are_as_it_says() {
    let get = |path: &str, rest: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{rest}\r\n").into_bytes();
    let post = |headers: &str| format!("POST /queue HTTP/1.1\r\nhost: a\r\n{headers}\r\n").into_bytes();
    let long = format!("/metrics?{}", "x".repeat(9_000));
    for (method, path, bytes) in [
        ("post", "/queue", post_queue("{}")),
        ("post", "/queue", post_queue("{")),
        ("post", "/queue", post("content-length: x\r\n")),
        ("post", "/queue", post("content-length: 9000000\r\n")),
        ("post", "/queue", post("content-type: image/png\r\n")),
        ("post", "/queue", post(&"x: y\r\n".repeat(70))),
        ("post", "/queue", b"DELETE /queue HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        ("get", "/", get("/", "")),
        ("get", "/", get("/", "host: b\r\n")),
        ("get", "/livez", get("/livez", "")),
        ("get", "/readyz", get("/readyz?verbose", "")),
        ("get", "/health", get("/health", "")),
        ("get", "/metrics", get("/metrics", "")),
        ("get", "/metrics", get("/metrics", "accept: application/openmetrics-text\r\n")),
        ("get", "/metrics", get(&long, "")),
        ("head", "/", b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
    ] {
        let answer = ask(method, &bytes);
        let shown = || format!("{method} {path}: {} {}", answer.status, answer.text());
        let declared = DOCUMENT["paths"][path][method]["responses"].get(answer.status.to_string());
        let declared = resolve(declared.unwrap_or_else(|| panic!("undeclared: {}", shown())));
        let kind = answer.header("content-type").and_then(|kind| kind.split(';').next()).expect("a content type");
        assert!(method == "head" || declared["content"].get(kind).is_some(), "{kind}: {}", shown());
        assert!(answer.code().is_none_or(|code| codes(declared).contains(code.as_str())), "{}", shown());
        for (header, wanted) in declared.get("headers").into_iter().flat_map(members) {
            let is_there = answer.header(&header.to_lowercase()).is_some();
            assert!(is_there || resolve(wanted)["required"] != true, "without {header}: {}", shown());
        }
    }
}

fn ask(method: &str, bytes: &[u8]) -> Response {
    let mut connection = Raw::connect(PATIENT.address());
    connection.send(bytes);
    let of = if method == "head" { Method::Head } else { Method::Other };
    connection.response_to(of, SOON).unwrap_or_else(|error| panic!("{error:?} to {:?}", String::from_utf8_lossy(bytes)))
}
