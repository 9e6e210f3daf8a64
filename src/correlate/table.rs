//! The table of waiting requests: one per shard, owned by the shard's thread.
//!
//! `mint` takes a free slot and makes an id (the [`Ticket`]); `reserve` turns it into a [`Waiter`] once a permit is
//! held; `complete` wakes the waiter. Dropping a ticket or a waiter frees the slot.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::id::{CorrelationId, ShardAddress};

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
    /// Its request ended without it: expired, or the client left; also a genuine id whose slot serves another by now.
    Late,
    /// The id was never made here: its tag does not fit.
    Forged,
}

/// Handle of a shard's table; clones share it. `R` is what a waiter receives.
pub struct Table<R> {
    inner: Rc<PhantomData<R>>,
}

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<R> Table<R> {
    /// A table of at most `slots_max` waiting requests (at most 2^20).
    #[must_use]
    pub fn new(address: ShardAddress, slots_max: u32) -> Self {
        let _ = (address, slots_max);
        todo!()
    }

    /// Takes a free slot and makes an id for it.
    pub fn mint(&self) -> Result<Ticket<R>, TableFull> {
        todo!()
    }

    /// Gives `reply` to the request that waits under `id`, once.
    pub fn complete(&self, id: CorrelationId, reply: R) -> Delivery {
        let _ = (id, reply);
        todo!()
    }

    /// Wakes every waiter whose deadline is at or before `now` with [`Expired`]; returns how many.
    pub fn expire(&self, now: Instant) -> usize {
        let _ = now;
        todo!()
    }

    /// Gives every waiter what `make` returns: the end of the drain. Returns how many.
    pub fn complete_all(&self, make: impl FnMut() -> R) -> usize {
        let _ = make;
        todo!()
    }

    /// Requests that wait for a reply now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        todo!()
    }
}

/// A taken slot and its id, before admission. Frees the slot on drop.
#[must_use]
pub struct Ticket<R> {
    table: Table<R>,
}

impl<R> Ticket<R> {
    /// The id under which the request will be admitted and answered.
    #[must_use]
    pub fn id(&self) -> CorrelationId {
        let _ = &self.table;
        todo!()
    }

    /// Starts to wait. `permit` must be for this ticket's id.
    pub fn reserve(self, permit: &impl Admitted, deadline: Instant) -> Waiter<R> {
        let _ = (permit, deadline);
        todo!()
    }
}

/// A request that waits for its reply. Move-only; frees the slot on drop, whatever the reason.
#[must_use]
pub struct Waiter<R> {
    ticket: Ticket<R>,
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

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}
