//! Mailbox and table together, under every interleaving that `check` allows: the reply reader posts while the shard's client leaves and
//! another takes its slot. The table belongs to the shard's thread; what varies is when the batches arrive.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use loom::future::block_on;
use loom::thread;
use thousandx_loom::check;
use thousandx_loom::correlate::mailbox::{Sender, mailbox};
use thousandx_loom::correlate::{Admitted, CorrelationId, Delivery, Expired, ShardAddress, Table, Waiter};

type Reply = (CorrelationId, &'static str);

struct Granted(CorrelationId);

impl Admitted for Granted {
    fn id(&self) -> CorrelationId {
        self.0
    }
}

/// One slot only, so that whoever comes next is in the slot of who left.
fn table() -> Table<&'static str> {
    Table::new(ShardAddress { instance: 1, shard: 0 }, 1)
}

fn wait(table: &Table<&'static str>) -> Waiter<&'static str> {
    let ticket = table.mint().expect("the slot is free");
    let permit = Granted(ticket.id());
    ticket.reserve(&permit, Instant::now())
}

fn poll(waiter: &mut Waiter<&'static str>) -> Poll<Result<&'static str, Expired>> {
    Pin::new(waiter).poll(&mut Context::from_waker(Waker::noop()))
}

fn reader(sender: Sender<Reply>, reply: Reply) -> thread::JoinHandle<()> {
    thread::spawn(move || sender.post(vec![reply]).expect("there is room"))
}

#[test]
fn a_reply_reaches_its_request_or_nobody_and_the_slot_is_freed_once() {
    check(|| {
        let table = table();
        let (sender, mut receiver) = mailbox(1);
        let mut first = wait(&table);
        let first_id = first.id();
        let thread = reader(sender, (first_id, "for the first"));

        // The client leaves: just after its reply came, or before.
        let early = receiver.try_recv().into_iter().flatten().next();
        if let Some((id, reply)) = early {
            assert_eq!(table.complete(id, reply), Delivery::Delivered);
            assert_eq!(poll(&mut first), Poll::Ready(Ok("for the first")));
        }
        drop(first);

        let mut second = wait(&table);
        assert_eq!(second.id().slot(), first_id.slot());
        block_on(async {
            while let Some(batch) = receiver.recv().await {
                assert!(early.is_none(), "the batch came twice");
                for (id, reply) in batch {
                    assert_eq!(table.complete(id, reply), Delivery::Late);
                }
            }
        });
        assert_eq!(poll(&mut second), Poll::Pending, "nobody gets another's reply");
        assert_eq!(table.waiting(), 1);

        drop(second);
        let only = table.mint().expect("the slot is free again");
        assert!(table.mint().is_err(), "and it was freed once");
        drop(only);
        thread.join().unwrap();
    });
}

#[test]
fn of_two_replies_the_first_wins() {
    check(|| {
        let table = table();
        let (sender, mut receiver) = mailbox(2);
        let mut waiter = wait(&table);
        let threads = [reader(sender.clone(), (waiter.id(), "one")), reader(sender, (waiter.id(), "another"))];

        let mut deliveries = Vec::new();
        let mut winner = None;
        block_on(async {
            while let Some(batch) = receiver.recv().await {
                for (id, reply) in batch {
                    winner.get_or_insert(reply);
                    deliveries.push(table.complete(id, reply));
                }
            }
        });
        assert_eq!(deliveries, [Delivery::Delivered, Delivery::Duplicate]);
        assert_eq!(poll(&mut waiter), Poll::Ready(Ok(winner.unwrap())));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
