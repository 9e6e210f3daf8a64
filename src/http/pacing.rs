//! Refusals make way for answers: while requests are answered, so many 429s a second leave at once, and what is above
//! that waits for its turn, for half a second at most.
//!
//! Refusing costs CPU time, and so does asking again. Clients that do so at once, whatever `Retry-After` says, would take
//! the cores from everything that an answer needs. There is one request at a time on a connection, so a refusal that
//! waits makes its client wait. Where nothing is answered there is nothing to protect, and nothing waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::admit::rate::Rate;

/// After a quiet time, what may leave in so much time leaves at once.
const BURST: Duration = Duration::from_millis(100);
/// The longest that a refusal waits; bounds how many connections can be waiting, and what a client with a short time
/// limit of its own sees.
pub const HELD_MAX: Duration = Duration::from_millis(500);
/// Refusals that wait leave together so often: one by one, each would wake this process and its client for itself.
const TICK: Duration = Duration::from_millis(5);
/// Requests count as answered while the last answer is no older. Covers the pauses of slow tasks.
const ANSWERING: Duration = Duration::from_secs(1);
/// No answer so far.
const NEVER: u64 = u64::MAX;

/// When the next 429 may leave. One per process; its shards share it.
#[derive(Debug)]
pub struct RefusalPace {
    rate: Option<Rate>,
    started: Instant,
    /// Milliseconds from `started` to the last answer.
    answered_ms: AtomicU64,
}

impl RefusalPace {
    /// At most `per_s` a second (`REFUSALS_PER_SECOND` for each shard) while requests are answered; `None`: none ever waits.
    #[must_use]
    pub fn new(per_s: Option<u32>) -> Self {
        Self { rate: per_s.map(Rate::new), started: Instant::now(), answered_ms: AtomicU64::new(NEVER) }
    }

    /// Requests were answered, up to `now`.
    pub fn answered(&self, now: Instant) {
        self.answered_ms.store(self.ms(now), Ordering::Relaxed);
    }

    /// How long the refusal of this moment has to wait.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        match &self.rate {
            Some(rate) if self.is_answering(now) => {
                let since_start = now - self.started;
                to_the_tick(since_start, rate.wait(since_start, BURST, HELD_MAX.saturating_sub(TICK)))
            }
            _ => Duration::ZERO,
        }
    }

    fn is_answering(&self, now: Instant) -> bool {
        let answered = self.answered_ms.load(Ordering::Relaxed);
        answered != NEVER && u128::from(self.ms(now).saturating_sub(answered)) <= ANSWERING.as_millis()
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(NEVER - 1)
    }
}

/// `wait`, and on to the next [`TICK`]; none stays none.
fn to_the_tick(since_start: Duration, wait: Duration) -> Duration {
    if wait.is_zero() {
        return wait;
    }
    let end = since_start + wait;
    let ticks = end.as_nanos().div_ceil(TICK.as_nanos());
    (TICK * u32::try_from(ticks).unwrap_or(u32::MAX)).saturating_sub(since_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits of `count` refusals in one moment.
    fn waits(pace: &RefusalPace, now: Instant, count: usize) -> Vec<Duration> {
        (0..count).map(|_| pace.wait(now)).collect()
    }

    #[test]
    fn nothing_waits_before_the_first_answer_nor_a_second_after_the_last() {
        let pace = RefusalPace::new(Some(10));
        assert_eq!(waits(&pace, pace.started, 100), [Duration::ZERO; 100]);
        let answered = pace.started + Duration::from_millis(1_500);
        pace.answered(answered);
        assert_eq!(waits(&pace, answered, 3), [0, 100, 200].map(Duration::from_millis));
        let later = answered + ANSWERING + Duration::from_millis(1);
        assert_eq!(waits(&pace, later, 100), [Duration::ZERO; 100]);
    }

    #[test]
    fn no_refusal_waits_longer_than_the_most() {
        let pace = RefusalPace::new(Some(1_000));
        pace.answered(pace.started);
        let waits = waits(&pace, pace.started, 2_000);
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 100, "a burst");
        assert!(waits.is_sorted(), "in turn");
        assert!(waits.last() > Some(&HELD_MAX.saturating_sub(2 * TICK)) && waits.last() <= Some(&HELD_MAX));
    }

    #[test]
    fn refusals_that_wait_leave_on_a_tick() {
        let pace = RefusalPace::new(Some(1_000));
        let now = pace.started + Duration::from_millis(1_002);
        pace.answered(now);
        let waits = waits(&pace, now, 2_000);
        let late: Vec<_> =
            waits.iter().filter(|wait| !wait.is_zero()).map(|wait| (now + *wait) - pace.started).collect();
        assert!(late.iter().all(|end| end.as_nanos().is_multiple_of(TICK.as_nanos())));
        assert_eq!(late.first(), Some(&Duration::from_millis(1_005)));
        assert!(waits.iter().all(|wait| *wait <= HELD_MAX));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let pace = RefusalPace::new(None);
        pace.answered(pace.started);
        assert_eq!(waits(&pace, pace.started, 1_000), [Duration::ZERO; 1_000]);
    }
}
