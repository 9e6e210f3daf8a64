//! What the head and the body of a request cost before any permit is taken, and what an answer costs.

use std::collections::HashMap;
use std::hint::black_box;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::HeaderName;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, Version};
use serde::de::IgnoredAny;
use serde_json::Value;
use thousandx::error::Reject;
use thousandx::http::respond::{self, RequestId};
use thousandx::http::route::{self, Route};
use thousandx::http::{Door, Framing, body};
use thousandx::kafka::wire::Answer;
use thousandx::net::head::HeadScan;
use uuid::Uuid;

use super::correlate::sample_id;
use super::{Meter, OWN, settings};

/// As a usual client library sends it.
const HEAD: &str = "POST /queue HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: client/1.2.3\r\nAccept: */*\r\n\
    Content-Type: application/json\r\nContent-Length: 53\r\n\r\n";
/// As the load generator's.
const TASK: &str = r#"{"action":"get_gift_code","nonce":"00000000deadbeef"}"#;
const ANSWER: &[u8] = br#"{"gift_code":"GIFT-00000000deadbeef","nonce":"00000000deadbeef"}"#;
const DEPTH_MAX: usize = 64;
/// As `http::queue` names it.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

pub fn all(meter: &mut impl Meter) {
    head(meter);
    json(meter);
    answer(meter);
}

fn head(meter: &mut impl Meter) {
    meter.measure("head: framing", OWN, || {
        let mut scan = HeadScan::default();
        scan.feed(black_box(HEAD.as_bytes()));
        scan.is_ambiguous()
    });
    meter.measure("head: framing", "httparse", || {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut fields);
        let _ = request.parse(black_box(HEAD.as_bytes()));
        let has = |name| request.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
        has("content-length") && has("transfer-encoding")
    });

    let request = request();
    let http = settings(&[]).http;
    meter.measure("head: rules, route, body type", OWN, || {
        let request = black_box(&request);
        route::vet(request, Framing::Clear, &http)?;
        let route = route::route(request.method(), request.uri(), Door::Whole)?;
        Ok::<_, Reject>((route, route::body_kind(request.headers(), &http.opaque_types)?))
    });
    // Less than ours: no limits, no framing, no second Host, no body type.
    let routes = HashMap::from([
        ("/queue", (Method::POST, Route::Queue)),
        ("/", (Method::GET, Route::Hello)),
        ("/livez", (Method::GET, Route::Livez)),
        ("/metrics", (Method::GET, Route::Metrics)),
    ]);
    meter.measure("head: rules, route, body type", "HashMap, http's Authority; fewer rules", || {
        let request = black_box(&request);
        let host = request.headers().get("host")?.as_bytes();
        Authority::try_from(host).ok()?;
        let (method, route) = routes.get(request.uri().path())?;
        (request.method() == method).then_some(*route)
    });
    meter.measure("head: a field that is absent", OWN, || black_box(&request).headers().get(TRACEPARENT).is_none());
    meter.measure("head: a field that is absent", "by text", || {
        black_box(&request).headers().get(black_box("traceparent")).is_none()
    });
    meter.measure("head: request id", OWN, || RequestId::of(black_box(&request)));
}

fn request() -> Request<()> {
    let request = Request::builder().method(Method::POST).uri("/queue").version(Version::HTTP_11);
    let fields = HEAD.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    fields.fold(request, |request, (name, value)| request.header(name, value)).body(()).expect("a valid head")
}

fn json(meter: &mut impl Meter) {
    let items: Vec<String> = (0..150).map(|n| format!(r#"{{"id":{n},"name":"item \u00e9 {n}"}}"#)).collect();
    let large = format!(r#"{{"items":[{}]}}"#, items.join(","));
    for (what, text) in [("JSON: 53 bytes", TASK), ("JSON: 5 kB", large.as_str())] {
        // On the heap: where the linker puts a constant decides how fast it is checked for UTF-8.
        let body = &text.as_bytes().to_vec()[..];
        assert_eq!(body::check_json(body, DEPTH_MAX), Ok(()));
        meter.measure(what, OWN, || body::check_json(black_box(body), DEPTH_MAX));
        // Refuses nothing that is too deep, takes bytes that are not UTF-8: the lower bound.
        meter.measure(what, "serde_json, skipped; fewer rules", || {
            serde_json::from_slice::<IgnoredAny>(black_box(body)).is_ok()
        });
        meter.measure(what, "serde_json, tree", || serde_json::from_slice::<Value>(black_box(body)).is_ok());
    }
}

fn answer(meter: &mut impl Meter) {
    let id = sample_id();
    let request = request();
    let reply = || Answer { status: 200, content_type: None, body: Bytes::from_static(ANSWER) };
    meter.measure("answer: 200", OWN, || {
        let request_id = RequestId::of(&request);
        request_id.mint(black_box(id));
        respond::answer(reply(), &request_id)
    });
    let uuid = Uuid::from_bytes(id.to_bytes());
    meter.measure("answer: 200", "http's builder", || {
        let response = Response::builder()
            .status(black_box(200))
            .header("content-type", "application/json")
            .header("x-request-id", black_box(uuid).to_string());
        response.body(Full::new(reply().body))
    });

    meter.measure("answer: 429", OWN, || {
        let request_id = RequestId::of(&request);
        request_id.mint(black_box(id));
        respond::problem(&Reject::CapacityReached, request_id.or_random(|| 0))
    });
    meter.measure("answer: 429", "http's builder, serde_json tree", || {
        let id = black_box(uuid).to_string();
        let document = serde_json::json!({
            "type": "urn:thousandx:problem:capacity_reached", "title": "capacity reached", "status": 429,
            "detail": Reject::CapacityReached.to_string(), "code": "capacity_reached", "request_id": &id,
        });
        let response = Response::builder()
            .status(black_box(429))
            .header("content-type", "application/problem+json")
            .header("x-request-id", id)
            .header("retry-after", "1");
        response.body(Full::new(Bytes::from(document.to_string())))
    });
}
