//! Builds an order of a semaphore's history in one pass over time, see [`crate::semaphore`].
//!
//! Permits are acquired as late as possible and released as early as needed. A permit whose release may have happened
//! stays as long as nobody needs the room: it helps the refusals. A refusal that is still without its full moment takes
//! what may be acquired already, first what nothing follows from (uncertain holds), at the latest when its window ends.
//! To do that earlier is the one choice; it is tried last choice first when the pass fails later, within a bound.

use std::collections::VecDeque;

use crate::semaphore::Usage;

/// Steps of all tries together: some seconds.
const STEPS_MAX: u64 = 20_000_000;
/// Choices that are remembered; the oldest are forgotten.
const CHOICES_MAX: usize = 2_000;

/// Whether the pass finds an order. `false` says nothing.
#[must_use]
pub fn finds_an_order(usage: &Usage) -> bool {
    let marks = marks(usage);
    let mut state = State::default();
    let mut choices: VecDeque<(State, usize)> = VecDeque::new();
    let (mut next, mut steps) = (0, 0);
    while next < marks.len() {
        steps += 1;
        if steps > STEPS_MAX {
            return false;
        }
        let (t, mark) = marks[next];
        next += 1;
        if !state.pass(usage, t, mark) {
            let Some((earlier, after)) = choices.pop_back() else { return false };
            // This time filled.
            state = earlier;
            next = after;
            continue;
        }
        match state.settle(usage, t) {
            Settled::Yes => {}
            Settled::AtACost(filled) => {
                if choices.len() == CHOICES_MAX {
                    choices.pop_front();
                }
                choices.push_back((filled, next));
            }
        }
    }
    true
}

/// What happens to the state at a moment, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    MayAcquire(usize),
    MayRelease(usize),
    MayRefuse(usize),
    MustRefuse(usize),
    MustRelease(usize),
    MustAcquire(usize),
}

fn marks(usage: &Usage) -> Vec<(u64, Mark)> {
    let mut marks = Vec::with_capacity(usage.holds.len() * 4 + usage.refusals.len() * 2);
    for (number, hold) in usage.holds.iter().enumerate() {
        marks.push((hold.acquire.from, Mark::MayAcquire(number)));
        marks.push((hold.acquire.to, Mark::MustAcquire(number)));
        marks.push((hold.release.from, Mark::MayRelease(number)));
        marks.push((hold.release.to, Mark::MustRelease(number)));
    }
    for (number, window) in usage.refusals.iter().enumerate() {
        marks.push((window.from, Mark::MayRefuse(number)));
        marks.push((window.to, Mark::MustRefuse(number)));
    }
    marks.sort_unstable();
    marks
}

enum Settled {
    /// No refusal waits, or it has to wait.
    Yes,
    /// Refusals wait, and the state in which they would not.
    AtACost(State),
}

/// Numbers of holds and refusals.
#[derive(Debug, Clone, Default)]
struct State {
    /// Acquired and not released.
    held: Vec<usize>,
    /// May be acquired.
    pending: Vec<usize>,
    /// Refusals without a full moment yet.
    waiting: Vec<usize>,
}

impl State {
    /// `false`: no way on from here.
    fn pass(&mut self, usage: &Usage, t: u64, mark: Mark) -> bool {
        match mark {
            Mark::MayAcquire(hold) => self.pending.push(hold),
            Mark::MayRefuse(refusal) => self.waiting.push(refusal),
            Mark::MustRefuse(refusal) if self.waiting.contains(&refusal) => return self.fill(usage, t),
            // Who may be released is known by his window; the moment counts for what is settled in it.
            Mark::MayRelease(_) | Mark::MustRefuse(_) => {}
            Mark::MustRelease(hold) => self.held.retain(|other| *other != hold),
            Mark::MustAcquire(hold) => return self.acquire(usage, t, hold),
        }
        true
    }

    /// The last moment for a hold to begin, if it has not.
    fn acquire(&mut self, usage: &Usage, t: u64, hold: usize) -> bool {
        let Some(index) = self.pending.iter().position(|other| *other == hold) else { return true };
        self.pending.swap_remove(index);
        if !usage.holds[hold].certain {
            return true;
        }
        if self.held.len() >= usage.capacity {
            let may_go = |index: &usize| usage.holds[self.held[*index]].release.from <= t;
            let soonest = (0..self.held.len()).filter(may_go).min_by_key(|i| usage.holds[self.held[*i]].release.to);
            let Some(soonest) = soonest else { return false };
            self.held.swap_remove(soonest);
        }
        // Else it ends with this very moment, in which its release has had its turn.
        if usage.holds[hold].release.to > t {
            self.held.push(hold);
        }
        true
    }

    /// Gives the waiting refusals a full moment now if it is there, or costs nothing.
    fn settle(&mut self, usage: &Usage, t: u64) -> Settled {
        if self.waiting.is_empty() {
            return Settled::Yes;
        }
        let missing = usage.capacity.saturating_sub(self.held.len());
        let free = self.pending.iter().filter(|hold| is_free(usage, t, **hold)).count();
        if free >= missing {
            self.fill(usage, t);
            return Settled::Yes;
        }
        let mut filled = self.clone();
        if filled.fill(usage, t) { Settled::AtACost(filled) } else { Settled::Yes }
    }

    /// Acquires until all permits are held: every waiting refusal has its moment. `false`: there is not enough.
    fn fill(&mut self, usage: &Usage, t: u64) -> bool {
        let missing = usage.capacity.saturating_sub(self.held.len());
        if self.pending.iter().filter(|hold| lasts(usage, t, **hold)).count() < missing {
            return false;
        }
        // What nothing follows from; then what would be held soonest anyway; what is uncertain and lasts, at the end.
        self.pending.sort_by_key(|number| {
            let hold = &usage.holds[*number];
            (!lasts(usage, t, *number), !is_free(usage, t, *number), !hold.certain, hold.acquire.to)
        });
        self.held.extend(self.pending.drain(..missing));
        self.waiting.clear();
        true
    }
}

/// Uncertain, and may end at once.
fn is_free(usage: &Usage, t: u64, number: usize) -> bool {
    let hold = &usage.holds[number];
    !hold.certain && hold.release.from <= t && lasts(usage, t, number)
}

/// Its last moment is still to come, so that it will be taken out of what is held.
fn lasts(usage: &Usage, t: u64, number: usize) -> bool {
    usage.holds[number].release.to > t
}
