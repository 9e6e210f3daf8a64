//! Two producers of one kind. On the *prompt* lane a record leaves at once; on the *bulk* lane it waits up to
//! `KAFKA_LINGER_MS` for others, so that one request carries many. Whoever sends says which, by how much there is to
//! send: at low load a wait costs latency and saves nothing, at high load it halves the broker's work.
//!
//! Two producers, because librdkafka's `linger.ms` is one number for a whole producer, fixed at its start, and its timers
//! have a grain of a millisecond: any wait, however short, adds 1 ms to a record that is alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::native::{Code, Conf, Events, Message, Producer, Record, Topic, TopicMetadata};
use crate::config::KafkaSettings;
use crate::error::StartError;

/// So many records a second, of the whole process, are load...
const BULK_FROM_PER_S: u32 = 24_000;
/// ...and on one thread never fewer than this, or with many threads a few connections on one of them would be load.
const BULK_FROM_PER_S_OF_THREAD: u32 = 9_000;
/// Load is counted in windows of this length...
const WINDOW_MS: u64 = 2;
/// ...and is what the last eight or so of them had: records come in bursts, of one limiter call for example.
const SMOOTHING: u32 = 8;
/// After so many windows without a record there is no load.
const WINDOWS_REMEMBERED: u64 = 32;
/// Counts are smoothed in parts of this size, or small ones would be lost in the division.
const PARTS: u32 = 64;

/// How a record travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Leaves at once.
    Prompt,
    /// Waits for others.
    Bulk,
}

/// Makes the configuration of one lane: the settings, and `linger.ms`.
pub type MakeConf = fn(&KafkaSettings, f64) -> Result<Conf, StartError>;

/// Both producers; clones share them.
#[derive(Clone)]
pub struct Lanes {
    prompt: Producer,
    /// `None` with `KAFKA_LINGER_MS=0`: everything is prompt.
    bulk: Option<Producer>,
    /// The bulk lane has no broker: everything is prompt until it has one again.
    bulk_down: Arc<AtomicBool>,
}

/// A topic on both lanes; clones share it.
#[derive(Clone)]
pub struct LaneTopic {
    prompt: Topic,
    bulk: Option<Topic>,
    bulk_down: Arc<AtomicBool>,
}

/// The bulk lane's callbacks. That it has lost its broker concerns nobody else: the prompt lane has its own connection,
/// and says so for all when it is lost too.
struct BulkEvents {
    events: Arc<dyn Events>,
    down: Arc<AtomicBool>,
}

impl Events for BulkEvents {
    fn report(&self, message: &Message<'_>) {
        self.events.report(message);
    }

    fn error(&self, code: Code, reason: &str) {
        if code == Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN {
            self.down.store(true, Ordering::Relaxed);
            tracing::debug!(reason, "the bulk lane has no broker");
        } else {
            self.events.error(code, reason);
        }
    }
}

/// What a [`Meter`] says of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Number of the window of time that it falls in.
    pub window: u64,
    /// How many came before it in this window.
    pub earlier: u32,
    /// How it shall travel.
    pub lane: Lane,
}

/// Chooses the lane by the load of late. For one thread: others may hold it, not use it.
#[derive(Debug)]
pub struct Meter {
    window: AtomicU64,
    /// Records in this window.
    records: AtomicU32,
    /// Records per window, smoothed, in [`PARTS`].
    pace: AtomicU32,
    /// From this pace on there is load.
    bulk_from: u32,
}

impl Meter {
    /// For one of so many threads, among which the load is taken to be spread evenly.
    #[must_use]
    pub fn of_one_in(threads: usize) -> Self {
        let windows_per_s = 1_000 / u32::try_from(WINDOW_MS).unwrap_or(1);
        let share = BULK_FROM_PER_S / u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        let bulk_from = share.max(BULK_FROM_PER_S_OF_THREAD) * PARTS / windows_per_s;
        Self { window: AtomicU64::default(), records: AtomicU32::default(), pace: AtomicU32::default(), bulk_from }
    }

    /// Counts a record at `now_ms`, of any clock.
    #[inline]
    pub fn count(&self, now_ms: u64) -> Moment {
        // One thread: plain loads and stores, atomic to be `Sync`.
        let window = now_ms / WINDOW_MS;
        let (last, mut earlier) = (self.window.load(Ordering::Relaxed), self.records.load(Ordering::Relaxed));
        if last != window {
            self.pace.store(self.smoothed(earlier, window.saturating_sub(last)), Ordering::Relaxed);
            self.window.store(window, Ordering::Relaxed);
            earlier = 0;
        }
        self.records.store(earlier.saturating_add(1), Ordering::Relaxed);
        let is_load = self.pace.load(Ordering::Relaxed) >= self.bulk_from;
        Moment { window, earlier, lane: if is_load { Lane::Bulk } else { Lane::Prompt } }
    }

    /// The pace after a window with `records`, `windows` windows ago, and empty ones since.
    fn smoothed(&self, records: u32, windows: u64) -> u32 {
        if windows > WINDOWS_REMEMBERED {
            return 0;
        }
        let pace = self.pace.load(Ordering::Relaxed);
        let pace = pace - pace / SMOOTHING + records.saturating_mul(PARTS / SMOOTHING);
        (1..windows).fold(pace, |pace, _empty| pace - pace / SMOOTHING)
    }
}

