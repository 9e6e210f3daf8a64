//! An atomic counter with a capacity. Pure: loom explores its interleavings.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts what is in use, from 0 to its capacity, never beyond either end.
#[derive(Debug)]
pub struct Counter {
    in_use: AtomicU32,
    capacity: u32,
}

impl Counter {
    /// A counter at 0.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self { in_use: AtomicU32::new(0), capacity }
    }

    /// Adds one, unless the capacity is reached. Says whether it did.
    ///
    /// A compare-and-swap, not an add that is taken back: the latter exceeds the capacity for a moment and makes
    /// another thread's acquire fail although a permit is free.
    #[must_use]
    pub fn acquire(&self) -> bool {
        // Relaxed: the count guards a number, not memory that another thread reads because of it.
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.capacity).then(|| n + 1)).is_ok()
    }

    /// Takes one away. At 0 it stays at 0: a release without an acquire is a bug of the caller, not a way to make
    /// capacity.
    pub fn release(&self) {
        let released = self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        debug_assert!(released.is_ok(), "a release without an acquire");
    }

    /// What is in use now.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_the_capacity_and_starts_again_after_a_release() {
        let counter = Counter::new(2);
        assert!(counter.acquire() && counter.acquire());
        assert!(!counter.acquire());
        assert_eq!(counter.in_use(), 2);
        counter.release();
        assert!(counter.acquire());
    }

    #[test]
    fn a_capacity_of_zero_gives_nothing() {
        assert!(!Counter::new(0).acquire());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a release without an acquire")]
    fn a_release_without_an_acquire_is_a_bug() {
        Counter::new(1).release();
    }

    #[test]
    fn is_exact_between_threads() {
        let counter = Counter::new(100);
        let taken = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1_000).filter(|_| counter.acquire()).count())).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum::<usize>()
        });
        assert_eq!(taken, 100);
        assert_eq!(counter.in_use(), 100);
    }
}
