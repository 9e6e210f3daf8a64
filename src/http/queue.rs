//! The request path: `POST /queue` in five verbs. Every early exit is a [`Reject`]; what was taken is given back as
//! the values drop, in whatever way this function ends, including not at all (the client left).

use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, Uri};

use super::respond::RequestId;
use super::{Gateway, body, respond, route};
use crate::admit::Refused;
use crate::error::Reject;
use crate::kafka::wire::{Outcome, Task, Undelivered};
use crate::lifecycle::Phase;

// Names rather than texts: a text is parsed with each look-up.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Sends the body as a task and answers with the worker's reply.
pub async fn post(
    gateway: &Gateway,
    request: &mut Request<Incoming>,
    request_id: &RequestId,
) -> Result<Response<Full<Bytes>>, Reject> {
    let kind = route::body_kind(request.headers(), &gateway.settings.opaque_types)?;

    // Read: a slow client holds nothing but its own connection.
    let body = body::read(request.body_mut(), kind, &gateway.settings, &gateway.arriving).await?;
    let started = Instant::now();
    let deadline = started + gateway.settings.reply_timeout;

    // Admit: nothing is asked of Redis while Kafka could not take the task.
    gateway.ensure_serving()?;
    let ticket = gateway.table.mint().map_err(|_| Reject::BrokerQueueFull)?;
    request_id.mint(ticket.id());
    let permit = gateway.admission.acquire(ticket.id()).await?;
    if Instant::now() >= deadline {
        return Err(Reject::ReplyTimeout); // Redis was slow, or this thread did not run: a task would be done for nobody
    }

    // Reserve the slot that the reply will find, then submit the task that asks for it.
    let waiter = ticket.reserve(&permit, deadline);
    let in_flight = gateway.metrics.in_flight(started);
    let submitted = gateway.submitter.submit(&Task {
        id: waiter.id(),
        body: &body.bytes,
        content_type: field(request.headers(), CONTENT_TYPE),
        traceparent: field(request.headers(), TRACEPARENT),
        tracestate: field(request.headers(), TRACESTATE),
        client_request_id: request_id.of_client(),
        deadline_unix_ms: gateway.clock.unix_ms_at(deadline),
    });
    drop(body);
    forget_head(request);

    // Wait, give the permit back, answer: a client that reads slowly holds no capacity.
    let outcome = match submitted {
        Ok(()) => waiter.await.map_err(|_| Reject::ReplyTimeout),
        Err(cause) => Ok(Outcome::Undelivered(cause)),
    };
    drop(permit);
    in_flight.ended();
    match outcome? {
        Outcome::Answer(answer) => {
            gateway.metrics.answered(answer.status);
            Ok(respond::answer(answer, request_id))
        }
        Outcome::WorkerError(code) => Err(Reject::WorkerError(code)),
        Outcome::Malformed => Err(Reject::MalformedReply),
        Outcome::Undelivered(cause) => Err(cause.into()),
        Outcome::Draining => Err(Reject::Draining),
    }
}

impl Gateway {
    /// Refuses at once what could only fail: the process is going, or Kafka is away.
    fn ensure_serving(&self) -> Result<(), Reject> {
        if self.life.phase() == Phase::Closed {
            return Err(Reject::Draining);
        }
        Ok(self.submitter.check()?)
    }
}

/// Lets go of the connection's read buffer, which the head's parts are slices of: it serves the next request.
fn forget_head(request: &mut Request<Incoming>) {
    *request.headers_mut() = HeaderMap::new();
    *request.uri_mut() = Uri::default();
}

fn field(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    headers.get(name).map(HeaderValue::as_bytes)
}

impl From<Refused> for Reject {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::CapacityReached => Self::CapacityReached,
            Refused::RateExceeded => Self::RateExceeded,
            Refused::Unavailable => Self::LimiterUnavailable,
        }
    }
}

impl From<Undelivered> for Reject {
    fn from(cause: Undelivered) -> Self {
        match cause {
            Undelivered::QueueFull => Self::BrokerQueueFull,
            Undelivered::Unavailable => Self::BrokerUnavailable,
            Undelivered::TopicMissing => Self::TopicMissing,
            Undelivered::TooLarge => Self::TaskTooLarge,
            Undelivered::NotAnObject => Self::NotAnObject,
        }
    }
}
