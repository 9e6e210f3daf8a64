//! Memory for bodies that came in pieces, until they are with Kafka. Pure: loom explores its interleavings.

#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shared by all connections of the process. A body that is there at once, as most are, never asks for any.
#[derive(Debug)]
pub struct ByteBudget {
    used: AtomicUsize,
    max: usize,
}

/// What one body has taken from the budget; given back on drop.
#[derive(Debug)]
pub struct Arriving<'a> {
    budget: &'a ByteBudget,
    bytes: usize,
}

impl ByteBudget {
    /// A budget of `max` bytes, none used.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    /// A body of which nothing has come yet.
    #[must_use]
    pub fn arriving(&self) -> Arriving<'_> {
        Arriving { budget: self, bytes: 0 }
    }

    /// Bytes taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Arriving<'_> {
    /// Takes so many more bytes, or none: what is refused takes nothing, so that it makes no other body's refusal.
    #[must_use]
    pub fn add(&mut self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.budget.max);
        let taken = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_too_much_and_gets_everything_back() {
        let budget = ByteBudget::new(10);
        let mut one = budget.arriving();
        assert!(one.add(6));
        let mut two = budget.arriving();
        assert!(!two.add(6));
        assert!(one.add(4), "the refusal took nothing, though it still lives");
        assert!(!two.add(1) && !two.add(usize::MAX));
        drop(two);
        assert_eq!(budget.used(), 10);
        drop(one);
        assert_eq!(budget.used(), 0);
    }
}
