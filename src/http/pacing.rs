//! Refusals make way for answers: while requests are answered, so many 429s a second leave at once. Above that they
//! queue, and each waits for its turn, half a second at most.
//!
//! Refusing costs CPU time, and so does asking again. Clients that do so at once, whatever `Retry-After` says, would take
//! the cores from everything that an answer needs. There is one request at a time on a connection, so a refusal that
//! waits makes its client wait. Where nothing is answered there is nothing to protect, and nothing waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::admit::rate::Rate;

/// After a quiet time, what may leave in so much time leaves at once; one refusal at least.
const BURST: Duration = Duration::from_millis(100);
/// The longest that a refusal waits: it bounds the wait of a client with a short time limit of its own, and not the rate
/// at which many clients are refused.
pub const HELD_MAX: Duration = Duration::from_millis(500);
/// Refusals that wait leave together so often: one by one, each would wake this process and its client for itself.
const TICK: Duration = Duration::from_millis(5);
/// No answer so far.
const NEVER: u64 = u64::MAX;

/// When the next 429 may leave. One per process; its shards share it.
#[derive(Debug)]
pub struct RefusalPace {
    rate: Option<Rate>,
    burst: Duration,
    started: Instant,
    /// Milliseconds from `started` to the last answer.
    answered_ms: AtomicU64,
    /// Requests count as answered while the last answer is no older.
    answering: Duration,
    held: AtomicUsize,
    held_max: usize,
}

/// A refusal that waits. Its place is free again when it drops.
#[derive(Debug)]
#[must_use]
pub struct Turn<'a> {
    pace: &'a RefusalPace,
    /// How long it has to wait.
    pub wait: Duration,
}

impl RefusalPace {
    /// `per_s` at once while requests are answered, of all shards together (`None`: all); `answering` is the longest time
    /// between two answers of a server that answers, which is the reply deadline; no more than `held_max` refusals wait.
    #[must_use]
    pub fn new(per_s: Option<u32>, answering: Duration, held_max: usize) -> Self {
        Self {
            rate: per_s.map(Rate::new),
            burst: BURST.max(Duration::from_secs(1) / per_s.unwrap_or(1).max(1)),
            started: Instant::now(),
            answered_ms: AtomicU64::new(NEVER),
            answering,
            held: AtomicUsize::new(0),
            held_max,
        }
    }

    /// Requests were answered, up to `now`.
    pub fn answered(&self, now: Instant) {
        self.answered_ms.store(self.ms(now), Ordering::Relaxed);
    }

    /// Takes a turn for the refusal of this moment; `None`: it leaves at once.
    pub fn take_turn(&self, now: Instant) -> Option<Turn<'_>> {
        let rate = self.rate.as_ref().filter(|_| self.is_answering(now))?;
        let since_start = now.saturating_duration_since(self.started);
        let wait = to_the_tick(since_start, rate.take_turn(since_start, self.burst, HELD_MAX.saturating_sub(TICK)));
        if wait.is_zero() {
            return None;
        }
        let one_more = |held| (held < self.held_max).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Turn { pace: self, wait })
    }

    fn is_answering(&self, now: Instant) -> bool {
        let answered = self.answered_ms.load(Ordering::Relaxed);
        answered != NEVER && u128::from(self.ms(now).saturating_sub(answered)) <= self.answering.as_millis()
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(NEVER - 1)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `wait`, and on to the next [`TICK`]; none stays none.
fn to_the_tick(since_start: Duration, wait: Duration) -> Duration {
    let tick = u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX);
    let late = u64::try_from((since_start + wait).as_nanos()).unwrap_or(0) % tick;
    if wait.is_zero() || late == 0 { wait } else { wait + Duration::from_nanos(tick - late) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERING: Duration = Duration::from_secs(10);

    fn pace(per_s: Option<u32>) -> RefusalPace {
        RefusalPace::new(per_s, ANSWERING, 10_000)
    }

    /// The turns of `count` refusals in one moment, and their waits.
    fn turns(pace: &RefusalPace, now: Instant, count: usize) -> Vec<Option<Turn<'_>>> {
        (0..count).map(|_| pace.take_turn(now)).collect()
    }

    fn waits(pace: &RefusalPace, now: Instant, count: usize) -> Vec<Duration> {
        turns(pace, now, count).iter().map(|turn| turn.as_ref().map_or(Duration::ZERO, |turn| turn.wait)).collect()
    }

    #[test]
    fn nothing_waits_before_the_first_answer_nor_long_after_the_last() {
        let pace = pace(Some(10));
        assert_eq!(waits(&pace, pace.started, 100), [Duration::ZERO; 100]);
        let answered = pace.started + Duration::from_millis(1_500);
        pace.answered(answered);
        assert_eq!(waits(&pace, answered, 3), [0, 100, 200].map(Duration::from_millis));
        let later = answered + ANSWERING + Duration::from_millis(1);
        assert_eq!(waits(&pace, later, 100), [Duration::ZERO; 100]);
    }

    #[test]
    fn no_refusal_waits_longer_than_the_most() {
        let pace = pace(Some(1_000));
        pace.answered(pace.started);
        let waits = waits(&pace, pace.started, 2_000);
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 100, "a burst");
        assert!(waits.is_sorted(), "in turn");
        assert!(waits.last() > Some(&HELD_MAX.saturating_sub(2 * TICK)) && waits.last() <= Some(&HELD_MAX));
    }

    #[test]
    fn the_first_refusal_leaves_at_once_however_low_the_rate() {
        let pace = pace(Some(1));
        pace.answered(pace.started);
        let waits = waits(&pace, pace.started, 2);
        assert!(waits[0].is_zero() && !waits[1].is_zero(), "{waits:?}");
    }

    #[test]
    fn refusals_that_wait_leave_on_a_tick() {
        let pace = pace(Some(1_000));
        // Also when the process has run for years.
        for up in [Duration::from_millis(1_002), Duration::from_hours(24 * 1_000) + Duration::from_millis(2)] {
            let now = pace.started + up;
            pace.answered(now);
            let waits = waits(&pace, now, 2_000);
            let late: Vec<_> = waits.iter().filter(|wait| !wait.is_zero()).map(|wait| up + *wait).collect();
            assert!(late.iter().all(|end| end.as_nanos().is_multiple_of(TICK.as_nanos())));
            assert_eq!(late.first(), Some(&(up + Duration::from_millis(3))));
            assert!(waits.iter().all(|wait| *wait <= HELD_MAX));
        }
    }

    #[test]
    fn no_more_wait_than_may_and_each_gives_its_place_back() {
        let pace = RefusalPace::new(Some(1_000), ANSWERING, 7);
        pace.answered(pace.started);
        let held = turns(&pace, pace.started, 2_000);
        assert_eq!(held.iter().flatten().count(), 7);
        assert!(pace.take_turn(pace.started).is_none(), "no place");
        drop(held);
        assert!(pace.take_turn(pace.started).is_some());
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let pace = pace(None);
        pace.answered(pace.started);
        assert_eq!(waits(&pace, pace.started, 1_000), [Duration::ZERO; 1_000]);
    }
}
