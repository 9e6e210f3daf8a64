//! What correlation costs a request, in four parts: its slot, its id's text form there and back, and its share of a
//! mailbox batch. The comparisons are what a plain version would use: a map keyed by a UUID with a oneshot channel
//! per request, and the `uuid` crate by itself. Seconds, not minutes: `cargo bench --bench correlate`.

use std::collections::HashMap;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use thousandx::correlate::mailbox::mailbox;
use thousandx::correlate::{Admitted, CorrelationId, ShardAddress, Table, Waiter};
use tokio::sync::oneshot;
use uuid::Uuid;

/// As large as an answer: status, content type, body.
type Reply = [u64; 9];

/// Requests in flight while one more is measured; the cost should not depend on it.
const IN_FLIGHT: [u32; 2] = [100, 100_000];
const BATCH: u64 = 64;

struct Granted(CorrelationId);

impl Admitted for Granted {
    fn id(&self) -> CorrelationId {
        self.0
    }
}

fn reserve(table: &Table<Reply>, deadline: Instant) -> Waiter<Reply> {
    let ticket = table.mint().expect("the table has room");
    let permit = Granted(ticket.id());
    ticket.reserve(&permit, deadline)
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn slot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let deadline = Instant::now() + Duration::from_secs(10);
    for in_flight in IN_FLIGHT {
        let table = Table::new(ShardAddress { instance: 1, shard: 0 }, 1 << 20);
        let _others: Vec<_> = (0..in_flight).map(|_| reserve(&table, deadline)).collect();
        group.bench_function(format!("table, {in_flight} in flight"), |bencher| {
            bencher.iter(|| {
                let mut waiter = reserve(&table, deadline);
                let _ = black_box(poll(&mut waiter));
                table.complete(waiter.id(), Reply::default());
                poll(&mut waiter)
            });
        });

        let mut map = HashMap::new();
        let _others: Vec<_> = (0..in_flight).map(|_| map_reserve(&mut map).1).collect();
        group.bench_function(format!("map and oneshot, {in_flight} in flight"), |bencher| {
            bencher.iter(|| {
                let (id, mut waiter) = map_reserve(&mut map);
                let _ = black_box(poll(&mut waiter));
                map.remove(&id).map(|sender| sender.send(Reply::default()));
                poll(&mut waiter)
            });
        });
    }
    let table: Table<Reply> = Table::new(ShardAddress { instance: 1, shard: 0 }, 1 << 10);
    group.bench_function("mint and drop", |bencher| bencher.iter(|| table.mint().map(|ticket| ticket.id())));
    group.finish();
}

fn map_reserve(map: &mut HashMap<Uuid, oneshot::Sender<Reply>>) -> (Uuid, oneshot::Receiver<Reply>) {
    let (sender, receiver) = oneshot::channel();
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    map.insert(id, sender);
    (id, receiver)
}

fn id(criterion: &mut Criterion) {
    let table: Table<Reply> = Table::new(ShardAddress { instance: 1, shard: 0 }, 1);
    let id = table.mint().expect("the table has room").id();
    let text = id.encode();
    let uuid = Uuid::from_bytes(id.to_bytes());

    let mut group = criterion.benchmark_group("id");
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(id).encode()));
    group.bench_function("encode, uuid to String", |bencher| bencher.iter(|| black_box(uuid).to_string()));
    group.bench_function("parse", |bencher| bencher.iter(|| CorrelationId::parse(black_box(&text))));
    group.bench_function("parse, uuid", |bencher| bencher.iter(|| Uuid::try_parse_ascii(black_box(&text))));
    group.finish();
}

fn batch(criterion: &mut Criterion) {
    let (sender, mut receiver) = mailbox::<Reply>(16);
    let mut group = criterion.benchmark_group("mailbox");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function(format!("post and receive {BATCH}"), |bencher| {
        bencher.iter_batched(
            || vec![Reply::default(); usize::try_from(BATCH).expect("a small number")],
            |batch| {
                let mut receive = std::pin::pin!(receiver.recv());
                let _ = black_box(poll(&mut receive));
                let posted = sender.post(batch);
                (posted, poll(&mut receive))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = slot, id, batch
}
criterion_main!(benches);
