//! The slots of a table and the two queues that run through them. Plain data: it never wakes, drops or calls anything
//! of the caller's; what has to be woken or dropped is handed out, so that [`super::Table`] can do it unborrowed.
//!
//! ```text
//! free ─mint─▶ Minted ─reserve─▶ Waiting ─answer─▶ Answered ─poll─▶ Taken
//!   ▲            │                 │ └────expire─▶ Expired ──poll─▶ Taken
//!   └──release───┴─────────────────┴─────────────────┴────────────────┘
//! ```
//!
//! A slot is in the queue `free` while it is free, in `waiting` while it waits, and in neither otherwise. The queues
//! are linked through the slots: joining, leaving from the middle and memory are all O(1) per slot, and no entry
//! outlives its request. (A separate queue of deadlines would keep every finished request until its deadline, or
//! need compaction, which stalls the shard just when it is fullest.)

use std::mem;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::{Expired, TableFull};
use crate::correlate::id::CorrelationId;

/// A slot is used again only after this many others have been free as long (while there is room to grow). Else a
/// lightly loaded shard would use one slot over and over, and could not tell a duplicate reply from a late one.
const RESTING_MIN: u32 = 64;

/// No slot: the end of a queue. Beyond every index, since there are at most 2^20 slots.
const NONE: u32 = u32::MAX;

/// The slots: grown on demand, never beyond `slots_max`, never shrunk.
pub(super) struct Slab<R> {
    slots: Vec<Slot<R>>,
    slots_max: u32,
    /// Free slots, the one that has rested longest in front.
    free: Queue,
    /// Waiting requests in order of `reserve`, which is the order of deadlines as all have the same timeout.
    waiting: Queue,
}

struct Slot<R> {
    /// Of the request that holds the slot, or held it last.
    id: CorrelationId,
    links: Links,
    /// Whether that request got an answer; outlives it, to tell duplicate from late.
    answered: bool,
    state: State<R>,
}

/// Where the request of a slot is in its life.
pub(super) enum State<R> {
    /// Held by nobody.
    Free,
    /// Has an id, no permit yet.
    Minted,
    /// Waits for its reply. The waker does nothing until the waiter has been polled.
    Waiting { deadline: Instant, waker: Waker },
    /// Its reply is here and not picked up yet.
    Answered(R),
    /// Its deadline passed, which the waiter has not seen yet.
    Expired,
    /// The waiter has had its output.
    Taken,
}

#[derive(Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

/// A first-in-first-out queue of slots, linked through them.
struct Queue {
    first: u32,
    last: u32,
    len: u32,
}

impl<R> Slab<R> {
    pub(super) const fn new(slots_max: u32) -> Self {
        Self { slots: Vec::new(), slots_max, free: Queue::EMPTY, waiting: Queue::EMPTY }
    }

    /// Takes a free slot and stores there, and returns, the id that `make` gives it.
    pub(super) fn mint(&mut self, make: impl FnOnce(u32) -> CorrelationId) -> Result<CorrelationId, TableFull> {
        let grown = u32::try_from(self.slots.len()).unwrap_or(NONE);
        if grown < self.slots_max && self.free.len <= RESTING_MIN {
            let id = make(grown);
            self.slots.push(Slot { id, links: Links::NONE, answered: false, state: State::Minted });
            return Ok(id);
        }
        let index = self.free.pop_front(&mut self.slots).ok_or(TableFull)?;
        let id = make(index);
        let slot = &mut self.slots[index as usize];
        (slot.id, slot.answered, slot.state) = (id, false, State::Minted);
        Ok(id)
    }

    /// Puts a minted request last in the queue of those that wait.
    pub(super) fn reserve(&mut self, id: CorrelationId, deadline: Instant) {
        let slot = self.held(id);
        debug_assert!(matches!(slot.state, State::Minted), "a ticket is reserved once");
        slot.state = State::Waiting { deadline, waker: Waker::noop().clone() };
        self.waiting.push_back(&mut self.slots, id.slot());
    }

    /// Gives `reply` to the request that waits under `id`; returns whom to wake, or the reply if nobody waits.
    pub(super) fn answer(&mut self, id: CorrelationId, reply: R) -> Result<Waker, R> {
        match self.find(id) {
            Some(slot) if matches!(slot.state, State::Waiting { .. }) => Ok(self.answer_slot(id.slot(), reply)),
            _ => Err(reply),
        }
    }

    /// Gives `reply` to the request that has waited longest; returns whom to wake, or the reply if nobody waits.
    pub(super) fn answer_first(&mut self, reply: R) -> Result<Waker, R> {
        match self.waiting.first {
            NONE => Err(reply),
            first => Ok(self.answer_slot(first, reply)),
        }
    }

