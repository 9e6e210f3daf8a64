//! Unix time by arithmetic: the wall clock is read once a tick, not once a request.

use std::cell::Cell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A pair of readings of both clocks, renewed by its owner.
#[derive(Debug)]
pub struct Clock {
    anchor: Cell<(Instant, u64)>,
}

impl Clock {
    /// A clock set to now.
    #[must_use]
    pub fn new() -> Self {
        Self { anchor: Cell::new(now()) }
    }

    /// Takes up what the wall clock has been set to since the last call.
    pub fn renew(&self) {
        self.anchor.set(now());
    }

    /// Milliseconds since the Unix epoch at `instant`, which may lie ahead.
    #[must_use]
    pub fn unix_ms_at(&self, instant: Instant) -> u64 {
        let (anchor, unix_ms) = self.anchor.get();
        let ahead = instant.saturating_duration_since(anchor).as_millis();
        let behind = anchor.saturating_duration_since(instant).as_millis();
        unix_ms.saturating_add(to_u64(ahead)).saturating_sub(to_u64(behind))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn now() -> (Instant, u64) {
    // A clock before 1970 is a broken clock; deadlines in the past are then the visible, harmless result.
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (Instant::now(), to_u64(unix.as_millis()))
}

fn to_u64(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reckons_forwards_and_backwards() {
        let clock = Clock::new();
        let (instant, unix_ms) = clock.anchor.get();
        assert_eq!(clock.unix_ms_at(instant + Duration::from_millis(1500)), unix_ms + 1500);
        assert_eq!(clock.unix_ms_at(instant), unix_ms);
        assert!(unix_ms > 1_700_000_000_000, "milliseconds, not seconds");
    }
}
