//! HTTP meaning: which request is what, and what it is answered.

pub mod admin;
pub mod body;
pub mod budget;
pub mod metrics;
pub mod pacing;
pub mod queue;
pub mod respond;
pub mod route;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, Response};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::admit::Admission;
use crate::config::HttpSettings;
use crate::correlate::Table;
use crate::error::Reject;
use crate::kafka::submit::Submitter;
use crate::kafka::wire::Outcome;
use crate::lifecycle::{Lifecycle, Phase};
use crate::observe::clock::Clock;
use crate::observe::metrics::Registry;
use budget::ByteBudget;
use metrics::HttpMetrics;
use pacing::RefusalPace;
use respond::RequestId;
use route::Route;

/// What the connection saw of the request's framing and hyper does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing amiss.
    Clear,
    /// `Content-Length` and `Transfer-Encoding` together.
    Ambiguous,
    /// A line of the head ended in LF without CR.
    BareLf,
}

/// Which listener a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The only one: everything is here.
    Whole,
    /// The public one, when `ADMIN_ADDR` is set: no metrics.
    Public,
    /// `ADMIN_ADDR`: health and metrics, no queue.
    Admin,
}

/// Everything that a shard's requests need; one per shard and door, never shared between threads.
pub struct Gateway {
    /// Limits and deadlines.
    pub settings: Rc<HttpSettings>,
    /// Which paths are served.
    pub door: Door,
    /// Requests that wait for a reply.
    pub table: Table<Outcome>,
    /// In-flight permits.
    pub admission: Admission,
    /// Tasks to Kafka.
    pub submitter: Submitter,
    /// Readiness and drain.
    pub life: Arc<Lifecycle>,
    /// All metrics of the process, for `/metrics`.
    pub registry: Arc<Registry>,
    /// This shard's own numbers.
    pub metrics: Arc<HttpMetrics>,
    /// Unix time without a system call per request.
    pub clock: Rc<Clock>,
    /// Ids of requests that are refused before they get a correlation id.
    pub random: RefCell<StdRng>,
    /// Memory of bodies that are still arriving, of the whole process.
    pub arriving: Arc<ByteBudget>,
    /// When a 429 may leave, of the whole process.
    pub refusals: Arc<RefusalPace>,
}

impl Gateway {
    /// Answers any request; errors, and panics, are answers too.
    pub async fn respond(&self, request: &mut Request<Incoming>, framing: Framing) -> Response<Full<Bytes>> {
        let request_id = RequestId::of(request);
        let route = route::vet(request, framing, &self.settings)
            .and_then(|()| route::route(request.method(), request.uri(), self.door));
        let leaves_body = !matches!(route, Ok(Route::Queue)) && !request.body().is_end_stream();
        let mut response = match unpanicked(pin!(self.dispatch(route, request, &request_id))).await {
            Ok(response) => response,
            Err(reject) => {
                self.metrics.rejected(&reject);
                self.hold(&reject).await;
                self.refuse(&reject, &request_id)
            }
        };
        if leaves_body {
            // Nobody reads it, so the next request could not be found behind it.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The same shard seen through another listener.
    #[must_use]
    pub fn through(&self, door: Door) -> Rc<Self> {
        Rc::new(Self {
            settings: Rc::clone(&self.settings),
            door,
            table: self.table.clone(),
            admission: self.admission.clone(),
            submitter: self.submitter.clone(),
            life: Arc::clone(&self.life),
            registry: Arc::clone(&self.registry),
            metrics: Arc::clone(&self.metrics),
            clock: Rc::clone(&self.clock),
            random: random(),
            arriving: Arc::clone(&self.arriving),
            refusals: Arc::clone(&self.refusals),
        })
    }

    /// Lets a 429 wait for its turn ([`RefusalPace`]). The request has neither permit nor body any more. A drain holds none,
    /// and waits for those that are held already.
    async fn hold(&self, reject: &Reject) {
        let is_over_a_limit = matches!(reject, Reject::CapacityReached | Reject::RateExceeded);
        if !is_over_a_limit || self.life.phase() >= Phase::Draining {
            return;
        }
        if let Some(turn) = self.refusals.take_turn(Instant::now()) {
            self.metrics.held();
            // Boxed: a timer in each connection's future would be paid for by those that are answered.
            Box::pin(tokio::time::sleep(turn.wait)).await;
        }
    }

    fn refuse(&self, reject: &Reject, request_id: &RequestId) -> Response<Full<Bytes>> {
        let request_id = request_id.or_random(|| self.random.borrow_mut().next_u64());
        if *reject == Reject::Internal {
            tracing::error!(?request_id, "a request panicked; the line before says where");
        }
        respond::problem(reject, request_id)
    }

    async fn dispatch(
        &self,
        route: Result<Route, Reject>,
        request: &mut Request<Incoming>,
        request_id: &RequestId,
    ) -> Result<Response<Full<Bytes>>, Reject> {
        match route? {
            Route::Queue => queue::post(self, request, request_id).await,
            route => Ok(admin::get(self, &route, request).await),
        }
    }
}

/// A random generator for [`Gateway::random`], seeded by the operating system.
#[must_use]
pub fn random() -> RefCell<StdRng> {
    RefCell::new(StdRng::from_os_rng())
}

/// Turns a panic inside `future` into [`Reject::Internal`], so that it ends this request and nothing else. What the
/// request held is given back as the future is dropped.
async fn unpanicked<T>(mut future: Pin<&mut impl Future<Output = Result<T, Reject>>>) -> Result<T, Reject> {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled,
        Err(_) => Poll::Ready(Err(Reject::Internal)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn poll_once<T>(future: impl Future<Output = Result<T, Reject>>) -> Poll<Result<T, Reject>> {
        pin!(unpanicked(pin!(future))).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_panic_ends_its_own_request_and_drops_what_it_held() {
        let held = Rc::new(());
        let holder = Rc::clone(&held);
        let panics = async move { panic!("a bug, of {} holders", Rc::strong_count(&holder)) };
        assert_eq!(poll_once::<()>(panics), Poll::Ready(Err(Reject::Internal)));
        assert_eq!(Rc::strong_count(&held), 1, "given back");
        assert_eq!(poll_once(async { Ok(1) }), Poll::Ready(Ok(1)));
    }
}
