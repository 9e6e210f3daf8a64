//! The table of waiting requests: one per shard, owned by the shard's thread.
//!
//! `mint` takes a free slot and makes an id (the [`Ticket`]); `reserve` turns it into a [`Waiter`] once a permit is
//! held; `complete` wakes the waiter. Dropping a ticket or a waiter frees the slot.
//!
//! Foreign code (a waker, the drop of a reply, `make`) never runs while the table is borrowed, so it may call the table.

#[cfg(test)]
mod model;
mod slab;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use self::slab::Slab;
use super::id::{CorrelationId, Minter, SLOTS_MAX, ShardAddress};

/// Proof that a request may start. `admit::Permit` implements it; a [`Waiter`] cannot be made without one.
pub trait Admitted {
    /// The id that was admitted.
    fn id(&self) -> CorrelationId;
}

/// Every slot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the table of waiting requests is full")]
pub struct TableFull;

/// The deadline passed without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no reply within the deadline")]
pub struct Expired;

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Its request was waiting and has it now.
    Delivered,
    /// Its request already has an answer.
    Duplicate,
    /// Its request ended without it: expired, or the client left; also a genuine id whose slot serves another by now,
    /// or whose request does not wait yet.
    Late,
    /// The id was never made here: its address, slot or tag does not fit.
    Forged,
}

/// Handle of a shard's table; clones share it. `R` is what a waiter receives.
pub struct Table<R> {
    inner: Rc<RefCell<Inner<R>>>,
}

struct Inner<R> {
    minter: Minter,
    slab: Slab<R>,
}

/// A taken slot and its id, before admission. Frees the slot on drop.
#[must_use]
pub struct Ticket<R> {
    table: Table<R>,
    id: CorrelationId,
}

/// A request that waits for its reply. Move-only; frees the slot on drop, whatever the reason.
#[must_use]
pub struct Waiter<R> {
    ticket: Ticket<R>,
}

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<R> Table<R> {
    /// A table of at most `slots_max` waiting requests (at most 2^20). Empty it takes no memory; it grows as needed
    /// and keeps what it has.
    ///
    /// # Panics
    /// When `slots_max` or the address does not fit in its bits of an id, or the operating system has no random bytes.
    #[must_use]
    pub fn new(address: ShardAddress, slots_max: u32) -> Self {
        assert!(slots_max <= SLOTS_MAX, "an id has 20 bits for the slot");
        let inner = Inner { minter: Minter::new(address), slab: Slab::new(slots_max) };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Takes a free slot and makes an id for it.
    pub fn mint(&self) -> Result<Ticket<R>, TableFull> {
        let Inner { minter, slab } = &mut *self.inner.borrow_mut();
        let id = slab.mint(|slot| minter.mint(slot))?;
        Ok(Ticket { table: self.clone(), id })
    }

    /// Gives `reply` to the request that waits under `id`, once.
    pub fn complete(&self, id: CorrelationId, reply: R) -> Delivery {
        let outcome = self.inner.borrow_mut().slab.answer(id, reply);
        match outcome {
            Ok(waker) => {
                waker.wake();
                Delivery::Delivered
            }
            Err(reply) => {
                let delivery = self.inner.borrow().why_undelivered(id);
                drop(reply);
                delivery
            }
        }
    }

    /// Wakes every waiter whose deadline is at or before `now` with [`Expired`]; returns how many.
    ///
    /// Deadlines are looked at in the order of `reserve`. One that is earlier than that of a request reserved before
    /// it expires together with that one: late by as much as the two are out of order.
    #[allow(clippy::must_use_candidate, reason = "the count is for metrics; the wakes are what it is called for")]
    pub fn expire(&self, now: Instant) -> usize {
        // The bound matters only if a waker reserves again, with a deadline in the past.
        (0..self.waiting()).map_while(|_| self.expire_first(now)).count()
    }

    /// Gives every waiter what `make` returns: the end of the drain. Returns how many.
    pub fn complete_all(&self, mut make: impl FnMut() -> R) -> usize {
        (0..self.waiting()).map_while(|_| self.complete_first(&mut make)).count()
    }

    /// Requests that wait for a reply now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.borrow().slab.waiting() as usize
    }

    fn expire_first(&self, now: Instant) -> Option<()> {
        let waker = self.inner.borrow_mut().slab.expire_first(now)?;
        waker.wake();
        Some(())
    }

    fn complete_first(&self, make: &mut impl FnMut() -> R) -> Option<()> {
        if self.waiting() == 0 {
            return None; // an earlier wake or `make` ended the rest
        }
        let reply = make();
        let outcome = self.inner.borrow_mut().slab.answer_first(reply);
        outcome.ok()?.wake();
        Some(())
    }
}

impl<R> Inner<R> {
    /// `id` does not wait: why not?
    fn why_undelivered(&self, id: CorrelationId) -> Delivery {
        match self.slab.answered(id) {
            Some(true) => Delivery::Duplicate,
            Some(false) => Delivery::Late,
            None if self.slab.has_slot_of(id) && self.minter.made(id) => Delivery::Late,
            None => Delivery::Forged,
        }
    }
}

impl<R> Ticket<R> {
    /// The id under which the request will be admitted and answered.
    #[must_use]
    pub fn id(&self) -> CorrelationId {
        self.id
    }

    /// Starts to wait. `permit` must be for this ticket's id.
    ///
    /// # Panics
    /// When the permit is another request's: two requests were mixed up, and going on could mix up their answers.
    pub fn reserve(self, permit: &impl Admitted, deadline: Instant) -> Waiter<R> {
        assert_eq!(permit.id(), self.id, "a request waits under its own permit");
        self.table.inner.borrow_mut().slab.reserve(self.id, deadline);
        Waiter { ticket: self }
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        let remains = self.table.inner.borrow_mut().slab.release(self.id);
        drop(remains);
    }
}

impl<R> Waiter<R> {
    /// The id that the reply has to carry.
    #[must_use]
    pub fn id(&self) -> CorrelationId {
        self.ticket.id()
    }
}

impl<R> Future for Waiter<R> {
    type Output = Result<R, Expired>;

    /// # Panics
    /// When polled after it has given its output.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ticket { table, id } = &self.ticket;
        let known = table.inner.borrow().slab.wakes(*id, cx.waker());
        let fresh = (!known).then(|| cx.waker().clone());
        let (output, unneeded) = table.inner.borrow_mut().slab.poll(*id, fresh);
        drop(unneeded);
        output
    }
}
