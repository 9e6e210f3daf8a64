//! What a shard counts about requests.

use std::time::{Duration, Instant};

use crate::correlate::Delivery;
use crate::error::Reject;
use crate::observe::metrics::{Collect, Counter, Gauge, Histogram, Samples};

/// Status classes of answers, as metric labels.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// A shard's request numbers.
#[derive(Debug)]
pub struct HttpMetrics {
    /// Workers' answers by status class.
    answers: [Counter; CLASSES.len()],
    /// Refusals by code, in the order of [`HttpMetrics::codes`].
    rejected: Vec<(&'static str, Counter)>,
    held: Counter,
    duration: Histogram,
    in_flight: Gauge,
    client_gone: Counter,
    delivered: Counter,
    duplicate: Counter,
    late: Counter,
    forged: Counter,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let mut codes: Vec<_> = Reject::every().iter().map(|reject| reject.fate().code).collect();
        codes.dedup();
        Self {
            answers: Default::default(),
            rejected: codes.into_iter().map(|code| (code, Counter::default())).collect(),
            held: Counter::default(),
            duration: Histogram::default(),
            in_flight: Gauge::default(),
            client_gone: Counter::default(),
            delivered: Counter::default(),
            duplicate: Counter::default(),
            late: Counter::default(),
            forged: Counter::default(),
        }
    }
}

impl HttpMetrics {
    /// Counts a refusal.
    pub fn rejected(&self, reject: &Reject) {
        let code = reject.fate().code;
        if let Some((_, counter)) = self.rejected.iter().find(|(known, _)| *known == code) {
            counter.inc();
        }
    }

    /// Counts a 429 that has to wait for its turn.
    pub fn held(&self) {
        self.held.inc();
    }

    /// Workers' answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.iter().map(Counter::get).sum()
    }

    /// Counts a worker's answer.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.answers[class].inc();
    }

    /// Counts what became of a reply.
    pub fn reply(&self, delivery: Delivery) {
        match delivery {
            Delivery::Delivered => self.delivered.inc(),
            Delivery::Duplicate => self.duplicate.inc(),
            Delivery::Late => self.late.inc(),
            Delivery::Forged => self.forged.inc(),
        }
    }

    /// Counts one request as in flight until the guard drops, and then its duration since `started`.
    pub fn in_flight(&self, started: Instant) -> InFlight<'_> {
        self.in_flight.add(1);
        InFlight { metrics: self, started, ended: false }
    }
}

/// A request in flight. Dropped without [`InFlight::ended`], its client has left.
#[must_use]
pub struct InFlight<'a> {
    metrics: &'a HttpMetrics,
    started: Instant,
    ended: bool,
}

impl InFlight<'_> {
    /// The request has its outcome.
    pub fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.add(-1);
        if self.ended {
            let elapsed: Duration = self.started.elapsed();
            self.metrics.duration.observe(elapsed);
        } else {
            self.metrics.client_gone.inc();
        }
    }
}

impl Collect for HttpMetrics {
    fn collect(&self, samples: &mut Samples) {
        for (class, counter) in CLASSES.iter().zip(&self.answers) {
            samples.counter(
                "thousandx_answers",
                "Workers' answers sent to clients, by status class.",
                &[("status", class)],
                counter.get(),
            );
        }
        for (code, counter) in &self.rejected {
            let help = "Requests refused or failed, by problem code.";
            samples.counter("thousandx_rejected", help, &[("code", code)], counter.get());
        }
        let help = "Refusals with 429 that waited for their turn (REFUSALS_PER_SECOND).";
        samples.counter("thousandx_refusals_held", help, &[], self.held.get());
        for (result, counter) in [
            ("delivered", &self.delivered),
            ("duplicate", &self.duplicate),
            ("late", &self.late),
            ("forged", &self.forged),
        ] {
            let help = "Replies by what became of them.";
            samples.counter("thousandx_replies", help, &[("result", result)], counter.get());
        }
        samples.counter(
            "thousandx_client_gone",
            "Clients that left while their admitted request waited.",
            &[],
            self.client_gone.get(),
        );
        samples.gauge("thousandx_in_flight", "Requests that hold a permit and wait.", &[], self.in_flight.get());
        let help = "From the complete body to the outcome of an admitted request.";
        samples.histogram("thousandx_request_duration_seconds", help, &[], &self.duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_counter() {
        let metrics = HttpMetrics::default();
        for reject in Reject::every() {
            metrics.rejected(&reject);
        }
        let counted: u64 = metrics.rejected.iter().map(|(_, counter)| counter.get()).sum();
        assert_eq!(counted, Reject::every().len() as u64);
    }

    #[test]
    fn a_dropped_request_is_a_client_that_left() {
        let metrics = HttpMetrics::default();
        metrics.in_flight(Instant::now()).ended();
        drop(metrics.in_flight(Instant::now()));
        assert_eq!((metrics.client_gone.get(), metrics.in_flight.get()), (1, 0));
    }
}
