//! A drain under every interleaving that `check` allows: the main thread moves the phase on, shards take and give back
//! permits of the counter that they share, replies come or not.
//!
//! On a shard, cut-off, reply and the client's end come one after the other, in any order; what varies between threads
//! is when the shard sees the phase, when the reply is in its mailbox, and who has the permits.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use loom::sync::Arc;
use loom::thread;
use thousandx_loom::check;
use thousandx_loom::correlate::mailbox::{Receiver, mailbox};
use thousandx_loom::correlate::{Admitted, CorrelationId, Delivery, ShardAddress, Table, Waiter};
use thousandx_loom::counter::Counter;
use thousandx_loom::lifecycle::{Lifecycle, Phase};

/// What a request can be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Reply,
    Draining,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Not taken: the process is going.
    Refused,
    /// Not taken: no permit.
    Busy,
    Answered(Outcome),
    /// The client left, or the shard with it.
    Left,
}

/// As `admit::Permit` of the local limiter: given back on drop.
struct Permit {
    id: CorrelationId,
    counter: Arc<Counter>,
}

impl Permit {
    fn acquire(id: CorrelationId, counter: &Arc<Counter>) -> Option<Self> {
        counter.acquire().then(|| Self { id, counter: Arc::clone(counter) })
    }
}

impl Admitted for Permit {
    fn id(&self) -> CorrelationId {
        self.id
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counter.release();
    }
}

fn table() -> Table<Outcome> {
    Table::new(ShardAddress { instance: 1, shard: 0 }, 1)
}

fn poll(waiter: &mut Waiter<Outcome>) -> Option<Outcome> {
    match Pin::new(waiter).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome.expect("nothing expires here")),
        Poll::Pending => None,
    }
}

/// The request path's order: look at the phase, take a slot, take a permit, wait.
fn admit(table: &Table<Outcome>, counter: &Arc<Counter>, life: &Lifecycle) -> Result<(Permit, Waiter<Outcome>), End> {
    if life.phase() == Phase::Closed {
        return Err(End::Refused);
    }
    let ticket = table.mint().expect("the slot is free");
    let permit = Permit::acquire(ticket.id(), counter).ok_or(End::Busy)?;
    let waiter = ticket.reserve(&permit, Instant::now());
    Ok((permit, waiter))
}

/// One turn of a shard: its replies, then what the phase asks for, then the end.
fn turn(
    table: &Table<Outcome>,
    waiter: &mut Waiter<Outcome>,
    replies: &mut Receiver<CorrelationId>,
    life: &Lifecycle,
) -> End {
    for id in replies.try_recv().into_iter().flatten() {
        assert_eq!(table.complete(id, Outcome::Reply), Delivery::Delivered);
    }
    if life.phase() == Phase::Closed {
        let cut_off = table.complete_all(|| Outcome::Draining);
        assert!(cut_off <= 1 && table.waiting() == 0);
    }
    poll(waiter).map_or(End::Left, End::Answered)
}

/// Reply, cut-off and a client that leaves: whichever comes first, the request has one end, and its permit is back.
#[test]
fn a_request_that_the_drain_meets_ends_once_and_gives_its_permit_back() {
    check(|| {
        let (life, counter, table) = (Lifecycle::new(), Arc::new(Counter::new(1)), table());
        let (sender, mut replies) = mailbox(1);
        let (permit, mut waiter) = admit(&table, &counter, &life).unwrap_or_else(|end| panic!("{end:?}"));
        let id = waiter.id();
        let reader = thread::spawn(move || sender.post(vec![id]).is_ok());
        let main = {
            let life = Arc::clone(&life);
            thread::spawn(move || {
                life.advance(Phase::Draining);
                life.advance(Phase::Closed);
            })
        };

        let end = turn(&table, &mut waiter, &mut replies, &life);
        drop(permit);
        drop(waiter);
        assert!(matches!(end, End::Answered(_) | End::Left), "{end:?}");
        assert_eq!((counter.in_use(), table.waiting()), (0, 0));
        // What comes after the end finds nobody, and never the next request.
        if let Ok((_permit, next)) = admit(&table, &counter, &life) {
            for late in replies.try_recv().into_iter().flatten() {
                assert!(end != End::Answered(Outcome::Reply), "the reply came twice");
                assert_eq!(table.complete(late, Outcome::Reply), Delivery::Late);
            }
            assert_eq!((table.waiting(), counter.in_use()), (1, 1));
            drop(next);
        }
        drop(replies);
        reader.join().unwrap();
        main.join().unwrap();
        assert_eq!((counter.in_use(), table.waiting()), (0, 0));
        assert_eq!(admit(&table, &counter, &life).err(), Some(End::Refused), "the phase is seen after all");
    });
}

/// Two shards share one permit while the main thread ends the process: at most one has it, and it is back at the end.
#[test]
fn shards_that_end_leave_no_permit_behind() {
    check(|| {
        let (life, counter) = (Lifecycle::new(), Arc::new(Counter::new(1)));
        let shard = {
            let (life, counter) = (Arc::clone(&life), Arc::clone(&counter));
            thread::spawn(move || live(&counter, &life))
        };
        let main = {
            let life = Arc::clone(&life);
            thread::spawn(move || life.advance(Phase::Closed))
        };
        let ends = [live(&counter, &life), shard.join().unwrap()];
        main.join().unwrap();
        assert_eq!(counter.in_use(), 0, "{ends:?}");
        assert_ne!(ends, [End::Busy, End::Busy], "somebody had the permit");
    });
}

/// A shard from its request to its end; nobody answers.
fn live(counter: &Arc<Counter>, life: &Lifecycle) -> End {
    let table = table();
    let (_sender, mut replies) = mailbox(1);
    match admit(&table, counter, life) {
        Ok((_permit, mut waiter)) => {
            assert_eq!(counter.in_use(), 1);
            turn(&table, &mut waiter, &mut replies, life)
        }
        Err(end) => end,
    }
}

/// The phase goes one way, whoever moves it, and what was done before a move is seen by who sees the move.
#[test]
fn the_phase_never_goes_back_and_brings_what_came_before_it() {
    check(|| {
        let life = Lifecycle::new();
        let part = life.register("part");
        let threads = [Phase::Running, Phase::Closed].map(|phase| {
            let (life, part) = (Arc::clone(&life), part.clone());
            thread::spawn(move || {
                part.set_ready(true);
                life.advance(phase);
            })
        });
        let first = life.phase();
        let ready = first == Phase::Starting || part.is_ready();
        assert!(ready, "set before the phase moved");
        assert!(life.phase() >= first);
        assert!(!(life.is_ready() && first == Phase::Closed), "a process that is going is not ready");
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(life.phase(), Phase::Closed);
        assert!(!life.is_ready());
    });
}
