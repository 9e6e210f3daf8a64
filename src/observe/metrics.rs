//! Metrics. Each part owns its numbers as plain atomics and is summed with its siblings of other shards at scrape, so
//! the request path never shares a cache line between cores.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histogram's buckets, in seconds; the last bucket is +Inf.
pub const BUCKETS_S: [f64; 17] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Durations in fixed buckets ([`BUCKETS_S`]).
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_S.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: std::time::Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS_S.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// Something whose numbers appear on `/metrics`.
pub trait Collect: Send + Sync {
    /// Adds the numbers to `samples`; equal series of several parts are summed there.
    fn collect(&self, samples: &mut Samples);
}

/// Everything that appears on `/metrics`. One per process, shared by `Arc`; parts are added at start.
#[derive(Default)]
pub struct Registry {
    parts: Mutex<Vec<Arc<dyn Collect>>>,
}

impl Registry {
    /// Adds a part; it stays for the life of the registry.
    pub fn add(&self, part: Arc<dyn Collect>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }

    /// The sum of all parts now.
    #[must_use]
    pub fn scrape(&self) -> Samples {
        // Parts read atomics and at most a few files of /proc; only another scrape waits for the lock.
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut samples = Samples::default();
        for part in parts.iter() {
            part.collect(&mut samples);
        }
        samples
    }
}

/// Label names and values of one series.
pub type Labels = Vec<(&'static str, String)>;

/// The sum of all parts at one scrape, by family and labels.
#[derive(Debug, Default, Clone)]
pub struct Samples {
    pub(super) families: BTreeMap<&'static str, Family>,
}

#[derive(Debug, Clone)]
pub(crate) struct Family {
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) series: BTreeMap<Labels, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    /// A counter of seconds, kept in microseconds.
    CounterUs,
    Gauge,
    Histogram,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Value {
    pub(crate) number: i128,
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum_us: u64,
}

impl Samples {
    /// Adds to a counter. `name` without the `_total` suffix, e.g. `thousandx_requests`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: u64) {
        self.series(name, help, Kind::Counter, labels).number += i128::from(value);
    }

    /// Adds to a counter of seconds. `name` ends in `_seconds`, without the `_total` suffix.
    pub fn counter_seconds(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: std::time::Duration,
    ) {
        let us = i128::try_from(value.as_micros()).unwrap_or(i128::MAX);
        self.series(name, help, Kind::CounterUs, labels).number += us;
    }

    /// Announces a counter whose series appear only once there is something to count, so that it can be found before.
    pub fn announce(&mut self, name: &'static str, help: &'static str) {
        self.families.entry(name).or_insert_with(|| Family { help, kind: Kind::Counter, series: BTreeMap::new() });
    }

    /// Adds to a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: i64) {
        self.series(name, help, Kind::Gauge, labels).number += i128::from(value);
    }

    /// Adds to a histogram of seconds. `name` ends in `_seconds`.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        histogram: &Histogram,
    ) {
        let value = self.series(name, help, Kind::Histogram, labels);
        value.buckets.resize(BUCKETS_S.len() + 1, 0);
        for (sum, bucket) in value.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        value.sum_us += histogram.sum_us.load(Ordering::Relaxed);
    }

    fn series(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &[(&'static str, &str)],
    ) -> &mut Value {
        let family = self.families.entry(name).or_insert_with(|| Family { help, kind, series: BTreeMap::new() });
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        family.series.entry(labels).or_default()
    }
}
