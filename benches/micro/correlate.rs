//! A request's slot, its id, its share of a mailbox batch. The comparisons are what a plain version would use: a map
//! keyed by a UUID, or a slab, with a oneshot channel per request; tokio's and crossbeam's channels.

use std::collections::HashMap;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;
use thousandx::correlate::mailbox::mailbox;
use thousandx::correlate::{Admitted, CorrelationId, ShardAddress, Table, Waiter};
use thousandx::kafka::wire::{Answer, Outcome};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{Meter, OWN};

/// Requests in flight while one more is measured; the cost should not depend on it.
const IN_FLIGHT: [u32; 2] = [100, 100_000];
/// Replies that come to a shard together.
const BATCH: usize = 64;
const MAILBOX_BATCHES: usize = 16;
const ADDRESS: ShardAddress = ShardAddress { instance: 1, shard: 0 };

/// Stands in for a permit.
struct Granted(CorrelationId);

impl Admitted for Granted {
    fn id(&self) -> CorrelationId {
        self.0
    }
}

pub fn all(meter: &mut impl Meter) {
    for in_flight in IN_FLIGHT {
        table(meter, in_flight);
    }
    id(meter);
    batch(meter);
}

/// An id of a shard that answers nobody.
pub fn sample_id() -> CorrelationId {
    Table::<Outcome>::new(ADDRESS, 1).mint().expect("the table has room").id()
}

fn answer() -> Outcome {
    Outcome::Answer(Answer { status: 200, content_type: None, body: Bytes::from_static(b"{\"gift_code\":\"x\"}") })
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Take a slot, wait, get the reply, free the slot.
fn table(meter: &mut impl Meter, in_flight: u32) {
    let what = format!("request with {in_flight} in flight");
    let deadline = Instant::now() + Duration::from_secs(10);

    let table = Table::new(ADDRESS, 1 << 20);
    let others: Vec<_> = (0..in_flight).map(|_| reserve(&table, deadline)).collect();
    meter.measure(&what, OWN, || {
        let mut waiter = reserve(&table, deadline);
        let _ = black_box(poll(&mut waiter));
        table.complete(waiter.id(), answer());
        poll(&mut waiter)
    });
    drop((table, others));

    let mut map = HashMap::new();
    let others: Vec<_> = (0..in_flight).map(|_| map_reserve(&mut map).1).collect();
    meter.measure(&what, "HashMap, oneshot", || {
        let (id, mut waiter) = map_reserve(&mut map);
        let _ = black_box(poll(&mut waiter));
        map.remove(&id).map(|sender| sender.send(answer()));
        poll(&mut waiter)
    });
    drop((map, others));

    let mut slab = Slab::new();
    let others: Vec<_> = (0..in_flight).map(|_| slab_reserve(&mut slab).2).collect();
    meter.measure(&what, "slab, oneshot; no deadline", || {
        let (key, id, mut waiter) = slab_reserve(&mut slab);
        let _ = black_box(poll(&mut waiter));
        if slab.get(key).is_some_and(|(held, _)| *held == id) {
            let _ = slab.remove(key).1.send(answer());
        }
        poll(&mut waiter)
    });
    drop((slab, others));
}

fn reserve(table: &Table<Outcome>, deadline: Instant) -> Waiter<Outcome> {
    let ticket = table.mint().expect("the table has room");
    let permit = Granted(ticket.id());
    ticket.reserve(&permit, deadline)
}

fn map_reserve(map: &mut HashMap<Uuid, oneshot::Sender<Outcome>>) -> (Uuid, oneshot::Receiver<Outcome>) {
    let (sender, receiver) = oneshot::channel();
    let id = random_uuid();
    map.insert(id, sender);
    (id, receiver)
}

fn slab_reserve(slab: &mut Slab<(Uuid, oneshot::Sender<Outcome>)>) -> (usize, Uuid, oneshot::Receiver<Outcome>) {
    let (sender, receiver) = oneshot::channel();
    let id = random_uuid();
    (slab.insert((id, sender)), id, receiver)
}

/// As `Uuid::new_v4`, from the same kind of generator as ours.
fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

fn id(meter: &mut impl Meter) {
    let table: Table<Outcome> = Table::new(ADDRESS, 1 << 10);
    meter.measure("id: mint, with its slot", OWN, || table.mint().map(|ticket| ticket.id()));
    meter.measure("id: mint, with its slot", "uuid v4, no slot", random_uuid);

    let id = sample_id();
    let text = id.encode();
    let uuid = Uuid::from_bytes(id.to_bytes());
    meter.measure("id: to text", OWN, || black_box(id).encode());
    meter.measure("id: to text", "uuid to String", || black_box(uuid).to_string());
    meter.measure("id: from text", OWN, || CorrelationId::parse(black_box(&text)));
    meter.measure("id: from text", "uuid", || Uuid::try_parse_ascii(black_box(&text)));
}

/// A batch of replies from another thread's side to a shard that sleeps. The batch itself goes round and round.
fn batch(meter: &mut impl Meter) {
    let what = format!("mailbox: {BATCH} replies");
    let mut batch: Vec<Outcome> = (0..BATCH).map(|_| answer()).collect();

    let (sender, mut receiver) = mailbox(MAILBOX_BATCHES);
    meter.measure(&what, OWN, || {
        let mut receive = pin!(receiver.recv());
        let _ = black_box(poll(&mut receive));
        let _ = sender.post(std::mem::take(&mut batch));
        if let Poll::Ready(Some(back)) = poll(&mut receive) {
            batch = back;
        }
    });

    let (sender, mut receiver) = mpsc::channel(MAILBOX_BATCHES);
    meter.measure(&what, "tokio mpsc, a batch", || {
        let mut receive = pin!(receiver.recv());
        let _ = black_box(poll(&mut receive));
        let _ = sender.try_send(std::mem::take(&mut batch));
        if let Poll::Ready(Some(back)) = poll(&mut receive) {
            batch = back;
        }
    });

    // Cannot wake an async receiver: the lower bound of a channel, not a replacement.
    let (sender, receiver) = crossbeam::channel::bounded(MAILBOX_BATCHES);
    meter.measure(&what, "crossbeam, a batch, no wake", || {
        let _ = sender.try_send(std::mem::take(&mut batch));
        if let Ok(back) = receiver.try_recv() {
            batch = back;
        }
    });

    let (sender, mut receiver) = mpsc::channel(BATCH);
    meter.measure(&what, "tokio mpsc, one by one", || {
        let mut context = Context::from_waker(Waker::noop());
        let _ = black_box(receiver.poll_recv(&mut context));
        for reply in batch.drain(..) {
            let _ = sender.try_send(reply);
        }
        while let Poll::Ready(Some(reply)) = receiver.poll_recv(&mut context) {
            batch.push(reply);
        }
    });
}
