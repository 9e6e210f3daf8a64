//! One test per transition; `model` walks random sequences of them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::*;

/// A permit for whatever id it is told.
pub(super) struct Granted(pub(super) CorrelationId);

impl Admitted for Granted {
    fn id(&self) -> CorrelationId {
        self.0
    }
}

#[derive(Default)]
pub(super) struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A waker and what it counts.
fn counted() -> (Arc<Wakes>, Waker) {
    let wakes = Arc::new(Wakes::default());
    (Arc::clone(&wakes), Waker::from(wakes))
}

pub(super) fn table<R>(slots_max: u32) -> Table<R> {
    Table::new(ShardAddress { instance: 1, shard: 2 }, slots_max)
}

fn wait<R>(table: &Table<R>, deadline: Instant) -> Waiter<R> {
    let ticket = table.mint().ok().unwrap();
    let permit = Granted(ticket.id());
    ticket.reserve(&permit, deadline)
}

pub(super) fn poll<R>(waiter: &mut Waiter<R>, waker: &Waker) -> Poll<Result<R, Expired>> {
    Pin::new(waiter).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_reply_wakes_its_waiter_and_is_given_once() {
    let table = table(4);
    let (count, waker) = counted();
    let mut waiter = wait(&table, Instant::now());
    assert_eq!(poll(&mut waiter, &waker), Poll::Pending);
    assert_eq!(table.waiting(), 1);

    assert_eq!(table.complete(waiter.id(), "first"), Delivery::Delivered);
    assert_eq!((count.get(), table.waiting()), (1, 0));
    assert_eq!(table.complete(waiter.id(), "second"), Delivery::Duplicate, "not picked up yet");
    assert_eq!(poll(&mut waiter, &waker), Poll::Ready(Ok("first")));
    assert_eq!(table.complete(waiter.id(), "third"), Delivery::Duplicate, "picked up");
    let id = waiter.id();
    drop(waiter);
    assert_eq!(table.complete(id, "fourth"), Delivery::Duplicate, "slot free");
    assert_eq!(count.get(), 1);
}

#[test]
fn only_the_waker_of_the_last_poll_is_kept() {
    let table = table(4);
    let ((old, old_waker), (new, new_waker)) = (counted(), counted());
    let mut waiter = wait(&table, Instant::now());
    assert!(poll(&mut waiter, &old_waker).is_pending());
    assert!(poll(&mut waiter, &new_waker).is_pending());
    drop(old_waker);
    assert_eq!(Arc::strong_count(&old), 1);
    table.complete(waiter.id(), ());
    assert_eq!((old.get(), new.get()), (0, 1));
}

#[test]
#[should_panic(expected = "polled after")]
fn an_output_is_not_given_twice() {
    let table = table(4);
    let mut waiter = wait(&table, Instant::now());
    table.complete(waiter.id(), ());
    let _ = poll(&mut waiter, Waker::noop());
    let _ = poll(&mut waiter, Waker::noop());
}

#[test]
fn waiters_expire_at_their_deadline_in_order() {
    let table = table(4);
    let start = Instant::now();
    let mut waiters: Vec<_> = [1, 2, 3].map(|s| wait(&table, start + Duration::from_secs(s))).into();
    assert_eq!(table.expire(start), 0);
    assert_eq!(table.expire(start + Duration::from_secs(2)), 2);
    assert_eq!(table.complete(waiters[0].id(), ()), Delivery::Late);
    assert_eq!(poll(&mut waiters[0], Waker::noop()), Poll::Ready(Err(Expired)));
    assert_eq!(poll(&mut waiters[1], Waker::noop()), Poll::Ready(Err(Expired)));
    assert_eq!(poll(&mut waiters[2], Waker::noop()), Poll::Pending);
    assert_eq!(table.complete(waiters[1].id(), ()), Delivery::Late);
    assert_eq!(table.waiting(), 1);
}

#[test]
fn a_deadline_behind_a_later_one_expires_with_it() {
    let table: Table<()> = table(4);
    let start = Instant::now();
    let _later = wait(&table, start + Duration::from_secs(2));
    let _earlier = wait(&table, start + Duration::from_secs(1));
    assert_eq!(table.expire(start + Duration::from_secs(1)), 0);
    assert_eq!(table.expire(start + Duration::from_secs(2)), 2);
}

#[test]
fn a_client_that_leaves_frees_its_slot_and_gets_nothing() {
    let table = table(1);
    let waiter = wait(&table, Instant::now());
    let left = waiter.id();
    assert!(table.mint().is_err(), "full");
    drop(waiter);
    assert_eq!(table.waiting(), 0);
    assert_eq!(table.complete(left, "reply"), Delivery::Late);

    let mut next = wait(&table, Instant::now());
    assert_eq!(next.id().slot(), left.slot());
    assert_eq!(table.complete(left, "reply"), Delivery::Late, "the slot is another's now");
    assert_eq!(poll(&mut next, Waker::noop()), Poll::Pending);
}

#[test]
fn a_ticket_alone_holds_a_slot_but_does_not_wait() {
    let table = table(1);
    let ticket = table.mint().ok().unwrap();
    assert!(table.mint().is_err());
    assert_eq!(table.waiting(), 0);
    assert_eq!(table.complete(ticket.id(), ()), Delivery::Late);
    drop(ticket);
    assert!(table.mint().is_ok());
}

#[test]
fn ids_of_others_are_forged() {
    let table = table(8);
    let waiter = wait(&table, Instant::now());
    let mut flipped_tag = waiter.id().to_bytes();
    flipped_tag[7] ^= 1;
    let flipped_tag = CorrelationId::parse(&flipped_tag).unwrap();
    let other_shard = Minter::new(ShardAddress { instance: 1, shard: 3 }).mint(0);
    let other_instance = Minter::new(ShardAddress { instance: 2, shard: 2 }).mint(0);
    let no_such_slot = Minter::new(ShardAddress { instance: 1, shard: 2 }).mint(8);
    for id in [flipped_tag, other_shard, other_instance, no_such_slot] {
        assert_eq!(table.complete(id, ()), Delivery::Forged, "{id}");
    }
    assert_eq!(table.waiting(), 1);
}

#[test]
fn the_end_of_the_drain_answers_every_waiter() {
    let table = table(4);
    let mut waiters = [wait(&table, Instant::now()), wait(&table, Instant::now())];
    table.complete(waiters[0].id(), 7);
    let (gone, late) = (wait(&table, Instant::now()), wait(&table, Instant::now()));
    drop(gone);
    assert_eq!(table.complete_all(|| 503), 2);
    assert_eq!(table.waiting(), 0);
    assert_eq!(poll(&mut waiters[0], Waker::noop()), Poll::Ready(Ok(7)));
    assert_eq!(poll(&mut waiters[1], Waker::noop()), Poll::Ready(Ok(503)));
    assert_eq!(table.complete(late.id(), 8), Delivery::Duplicate);
}

#[test]
#[should_panic(expected = "its own permit")]
fn a_permit_of_another_request_is_a_bug() {
    let table: Table<()> = table(4);
    let (one, two) = (table.mint().ok().unwrap(), table.mint().ok().unwrap());
    drop(one.reserve(&Granted(two.id()), Instant::now()));
}

#[test]
fn a_free_slot_rests_while_others_are_used() {
    let table = table(1_000);
    let waiter = wait(&table, Instant::now());
    let first = waiter.id();
    table.complete(first, ());
    drop(waiter);
    let slots: Vec<_> = (0..64).map(|_| table.mint().ok().unwrap().id().slot()).collect();
    assert!(!slots.contains(&first.slot()));
    assert_eq!(table.complete(first, ()), Delivery::Duplicate, "still known");
    assert_eq!(table.mint().ok().unwrap().id().slot(), first.slot(), "no growth without need");
}

/// Calls the table whenever it is dropped or woken, as the end of a task may.
struct Caller {
    table: Table<Rc<Caller>>,
    calls: Cell<usize>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        assert!(self.table.mint().is_ok());
        self.calls.set(self.calls.get() + 1);
    }
}

#[test]
fn replies_may_call_the_table_while_they_are_dropped() {
    let table: Table<Rc<Caller>> = table(8);
    let reply = || Rc::new(Caller { table: table.clone(), calls: Cell::new(0) });
    let waiter = wait(&table, Instant::now());
    assert_eq!(table.complete(waiter.id(), reply()), Delivery::Delivered);
    assert_eq!(table.complete(waiter.id(), reply()), Delivery::Duplicate);
    drop(waiter);
    let _waiting = wait(&table, Instant::now());
    let made = table.complete_all(|| {
        assert_eq!(table.waiting(), 1);
        reply()
    });
    assert_eq!(made, 1);
}

#[test]
fn dropping_the_last_waiter_in_make_is_no_error() {
    let table: Table<()> = table(8);
    let waiters = Cell::new(vec![wait(&table, Instant::now()), wait(&table, Instant::now())]);
    assert_eq!(table.complete_all(|| drop(waiters.take())), 0);
    assert_eq!(table.waiting(), 0);
}