    /// Ends the wait of the first in the queue if its deadline is at or before `now`; returns whom to wake.
    pub(super) fn expire_first(&mut self, now: Instant) -> Option<Waker> {
        let first = self.waiting.first;
        match self.slots.get(first as usize)?.state {
            State::Waiting { deadline, .. } if deadline <= now => Some(self.end_wait(first, State::Expired)),
            _ => None,
        }
    }

    /// Whether a poll with `waker` needs no new copy of it.
    pub(super) fn wakes(&self, id: CorrelationId, waker: &Waker) -> bool {
        match &self.slots[id.slot() as usize].state {
            State::Waiting { waker: stored, .. } => stored.will_wake(waker),
            _ => true,
        }
    }

    /// The output, once; or stores `fresh`, if given, to be woken. Also returns the waker that is no longer needed.
    pub(super) fn poll(
        &mut self,
        id: CorrelationId,
        fresh: Option<Waker>,
    ) -> (Poll<Result<R, Expired>>, Option<Waker>) {
        let slot = self.held(id);
        if let State::Waiting { waker, .. } = &mut slot.state {
            return (Poll::Pending, fresh.map(|fresh| mem::replace(waker, fresh)));
        }
        match mem::replace(&mut slot.state, State::Taken) {
            State::Answered(reply) => (Poll::Ready(Ok(reply)), fresh),
            State::Expired => (Poll::Ready(Err(Expired)), fresh),
            _ => panic!("a waiter was polled after it had given its output"),
        }
    }

    /// Frees the slot that `id` holds; returns what is left there, for the caller to drop.
    pub(super) fn release(&mut self, id: CorrelationId) -> State<R> {
        let index = id.slot();
        let remains = mem::replace(&mut self.held(id).state, State::Free);
        if matches!(remains, State::Waiting { .. }) {
            self.waiting.remove(&mut self.slots, index);
        }
        self.free.push_back(&mut self.slots, index);
        remains
    }

    /// Whether the request of `id` got an answer; `None` when its slot has served another since, or never existed.
    pub(super) fn answered(&self, id: CorrelationId) -> Option<bool> {
        self.find(id).map(|slot| slot.answered)
    }

    /// Whether the slot of `id` exists, whoever holds it.
    pub(super) fn has_slot_of(&self, id: CorrelationId) -> bool {
        (id.slot() as usize) < self.slots.len()
    }

    /// Requests that wait now.
    pub(super) const fn waiting(&self) -> u32 {
        self.waiting.len
    }

    fn find(&self, id: CorrelationId) -> Option<&Slot<R>> {
        self.slots.get(id.slot() as usize).filter(|slot| slot.id == id)
    }

    /// The slot of an id whose ticket is alive, so that it is there and nobody else's.
    fn held(&mut self, id: CorrelationId) -> &mut Slot<R> {
        let slot = &mut self.slots[id.slot() as usize];
        debug_assert!(slot.id == id && !matches!(slot.state, State::Free), "a live ticket holds its slot");
        slot
    }

    fn answer_slot(&mut self, index: u32, reply: R) -> Waker {
        self.slots[index as usize].answered = true;
        self.end_wait(index, State::Answered(reply))
    }

    fn end_wait(&mut self, index: u32, state: State<R>) -> Waker {
        self.waiting.remove(&mut self.slots, index);
        match mem::replace(&mut self.slots[index as usize].state, state) {
            State::Waiting { waker, .. } => waker,
            _ => unreachable!("the slots in the queue of the waiting wait"),
        }
    }
}

impl Links {
    const NONE: Self = Self { previous: NONE, next: NONE };
}

impl Queue {
    const EMPTY: Self = Self { first: NONE, last: NONE, len: 0 };

    /// `index` must be in no queue.
    fn push_back<R>(&mut self, slots: &mut [Slot<R>], index: u32) {
        slots[index as usize].links = Links { previous: self.last, next: NONE };
        match slots.get_mut(self.last as usize) {
            Some(last) => last.links.next = index,
            None => self.first = index,
        }
        self.last = index;
        self.len += 1;
    }

    fn pop_front<R>(&mut self, slots: &mut [Slot<R>]) -> Option<u32> {
        let first = self.first;
        (first != NONE).then(|| {
            self.remove(slots, first);
            first
        })
    }

    /// `index` must be in this queue.
    fn remove<R>(&mut self, slots: &mut [Slot<R>], index: u32) {
        let Links { previous, next } = mem::replace(&mut slots[index as usize].links, Links::NONE);
        match slots.get_mut(previous as usize) {
            Some(previous) => previous.links.next = next,
            None => self.first = next,
        }
        match slots.get_mut(next as usize) {
            Some(next) => next.links.previous = previous,
            None => self.last = previous,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_small() {
        // 72 bytes is the size of an answer (status, content type, body). Growth by doubling may leave half of the
        // slots unused, and the promise is at most 2 KiB for all that a waiting request needs.
        assert!(size_of::<Slot<[u64; 9]>>() <= 128);
    }
}
