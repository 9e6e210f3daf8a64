//! Can these acquires, refusals and releases be the history of one counting semaphore? Each happened at some moment of
//! its window; the question is whether moments can be chosen so that never more than the capacity are held and that
//! every refusal falls on a moment at which all are (linearizability, with the semaphore as the sequential object).
//!
//! General checkers of linearizability search all orders of what overlaps, which no history of minutes survives. A
//! semaphore allows more:
//!
//! - **Too many.** A hold is certain between its latest acquire and its earliest release. More certain holds at one
//!   moment than the capacity refute every order. And without refusals that is the only obstacle: to acquire as late
//!   and to release as early as possible then is an order.
//! - **Room.** A hold is possible between its earliest acquire and its latest release. A refusal whose window has no
//!   moment with as many possible holds as the capacity refutes every order.
//! - Otherwise [`crate::sweep`] builds an order in one pass over the windows: early releases and late acquires, except
//!   for what a refusal needs. An order that was built is a proof.
//! - What the pass cannot settle, [`crate::search`] does, if it is short enough: it tries all orders. If it is not, the
//!   answer is "not decided", and that is no pass.

use crate::{search, sweep};

/// Refusals with room that are listed, of possibly thousands with one cause.
const ROOM_FLAWS_MAX: usize = 20;

/// A closed interval of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub from: u64,
    /// Its last moment.
    pub to: u64,
}

/// A permit: acquired at a moment of one window, released at a moment of the other and not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// When it was acquired.
    pub acquire: Window,
    /// When it was released; ends no earlier than `acquire`.
    pub release: Window,
    /// `false`: it may be that there never was one.
    pub certain: bool,
}

/// All that happened to a semaphore, which had all its permits free before.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Its permits.
    pub capacity: usize,
    /// Those that were, or may have been, granted.
    pub holds: Vec<Hold>,
    /// The windows of the refusals.
    pub refusals: Vec<Window>,
}

/// Why it cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// More than the capacity were held, for sure.
    TooMany {
        /// From this moment on.
        t: u64,
        /// Numbers of the holds.
        holds: Vec<usize>,
    },
    /// A refusal while a permit was free, for sure.
    Room {
        /// Its number.
        refusal: usize,
        /// The most that may have been held in its window.
        held_max: usize,
    },
    /// All orders were tried.
    NoOrder,
}

/// What was found out.
#[derive(Debug, PartialEq, Eq)]
pub struct Judgement {
    /// None of them and `decided`: it is the history of a semaphore.
    pub flaws: Vec<Flaw>,
    /// Whether there is a proof, or a refutation.
    pub decided: bool,
    /// The most that were held at once for sure.
    pub held_max: usize,
}

/// Proves or refutes that this is the history of a semaphore.
#[must_use]
pub fn judge(usage: &Usage) -> Judgement {
    let (held_max, too_many) = certain_holds(usage);
    let mut flaws: Vec<Flaw> = too_many.into_iter().collect();
    flaws.extend(refusals_with_room(usage));
    let mut decided = !flaws.is_empty() || sweep::finds_an_order(usage);
    if !decided && let Some(is_allowed) = search::is_allowed(usage) {
        decided = true;
        flaws.extend((!is_allowed).then_some(Flaw::NoOrder));
    }
    Judgement { flaws, decided, held_max }
}

/// The most certain holds at once, and the first moment at which they are too many.
fn certain_holds(usage: &Usage) -> (usize, Option<Flaw>) {
    // At one moment a release may come before an acquire: ends first.
    let mut bounds: Vec<(u64, bool, usize)> = Vec::new();
    for (number, hold) in usage.holds.iter().enumerate() {
        if hold.certain && hold.acquire.to < hold.release.from {
            bounds.push((hold.acquire.to, true, number));
            bounds.push((hold.release.from, false, number));
        }
    }
    bounds.sort_unstable();
    let (mut held, mut held_max, mut first) = (Vec::new(), 0, None);
    for (t, begins, number) in bounds {
        if begins {
            held.push(number);
        } else {
            held.retain(|other| *other != number);
        }
        held_max = held_max.max(held.len());
        if held.len() > usage.capacity && first.is_none() {
            first = Some(Flaw::TooMany { t, holds: held.clone() });
        }
    }
    (held_max, first)
}

/// Refusals whose whole window has fewer possible holds than the capacity.
fn refusals_with_room(usage: &Usage) -> Vec<Flaw> {
    let mut bounds: Vec<(u64, i64)> = Vec::new();
    for hold in &usage.holds {
        bounds.push((hold.acquire.from, 1));
        // Possible up to its last moment, and not beyond.
        bounds.push((hold.release.to.saturating_add(1), -1));
    }
    bounds.sort_unstable();
    // From this moment on, so many.
    let mut steps: Vec<(u64, i64)> = vec![(0, 0)];
    for (t, change) in bounds {
        let count = steps.last().map_or(0, |(_, count)| *count) + change;
        match steps.last_mut() {
            Some(last) if last.0 == t => last.1 = count,
            _ => steps.push((t, count)),
        }
    }
    let most = |window: &Window| {
        let first = steps.partition_point(|(t, _)| *t <= window.from).saturating_sub(1);
        steps[first..].iter().take_while(|(t, _)| *t <= window.to).map(|(_, count)| *count).max().unwrap_or(0)
    };
    let with_room = usage.refusals.iter().enumerate().filter_map(|(refusal, window)| {
        let held_max = usize::try_from(most(window)).unwrap_or(0);
        (held_max < usage.capacity).then_some(Flaw::Room { refusal, held_max })
    });
    with_room.take(ROOM_FLAWS_MAX).collect()
}
