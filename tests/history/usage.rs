//! What a history says about the permits: when each request got its permit at the latest, when it gave it back at the
//! earliest, and within which bounds both must have happened. [`crate::semaphore`] asks whether that can be.
//!
//! The server gives a permit back with the reply, the deadline, the error or the departure of the client, whichever is
//! first, and before it answers. So a permit is held for sure from the moment at which a worker has the task to the
//! first of: the worker's reply, the deadline, the client's leaving, the death of the server, the end that the client
//! saw. Whatever else is possible counts only where a refusal needs it: then the permits of a killed server, for a
//! lease, and those that could not be given back while Redis was away.

use crate::Violation;
use crate::history::{End, Fault, History, How, MS, Request};
use crate::semaphore::{Flaw, Hold, Usage, Window};

/// The permits of a history, and which request each belongs to.
pub struct Named {
    /// For [`crate::semaphore::judge`].
    pub usage: Usage,
    /// Of each hold, the number of its request.
    holds: Vec<usize>,
    /// Of each refusal, the number of its request.
    refusals: Vec<usize>,
}

/// Collects them.
#[must_use]
pub fn of(history: &History) -> Named {
    let usage = Usage { capacity: history.terms.capacity, holds: Vec::new(), refusals: Vec::new() };
    let mut named = Named { usage, holds: Vec::new(), refusals: Vec::new() };
    for (number, request) in history.requests.iter().enumerate() {
        match request.end().map(|end| (&end.how, end.t)) {
            Some((How::Answered { status: 429, code, .. }, t)) => {
                // Another reason than the permits says nothing about them.
                if code.as_deref().is_none_or(|code| code == "capacity_reached") {
                    named.refuse(history, number, request, t);
                }
            }
            // 413 may be the broker's, to whom it came with a permit; other 4xx never have one.
            Some((How::Answered { status, .. }, _)) if (400..500).contains(status) && *status != 413 => {}
            _ => named.hold(history, number, request),
        }
    }
    named
}

impl Named {
    fn refuse(&mut self, history: &History, number: usize, request: &Request, t: u64) {
        let from = request.called.saturating_sub(history.terms.refusal_ms * MS);
        // While more than the capacity may be held, or Redis has forgotten who holds, a refusal proves nothing.
        if !is_excused(history, from, t) {
            self.usage.refusals.push(Window { from, to: t });
            self.refusals.push(number);
        }
    }

    fn hold(&mut self, history: &History, number: usize, request: &Request) {
        let end = request.end();
        let seen = end.map_or(u64::MAX, |end| end.t);
        let taken = request.takes.first().copied().filter(|t| *t <= seen);
        let to = released_by(history, request, end);
        let mut hold = Hold {
            acquire: Window { from: request.called, to: taken.unwrap_or(seen).min(to) },
            release: Window { from: released_from(history, request, end), to },
            certain: taken.is_some() || is_proof(end),
        };
        hold.release.from = hold.release.from.clamp(hold.acquire.from, to);
        if is_excused(history, hold.acquire.from, hold.release.to) {
            hold.certain = false;
        }
        if !hold.certain {
            // It may be that nothing was held at any moment.
            hold.acquire.to = to;
            hold.release.from = hold.acquire.from;
        }
        self.usage.holds.push(hold);
        self.holds.push(number);
    }

    /// A flaw as a violation, with the names of the requests.
    #[must_use]
    pub fn explain(&self, history: &History, flaw: &Flaw) -> Violation {
        let id = |number: &usize| history.requests[*number].id.as_str();
        let (t, what) = match flaw {
            Flaw::TooMany { t, holds } => {
                let ids: Vec<_> = holds.iter().map(|hold| id(&self.holds[*hold])).collect();
                let capacity = self.usage.capacity;
                (*t, format!("{} held of {capacity}: {}", ids.len(), ids.join(", ")))
            }
            Flaw::Room { refusal, held_max } => {
                let window = self.usage.refusals[*refusal];
                let id = id(&self.refusals[*refusal]);
                (window.to, format!("{id} was refused while at most {held_max} of {} were held", self.usage.capacity))
            }
            Flaw::NoOrder => (0, "no order of these acquires, refusals and releases is a semaphore's".to_owned()),
        };
        Violation { promise: "P3", t, what }
    }
}

/// Whether the end proves that there was a permit: these answers are only given to who had one.
fn is_proof(end: Option<&End>) -> bool {
    matches!(end, Some(End { how: How::Answered { status: 200..=399 | 502 | 504, .. }, .. }))
}

/// The earliest moment at which the permit may have been given back.
fn released_from(history: &History, request: &Request, end: Option<&End>) -> u64 {
    let mut from = request.deadline;
    if let Some(reply) = request.replies.first() {
        from = from.min(*reply);
    }
    if let Some(killed) = request.server.as_deref().and_then(|server| history.killed(server)) {
        from = from.min(killed.max(request.called));
    }
    match end {
        // Answered early, and without a reply that says since when: at any moment.
        Some(End { how: How::Answered { status, .. }, .. }) if *status != 504 && request.replies.is_empty() => {
            request.called
        }
        // A reply of which the server heard nothing may have come to no end: 503 at any moment.
        Some(End { how: How::Answered { status: 500 | 503, .. }, .. }) => request.called,
        Some(End { t, .. }) => from.min(*t),
        None => from,
    }
}

/// The latest moment at which it is back.
fn released_by(history: &History, request: &Request, end: Option<&End>) -> u64 {
    let (release, lease) = (history.terms.release_ms * MS, history.terms.lease_ms * MS);
    let seen = match end {
        // The server may notice the departure only when it comes to write.
        Some(End { how: How::Left, t }) => request.deadline.max(*t),
        Some(End { t, .. }) => *t,
        None => request.deadline,
    };
    let mut by = seen.saturating_add(release);
    let killed = request.server.as_deref().and_then(|server| history.killed(server));
    if let Some(killed) = killed.filter(|t| (request.called..=by).contains(t)) {
        by = by.max(killed.saturating_add(lease + release));
    }
    // Redis could not be told: told when it is back, or left to the lease.
    let redis_away = |fault: &&Fault| {
        let is_away = fault.who == "redis" && ["kill", "stop", "pause"].contains(&fault.what.as_str());
        is_away && fault.from <= by && fault.to.is_none_or(|to| to >= request.called)
    };
    if let Some(back) = history.faults.iter().filter(redis_away).map(|fault| fault.to.unwrap_or(u64::MAX)).max() {
        by = by.max(back.saturating_add(lease + release));
    }
    by
}

fn is_excused(history: &History, from: u64, to: u64) -> bool {
    history.excuses_of("P3").any(|excuse| excuse.from <= to && excuse.to >= from)
}
