//! The whole server, real Kafka and real Redis, and one of them fails. The rows are those of the fault matrix:
//! R (Redis), K (Kafka), W (worker), C (clients), S (the server).
//!
//! Each test breaks something, asks as a client would, and measures: how long a request waits for its 503, and how long
//! after the end of the fault the service is back, by the first 200. A load runs meanwhile whose every request must get
//! one answer of its own. At the end of each row the system serves again and nothing is left behind: no request in
//! flight, no permit in Redis. Every row prints what it measured; `--nocapture` shows it, and scripts/faults.sh makes a
//! table of it. Every Redis requires a password and `KAFKA_CONFIG` has one, and neither is to be seen anywhere.

#[path = "../support/mod.rs"]
mod support;

mod brokers;
mod clients;
mod kafka;
mod links;
mod process;
mod redis;
mod sizes;
mod stack;
mod worker;

use std::time::{Duration, Instant};

use support::rows::BUSY;

/// "A lost dependency gives 503 within a second."
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// Back after Redis is back: 2 s are promised, the rest is for a busy machine.
const REDIS_BACK_WITHIN: Duration = Duration::from_secs(4);
/// What the matrix promises after Redis was away, and after it hung or refused.
const REDIS_BACK: Duration = Duration::from_secs(2);
const REDIS_AT_ONCE: Duration = Duration::from_secs(1);
/// Promise P8 for a Kafka that keeps its connections and says nothing, and what a busy machine adds.
const SILENCE_NOTICED_WITHIN: Duration = Duration::from_millis(3_500).saturating_add(BUSY);
/// "Service is back within 10 s, without a restart."
const KAFKA_BACK_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for what has no promise of its own.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What `work` gives, and how long it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = work();
    (value, start.elapsed())
}
