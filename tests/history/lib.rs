//! Judges a recorded history against the promises of the README: P1 (one answer, in time), P2 (nobody else's answer),
//! P3 (never more in flight than the capacity), P4 (nothing held at the end), P9 (service is back after a fault), and
//! P10 (what is not promised happens only where the history says why).
//!
//! [`event`] reads the records, [`history`] puts them together per request, [`promises`] judges all promises but P3,
//! which is [`usage`] (what the history says about the permits) and [`semaphore`] (whether a counting semaphore allows
//! it). The judge knows nothing of the server but what its clients, its workers and the limiter's store saw.

pub mod event;
pub mod history;
pub mod promises;
pub mod search;
pub mod semaphore;
pub mod sweep;
pub mod usage;

use event::{Event, Excuse};
use history::{History, Malformed};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise, e.g. `P1`.
    pub promise: &'static str,
    /// When, in ns of the history's clock.
    pub t: u64,
    /// What happened, with the ids of the requests.
    pub what: String,
}

/// The judgement of a history.
#[derive(Debug)]
pub struct Report {
    /// Broken promises, in the order of time.
    pub violations: Vec<Violation>,
    /// What would be a violation outside the excused windows, and how often, by promise.
    pub excused: Vec<Violation>,
    /// The excuses that the history makes.
    pub excuses: Vec<Excuse>,
    /// Requests, and how they ended.
    pub counts: promises::Counts,
    /// The most permits that were held at once for sure.
    pub held_max: usize,
    /// Whether P3 could be proven or refuted at all.
    pub decided: bool,
}

impl Report {
    /// Every promise is proven.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.decided
    }

    /// Whether this promise is broken.
    #[must_use]
    pub fn breaks(&self, promise: &str) -> bool {
        self.violations.iter().any(|violation| violation.promise == promise)
    }
}

/// Judges the records of one run, in any order. An error says why they are no history.
pub fn check(events: Vec<Event>) -> Result<Report, Malformed> {
    let history = History::new(events)?;
    let mut found = promises::judge(&history);
    let usage = usage::of(&history);
    let judgement = semaphore::judge(&usage.usage);
    found.extend(judgement.flaws.iter().map(|flaw| usage.explain(&history, flaw)));
    found.sort_by_key(|violation| violation.t);
    let (excused, violations) = found.into_iter().partition(|violation| history.is_excused(violation));
    Ok(Report {
        violations,
        excused,
        excuses: history.excuses.clone(),
        counts: promises::Counts::of(&history),
        held_max: judgement.held_max,
        decided: judgement.decided,
    })
}
