//! A rate cap: the generic cell rate algorithm (ITU-T I.371), which is a token bucket in one number. Pure.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// At most so many a second, with one second's worth at once after a pause. `limiter.lua` has the same rule.
#[derive(Debug)]
pub struct Rate {
    /// When the bucket will be full again, in nanoseconds since the caller's start.
    full_at_ns: AtomicU64,
    /// Between two tokens.
    interval_ns: u64,
}

impl Rate {
    /// A full bucket. `per_s` of 0 counts as 1.
    #[must_use]
    pub fn new(per_s: u32) -> Self {
        Self { full_at_ns: AtomicU64::new(0), interval_ns: SECOND_NS / u64::from(per_s.max(1)) }
    }

    /// Takes a token if there is one. `since_start` is the time since a fixed moment before the first call.
    #[must_use]
    pub fn take(&self, since_start: Duration) -> bool {
        let now_ns = nanos(since_start);
        let taken = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now_ns) + self.interval_ns;
            (next <= now_ns + SECOND_NS).then_some(next)
        });
        taken.is_ok()
    }

    /// Takes the next turn and says how long to wait for it: none for the first `burst` after a pause, then one turn after the other at the rate.
    /// Whose turn would come later than in `most` waits that long and takes none: the wait is bounded, not the rate.
    #[must_use]
    pub fn take_turn(&self, since_start: Duration, burst: Duration, most: Duration) -> Duration {
        let (now_ns, burst_ns) = (nanos(since_start), nanos(burst));
        let next = |full_at: u64| full_at.max(now_ns) + self.interval_ns;
        let wait = |full_at: u64| Duration::from_nanos(next(full_at).saturating_sub(now_ns + burst_ns));
        let taken = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            (wait(full_at) <= most).then(|| next(full_at))
        });
        taken.map_or(most, wait)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: &Rate, at: Duration, tries: usize) -> usize {
        (0..tries).filter(|_| rate.take(at)).count()
    }

    #[test]
    fn gives_one_second_s_worth_at_once_then_the_rate() {
        let rate = Rate::new(100);
        assert_eq!(taken(&rate, Duration::ZERO, 1_000), 100);
        assert_eq!(taken(&rate, Duration::from_millis(9), 10), 0);
        assert_eq!(taken(&rate, Duration::from_millis(10), 10), 1);
        assert_eq!(taken(&rate, Duration::from_millis(510), 1_000), 50);
    }

    #[test]
    fn a_pause_saves_one_second_s_worth_at_most() {
        let rate = Rate::new(10);
        assert_eq!(taken(&rate, Duration::from_hours(1), 1_000), 10);
        assert_eq!(taken(&rate, Duration::from_secs(3_601), 1_000), 10);
    }

    #[test]
    fn never_more_than_the_rate_over_a_long_time() {
        let rate = Rate::new(7);
        let total: usize = (0..10_000).map(|ms| taken(&rate, Duration::from_millis(ms), 3)).sum();
        assert!((7 * 10..=7 * 11).contains(&total), "{total} in ten seconds");
    }

    #[test]
    fn turns_come_at_once_then_at_the_rate_and_never_later_than_the_most() {
        let rate = Rate::new(1_000);
        let wait =
            |at_ms| rate.take_turn(Duration::from_millis(at_ms), Duration::from_millis(5), Duration::from_millis(3));
        let waits = |at_ms, count| (0..count).map(|_| wait(at_ms).as_millis()).collect::<Vec<_>>();
        assert_eq!(
            waits(0, 11),
            [0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3],
            "five at once, three in turn, the rest after the most"
        );
        assert_eq!(waits(1, 2), [3, 3], "who waited for the most took no turn");
        assert_eq!(waits(10_000, 6), [0, 0, 0, 0, 0, 1], "a pause saves one burst");
    }
}
