//! When the next request is due.

use std::time::{Duration, Instant};

/// How long after the end a request that was due before it may still be sent (open loop): longer than a stall of the
/// generator itself, too short for a server that cannot keep up to look as if it did.
const LATE_MAX: Duration = Duration::from_millis(250);

/// What a run asks for, by the clock.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The first request.
    pub begin: Instant,
    /// The end of the warm-up: requests due from here on are measured.
    pub measured_from: Instant,
    /// Nothing is due from here on.
    pub end: Instant,
}

/// The requests of one thread.
#[derive(Debug)]
pub struct Schedule {
    window: Window,
    pace: Pace,
}

#[derive(Debug)]
enum Pace {
    /// As soon as a connection is free.
    Closed,
    /// At fixed times, whatever the answers do: the `k`th of this thread is due `(k * stride + offset) / rate`
    /// seconds after the beginning.
    Open { rate_per_s: u64, stride: u64, offset: u64, taken: u64 },
}

impl Schedule {
    /// Closed loop: a request is due whenever a connection is free.
    #[must_use]
    pub fn closed(window: Window) -> Self {
        Self { window, pace: Pace::Closed }
    }

    /// Open loop: `thread` of `threads` sends its share of `rate_per_s`, the threads taking turns.
    #[must_use]
    pub fn open(window: Window, rate_per_s: u32, thread: u8, threads: u8) -> Self {
        let pace = Pace::Open {
            rate_per_s: u64::from(rate_per_s),
            stride: u64::from(threads),
            offset: u64::from(thread),
            taken: 0,
        };
        Self { window, pace }
    }

    /// Takes the next request if it is due by `now`; gives the time it was due, from which its latency counts.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        if now < self.window.begin || self.is_over(now) {
            return None;
        }
        let due = self.next_due().unwrap_or(now);
        if due > now {
            return None;
        }
        if let Pace::Open { taken, .. } = &mut self.pace {
            *taken += 1;
        }
        Some(due)
    }

    /// Whether no request will be given any more.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        match self.next_due() {
            None => now >= self.window.end,
            Some(due) => due >= self.window.end || now >= self.window.end + LATE_MAX,
        }
    }

    /// When the next request is due; `None` in a closed loop.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        match self.pace {
            Pace::Closed => None,
            Pace::Open { rate_per_s, stride, offset, taken } => {
                let nanos = (taken * stride + offset) * 1_000_000_000 / rate_per_s;
                Some(self.window.begin + Duration::from_nanos(nanos))
            }
        }
    }

    /// Measured requests that were due and never sent, because no connection was free before the end.
    #[must_use]
    pub fn unsent(&mut self) -> u64 {
        let mut unsent = 0;
        while let Some(due) = self.next_due().filter(|due| *due < self.window.end) {
            let Pace::Open { taken, .. } = &mut self.pace else { break };
            *taken += 1;
            unsent += u64::from(due >= self.window.measured_from);
        }
        unsent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        let begin = Instant::now();
        Window { begin, measured_from: begin + Duration::from_secs(1), end: begin + Duration::from_secs(3) }
    }

    #[test]
    fn closed_is_due_at_once_and_never_outside_the_window() {
        let window = window();
        let mut schedule = Schedule::closed(window);
        assert_eq!(schedule.take(window.measured_from), Some(window.measured_from));
        assert_eq!(schedule.take(window.end), None);
        assert_eq!(schedule.next_due(), None);
        assert_eq!(schedule.unsent(), 0);
    }

    #[test]
    fn open_gives_the_scheduled_time_however_late_it_is_asked() {
        let window = window();
        let mut schedule = Schedule::open(window, 100, 1, 2);
        assert_eq!(schedule.take(window.begin), None, "the other thread's turn");
        let late = window.begin + Duration::from_millis(500);
        let due: Vec<_> = std::iter::from_fn(|| schedule.take(late)).collect();
        assert_eq!(due.len(), 25, "half of 100/s for half a second");
        assert_eq!(due[0], window.begin + Duration::from_millis(10));
        assert_eq!(due[24], window.begin + Duration::from_millis(490));
    }

    #[test]
    fn open_counts_what_was_measured_and_never_sent() {
        let window = window();
        let mut schedule = Schedule::open(window, 100, 0, 2);
        while schedule.take(window.begin + Duration::from_millis(500)).is_some() {}
        assert_eq!(schedule.take(window.end + LATE_MAX), None);
        assert_eq!(schedule.unsent(), 100, "50/s from second 1 to second 3");
        assert!(schedule.is_over(window.begin), "nothing is left");
    }

    #[test]
    fn open_still_gives_what_was_due_when_the_end_came_by_surprise() {
        let window = window();
        let mut schedule = Schedule::open(window, 100, 0, 1);
        assert!(!schedule.is_over(window.end));
        assert_eq!(std::iter::from_fn(|| schedule.take(window.end)).count(), 300);
        assert_eq!((schedule.is_over(window.end), schedule.unsent()), (true, 0));
    }
}
