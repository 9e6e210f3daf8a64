//! The greeting, health and metrics.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, HeaderValue};
use hyper::{Request, Response, StatusCode};

use super::route::Route;
use super::{Gateway, respond};
use crate::lifecycle::{Lifecycle, Phase};
use crate::observe::exposition;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers every route but the queue.
pub async fn get<B>(gateway: &Gateway, route: &Route, request: &Request<B>) -> Response<Full<Bytes>> {
    match route {
        Route::Livez => respond::page(StatusCode::OK, TEXT, "ok\n"),
        Route::Readyz { verbose } => readyz(&gateway.life, *verbose),
        Route::Metrics => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let registry = Arc::clone(&gateway.registry);
            // Counting the descriptors of 20,000 connections takes milliseconds, which are not the shard's to give.
            let scrape = move || exposition::encode(&registry.scrape(), accept.as_deref());
            let (content_type, body) = tokio::task::spawn_blocking(scrape).await.unwrap_or_default();
            respond::page(StatusCode::OK, HeaderValue::try_from(content_type).unwrap_or(TEXT), body)
        }
        // The queue has its own path; the greeting is the template's.
        Route::Hello | Route::Queue => respond::page(StatusCode::OK, JSON, r#"{"Hello":"World"}"#),
    }
}

fn readyz(life: &Lifecycle, verbose: bool) -> Response<Full<Bytes>> {
    let ready = life.is_ready();
    let mut body = String::new();
    if verbose {
        for part in life.parts() {
            // Writing to memory cannot fail.
            let _ = writeln!(body, "[{}] {}", if part.is_ready() { '+' } else { '-' }, part.name());
        }
        let draining = life.phase() >= Phase::Draining;
        let _ = writeln!(body, "[{}] not draining", if draining { '-' } else { '+' });
    }
    body.push_str(if ready { "ready\n" } else { "not ready\n" });
    respond::page(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, TEXT, body)
}