impl Lanes {
    /// Makes the producers, with the same `events`; does not wait for a broker.
    pub fn new(settings: &KafkaSettings, conf: MakeConf, events: &Arc<dyn Events>) -> Result<Self, StartError> {
        let producer = |linger_ms, events: Arc<dyn Events>| {
            Producer::new(conf(settings, linger_ms)?, events).map_err(StartError::Kafka)
        };
        let bulk_down = Arc::new(AtomicBool::new(false));
        let bulk_events = BulkEvents { events: Arc::clone(events), down: Arc::clone(&bulk_down) };
        let has_bulk = settings.linger_ms > 0.0;
        let bulk = has_bulk.then(|| producer(settings.linger_ms, Arc::new(bulk_events))).transpose()?;
        Ok(Self { prompt: producer(0.0, Arc::clone(events))?, bulk, bulk_down })
    }

    /// As [`Producer::topic`].
    pub fn topic(&self, name: &str) -> Result<LaneTopic, Code> {
        let bulk = self.bulk.as_ref().map(|bulk| bulk.topic(name)).transpose()?;
        Ok(LaneTopic { prompt: self.prompt.topic(name)?, bulk, bulk_down: Arc::clone(&self.bulk_down) })
    }

    /// As [`Producer::poll`], on one lane after the other: a report comes at most half of `wait` late.
    pub fn poll(&self, wait: Duration) {
        let share = wait / if self.bulk.is_some() { 2 } else { 1 };
        self.each().for_each(|producer| producer.poll(share));
    }

    /// As [`Producer::flush`].
    #[must_use]
    pub fn flush(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let unflushed = |producer: &&Producer| !producer.flush(end.saturating_duration_since(Instant::now()));
        // Every lane is flushed, also after one that failed.
        self.each().filter(unflushed).count() == 0
    }

    /// As [`Producer::purge`].
    pub fn purge(&self) {
        self.each().for_each(Producer::purge);
    }

    /// As [`Producer::queued`].
    #[must_use]
    pub fn queued(&self) -> usize {
        self.each().map(Producer::queued).sum()
    }

    /// As [`Producer::metadata`], on the prompt lane. The bulk lane is asked as well, and left alone while it has no
    /// broker; `timeout` is for each.
    pub fn metadata(&self, timeout: Duration) -> Result<Vec<TopicMetadata>, Code> {
        let topics = self.prompt.metadata(timeout)?;
        if let Some(bulk) = &self.bulk {
            self.bulk_down.store(bulk.metadata(timeout).is_err(), Ordering::Relaxed);
        }
        Ok(topics)
    }

    fn each(&self) -> impl Iterator<Item = &Producer> {
        std::iter::once(&self.prompt).chain(&self.bulk)
    }
}

impl LaneTopic {
    /// As [`Topic::produce`], on `lane` if there is one and it has a broker; returns the lane that was taken.
    #[inline]
    pub fn produce(&self, lane: Lane, partition: i32, record: &Record<'_>) -> Result<Lane, Code> {
        match (&self.bulk, lane) {
            (Some(bulk), Lane::Bulk) if !self.bulk_down.load(Ordering::Relaxed) => {
                bulk.produce(partition, record).map(|()| Lane::Bulk)
            }
            _ => self.prompt.produce(partition, record).map(|()| Lane::Prompt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lanes of `records` in each window of a range.
    fn lanes(meter: &Meter, records: u32, windows: std::ops::Range<u64>) -> Vec<Lane> {
        windows
            .flat_map(|window| (0..records).map(move |_| window * WINDOW_MS))
            .map(|ms| meter.count(ms).lane)
            .collect()
    }

    #[test]
    fn load_takes_the_bulk_lane_and_its_end_the_prompt_one() {
        let meter = Meter::of_one_in(4);
        assert!(!lanes(&meter, 9, 1_000..1_200).contains(&Lane::Bulk), "half of what is load");
        let more = lanes(&meter, 36, 1_200..1_300);
        assert_eq!((more[0], more[more.len() - 1]), (Lane::Prompt, Lane::Bulk), "twice that");
        assert_eq!(meter.count(1_340 * WINDOW_MS).lane, Lane::Prompt, "a pause, and it is over");
    }

    #[test]
    fn a_few_connections_are_no_load_on_any_number_of_threads() {
        let meter = Meter::of_one_in(64);
        assert!(!lanes(&meter, 8, 1_000..1_200).contains(&Lane::Bulk), "4,000 a second on one thread");
    }

    #[test]
    fn load_that_comes_in_bursts_is_load() {
        let meter = Meter::of_one_in(1);
        for burst in 0..20 {
            lanes(&meter, 400, burst * 4..burst * 4 + 1);
        }
        assert!(!lanes(&meter, 400, 80..81).contains(&Lane::Prompt));
    }

    #[test]
    fn one_burst_is_none() {
        let meter = Meter::of_one_in(1);
        lanes(&meter, 300, 1_000..1_001);
        assert_eq!(meter.count(1_001 * WINDOW_MS).lane, Lane::Prompt);
    }
}
